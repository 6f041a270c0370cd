// SPDX-License-Identifier: Apache-2.0
// Storage that a qcow2 file takes up for clusters that nobody uses: what its writer did not give back. Beside what
// qemu-img says of the disk it tells what became of a discard, whatever places the writer chose.

import { closeSync, openSync, readSync } from 'node:fs'
import { parseHeader } from '../../protocol/qcow2/header.js'
import { getRefcount } from '../../protocol/qcow2/refcount-block.js'
import { mustQemuImg } from './check-image.js'

interface MapEntry {
  readonly start: number
  readonly length: number
  readonly data: boolean
}

/** @returns bytes */
export function freeStorage(filename: string): number {
  const file = openSync(filename, 'r')
  try {
    const counts = new Counts(file)
    let found = 0
    const extents = JSON.parse(mustQemuImg('map', '-f', 'raw', '--output=json', filename)) as MapEntry[]
    for (const { start, length, data } of extents) {
      if (!data) continue
      const { clusterSize } = counts
      for (let at = start; at < start + length; ) {
        const end = Math.min(start + length, (Math.floor(at / clusterSize) + 1) * clusterSize)
        if (counts.isFree(Math.floor(at / clusterSize))) found += end - at
        at = end
      }
    }
    return found
  } finally {
    closeSync(file)
  }
}

class Counts {
  readonly clusterSize: number
  readonly #file: number
  readonly #order: number
  readonly #table: DataView
  readonly #blocks = new Map<number, DataView>()

  constructor(file: number) {
    this.#file = file
    this.clusterSize = 2 ** this.#read(0, 512).getUint32(20)
    const header = parseHeader(new Uint8Array(this.#read(0, this.clusterSize).buffer))
    this.#order = header.refcountOrder
    this.#table = this.#read(header.refcountTableOffset, header.refcountTableClusters * this.clusterSize)
  }

  isFree(cluster: number): boolean {
    const perBlock = (this.clusterSize * 8) / 2 ** this.#order
    const index = Math.floor(cluster / perBlock)
    const offset = index * 8 < this.#table.byteLength ? Number(this.#table.getBigUint64(index * 8)) : 0
    if (offset === 0) return true
    const block = this.#blocks.get(offset) ?? this.#read(offset, this.clusterSize)
    this.#blocks.set(offset, block)
    return getRefcount(block, cluster % perBlock, this.#order) === 0
  }

  #read(offset: number, length: number): DataView {
    const bytes = new Uint8Array(length)
    readSync(this.#file, bytes, 0, length, offset)
    return new DataView(bytes.buffer)
  }
}
