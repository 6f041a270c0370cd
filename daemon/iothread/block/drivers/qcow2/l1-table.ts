// SPDX-License-Identifier: Apache-2.0
// The active L1 table, whole in memory. Changed in memory; the commit writes the sectors that differ.

import { formatL1Entry, parseL1Entry } from '../../../../../protocol/qcow2/entries.js'
import { SECTOR } from '../../node.js'
import type { Image } from './image.js'

export class L1Table {
  readonly #image: Image
  #view: DataView = new DataView(new ArrayBuffer(0))
  /** Numbers of sectors that differ from the disk. */
  readonly #dirty = new Set<number>()

  constructor(image: Image) {
    this.#image = image
  }

  async load(): Promise<void> {
    const { l1Offset, l1Size } = this.#image.header
    const bytes = await this.#image.read(l1Offset, l1Size * 8)
    this.use(bytes)
  }

  /** Takes other bytes, which the disk has already. */
  use(bytes: Uint8Array): void {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#dirty.clear()
  }

  get size(): number {
    return this.#view.byteLength / 8
  }
  get dirty(): boolean {
    return this.#dirty.size > 0
  }
  get bytes(): Uint8Array {
    return new Uint8Array(this.#view.buffer, this.#view.byteOffset, this.#view.byteLength)
  }

  /** Whether nothing is below an entry: the test that sparse images need often. */
  isEmpty(index: number): boolean {
    return this.#view.getUint32(index * 8 + 4) === 0 && this.#view.getUint32(index * 8) === 0
  }

  get(index: number): { readonly offset: number; readonly copied: boolean; readonly reserved: boolean } {
    return parseL1Entry(this.#view, index * 8)
  }

  /** @param offset  host offset of an L2 table that is this image's alone, 0 = none */
  set(index: number, offset: number): void {
    formatL1Entry(this.#view, index * 8, { offset, copied: offset !== 0 })
    this.#dirty.add(Math.floor((index * 8) / SECTOR))
  }

  async writeBack(): Promise<void> {
    const sectors = [...this.#dirty].sort((a, b) => a - b)
    this.#dirty.clear()
    try {
      for (const sector of sectors) {
        const bytes = this.bytes.slice(sector * SECTOR, (sector + 1) * SECTOR)
        await this.#image.write(this.#image.header.l1Offset + sector * SECTOR, bytes)
      }
    } catch (error) {
      for (const sector of sectors) this.#dirty.add(sector)
      throw error
    }
  }
}
