// SPDX-License-Identifier: Apache-2.0
// The refcounts an image itself keeps: its refcount table and, through a bounded cache, its refcount blocks.
// Used by compare.ts and copied.ts; rebuild.ts replaces it.

import { viewOf } from '../../../../../../protocol/qcow2/bytes.js'
import { parseRefcountTableEntry } from '../../../../../../protocol/qcow2/entries.js'
import { getRefcount, setRefcount } from '../../../../../../protocol/qcow2/refcount-block.js'
import { type Checked, clusterCount, countRange } from './image.js'

/** Bytes of refcount blocks held. */
const CACHE_BYTES = 16 * 2 ** 20

interface Block {
  readonly offset: number
  readonly view: DataView
  dirty: boolean
}

export class Refcounts {
  readonly #checked: Checked
  readonly #table: DataView
  readonly #cache = new Map<number, Block>()
  /** Clusters per block. */
  readonly perBlock: number

  private constructor(checked: Checked, table: DataView) {
    this.#checked = checked
    this.#table = table
    this.perBlock = (checked.clusterSize * 8) / 2 ** checked.header.refcountOrder
  }

  static async load(checked: Checked): Promise<Refcounts> {
    const { bytes, header, clusterSize } = checked
    const table = await bytes.read(header.refcountTableOffset, header.refcountTableClusters * clusterSize)
    return new Refcounts(checked, viewOf(table))
  }

  /** Entries of the table. */
  get blocks(): number {
    return this.#table.byteLength / 8
  }

  /** Host offset of a block, 0 = none; as it stands there, aligned or not. */
  blockOffset(index: number): number {
    return index < this.blocks ? parseRefcountTableEntry(this.#table, index * 8).offset : 0
  }

  /** Counts the blocks, and finds those that make the structure useless. */
  async countBlocks(): Promise<void> {
    const { findings, clusterSize, counts, bytes } = this.#checked
    const clusters = clusterCount(this.#checked)
    for (let index = 0; index < this.blocks; index++) {
      if (bytes.tired) await bytes.rest()
      const { offset, reserved } = parseRefcountTableEntry(this.#table, index * 8)
      const cluster = Math.floor(offset / clusterSize)
      if (reserved) {
        findings.corruption(`ERROR refcount table entry ${index} has reserved bits set`)
        findings.rebuild = true
      } else if (offset % clusterSize !== 0) {
        findings.corruption(
          `ERROR refcount block ${index} is not cluster aligned; refcount table entry corrupted`,
        )
        findings.rebuild = true
      } else if (cluster >= clusters) {
        findings.corruption(`ERROR refcount block ${index} is outside image`)
        findings.rebuild = true
      } else if (offset !== 0) {
        countRange(this.#checked, offset, clusterSize)
        if (counts.get(cluster) !== 1) {
          findings.corruption(`ERROR refcount block ${index} refcount=${counts.get(cluster)}`)
          findings.rebuild = true
        }
      }
    }
  }

  /** undefined where the table is too corrupt to tell. At once where the block is in the cache. */
  get(cluster: number): number | undefined | Promise<number> {
    const index = Math.floor(cluster / this.perBlock)
    const block = this.#cache.get(index)
    if (block !== undefined) return this.#countIn(block, cluster)
    const offset = this.blockOffset(index)
    if (offset === 0) return 0
    if (offset % this.#checked.clusterSize !== 0) return undefined
    return this.#load(index, offset).then((loaded) => this.#countIn(loaded, cluster))
  }

  #countIn(block: Block, cluster: number): number {
    return getRefcount(block.view, cluster % this.perBlock, this.#checked.header.refcountOrder)
  }

  /** Of a cluster whose refcount is not 0: its block is there. Written by save(). */
  async set(cluster: number, value: number): Promise<void> {
    const index = Math.floor(cluster / this.perBlock)
    const block = this.#cache.get(index) ?? (await this.#load(index, this.blockOffset(index)))
    setRefcount(block.view, cluster % this.perBlock, this.#checked.header.refcountOrder, value)
    block.dirty = true
  }

  /** Writes what was changed, and makes it durable. */
  async save(): Promise<void> {
    for (const block of this.#cache.values()) await this.#write(block)
    await this.#checked.bytes.flush()
  }

  async #load(index: number, offset: number): Promise<Block> {
    const { bytes, clusterSize } = this.#checked
    const most = Math.max(2, CACHE_BYTES / clusterSize)
    for (const [oldest, block] of this.#cache) {
      if (this.#cache.size < most) break
      await this.#write(block)
      this.#cache.delete(oldest)
    }
    const block: Block = { offset, view: viewOf(await bytes.read(offset, clusterSize)), dirty: false }
    this.#cache.set(index, block)
    return block
  }

  async #write(block: Block): Promise<void> {
    if (!block.dirty) return
    const { buffer, byteOffset, byteLength } = block.view
    await this.#checked.bytes.write(block.offset, new Uint8Array(buffer, byteOffset, byteLength))
    block.dirty = false
  }
}
