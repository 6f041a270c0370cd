// SPDX-License-Identifier: Apache-2.0
// An image file under the knife: reads where its tables are and changes single fields, as a broken disk or an attacker
// would. Also builds a small valid image byte by byte.

import { readFileSync, writeFileSync } from 'node:fs'
import { formatHeader, type Header, parseHeader } from '../../protocol/qcow2/header.js'
import { setRefcount } from '../../protocol/qcow2/refcount-block.js'

export class ImageFile {
  readonly #filename: string
  bytes: Buffer<ArrayBuffer>

  /** @param bytes  default: what the file holds */
  constructor(filename: string, bytes: Buffer<ArrayBuffer> = Buffer.from(readFileSync(filename))) {
    this.#filename = filename
    this.bytes = bytes
  }

  get header(): Header {
    return parseHeader(this.bytes.subarray(0, 2 ** this.bytes.readUInt32BE(20)))
  }
  get clusterSize(): number {
    return 2 ** this.header.clusterBits
  }

  u64(at: number): bigint {
    return this.bytes.readBigUInt64BE(at)
  }
  set64(at: number, value: bigint): void {
    this.bytes.writeBigUInt64BE(value, at)
  }
  set32(at: number, value: number): void {
    this.bytes.writeUInt32BE(value, at)
  }

  /** Where an entry of the active L1 table stands. */
  l1At(index: number): number {
    return this.header.l1Offset + index * 8
  }
  /** Where the L2 entry of a guest cluster stands; its table is there. */
  l2At(index: number, entryBytes = 8): number {
    const perTable = this.clusterSize / entryBytes
    const table = Number(this.u64(this.l1At(Math.floor(index / perTable))) & 0x00ff_ffff_ffff_fe00n)
    return table + (index % perTable) * entryBytes
  }
  /** Where an entry of the refcount table stands. */
  refTableAt(index: number): number {
    return this.header.refcountTableOffset + index * 8
  }
  setRefcount(cluster: number, value: number): void {
    const order = this.header.refcountOrder
    const perBlock = (this.clusterSize * 8) / 2 ** order
    const block = Number(this.u64(this.refTableAt(Math.floor(cluster / perBlock))))
    const view = new DataView(this.bytes.buffer, this.bytes.byteOffset + block, this.clusterSize)
    setRefcount(view, cluster % perBlock, order, value)
  }

  save(filename = this.#filename): void {
    writeFileSync(filename, this.bytes)
  }
}

/**
 * A valid image of version 3, clusters of 4 KiB, 1 MiB of disk: header, refcount table, refcount block, L1, L2, and one
 * cluster of data, in this order.
 */
export function smallImage(change: Partial<Header> = {}): Buffer<ArrayBuffer> {
  const size = 4096
  const bytes = Buffer.alloc(6 * size)
  const header: Header = {
    version: 3,
    clusterBits: 12,
    size: 2 ** 20,
    encryption: 'none',
    l1Size: 1,
    l1Offset: 3 * size,
    refcountTableOffset: size,
    refcountTableClusters: 1,
    snapshotCount: 0,
    snapshotsOffset: 0,
    incompatible: new Set(),
    compatible: new Set(),
    autoclear: new Set(),
    refcountOrder: 4,
    headerLength: 112,
    unknownFields: new Uint8Array(0),
    compression: 'zlib',
    extensions: [],
    backingFile: undefined,
    ...change,
  }
  bytes.set(formatHeader(header))
  bytes.writeBigUInt64BE(BigInt(2 * size), size)
  for (let cluster = 0; cluster < 6; cluster++) bytes.writeUInt16BE(1, 2 * size + cluster * 2)
  bytes.writeBigUInt64BE((1n << 63n) | BigInt(4 * size), 3 * size)
  bytes.writeBigUInt64BE((1n << 63n) | BigInt(5 * size), 4 * size)
  bytes.fill(0x5a, 5 * size)
  return bytes
}
