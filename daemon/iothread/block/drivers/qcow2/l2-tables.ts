// SPDX-License-Identifier: Apache-2.0
// L2 tables: finds the slice with the entry of a guest cluster, and makes tables that can be changed. An L2 table that a
// snapshot uses too is copied first.

import type { IoError } from '../../../../errors.js'
import type { Commit } from './commit.js'
import type { Frees } from './frees.js'
import type { Image } from './image.js'
import type { L1Table } from './l1-table.js'
import { ACTIVE_L2, type TableClusters } from './overlap.js'
import { type Refcounts, roundUp } from './refcounts.js'
import { bytesOf, type TableCache, type TableSlice } from './table-cache.js'
import { Turns } from './turn.js'

export interface L2Parts {
  readonly image: Image
  readonly l1: L1Table
  readonly cache: TableCache
  readonly refcounts: Refcounts
  readonly frees: Frees
  readonly tables: TableClusters
  /** Made after the tables, as it writes them. */
  readonly commit: () => Commit
}

export class L2Tables {
  readonly #parts: L2Parts
  readonly #turns = new Turns()
  readonly #perSlice: number

  constructor(parts: L2Parts) {
    this.#parts = parts
    this.#perSlice = parts.cache.sliceSize / parts.image.entrySize
  }

  /** Entries of a slice. */
  get perSlice(): number {
    return this.#perSlice
  }

  /** The slice with the entry of a guest cluster; undefined when its table does not exist. */
  slice(cluster: number, use: 'read' | 'write' = 'read'): TableSlice | undefined | Promise<TableSlice> {
    const { image, l1, cache } = this.#parts
    const index = Math.floor(cluster / image.l2Entries)
    if (index >= l1.size || l1.isEmpty(index)) return undefined
    const { offset, reserved } = l1.get(index)
    if (reserved || offset === 0 || offset % image.clusterSize !== 0) return this.#invalid(index, offset, use)
    const at = offset + Math.floor((cluster % image.l2Entries) / this.#perSlice) * cache.sliceSize
    const found = cache.peek(at)
    if (found !== undefined) return found
    if (offset >= roundUp(image.env.file.length(), image.clusterSize))
      return this.#invalid(index, offset, use)
    return cache.get(at)
  }

  /** Index of a cluster's entry in its slice. */
  indexIn(cluster: number): number {
    return cluster % this.#perSlice
  }

  /** The table of a cluster can be changed when this resolves. @throws IoError when what is there is no table */
  async ensureWritable(cluster: number): Promise<void> {
    const { image, l1 } = this.#parts
    const index = Math.floor(cluster / image.l2Entries)
    const slice = this.slice(cluster, 'write')
    if (slice instanceof Promise) await slice
    if (!l1.isEmpty(index) && l1.get(index).copied) return
    await this.#turns.run(async () => {
      const { offset, copied } = l1.get(index)
      if (offset !== 0 && copied) return
      await this.#renew(index, offset)
    })
  }

  /**
   * Changes entries of one slice, when nobody is writing tables.
   * @param change  synchronous: what it does is seen at once, and whole
   */
  async change(cluster: number, change: (slice: TableSlice) => void): Promise<void> {
    const { cache, commit } = this.#parts
    for (;;) {
      const slice = await this.slice(cluster)
      if (slice === undefined) throw new Error(`no L2 table for cluster ${cluster}`)
      const { gate } = commit()
      if (gate !== undefined) await gate
      else if (cache.peek(slice.offset) === slice) {
        change(slice)
        cache.changed(slice)
        return
      }
    }
  }

  /** A new table for an L1 entry: empty, or a copy of one that is shared. */
  async #renew(index: number, old: number): Promise<void> {
    const { image, l1, cache, refcounts, frees, tables, commit } = this.#parts
    const { offset } = await refcounts.allocate(1)
    try {
      await this.#fill(offset, old)
    } catch (error) {
      // No L1 entry names it, but a commit may be writing it: others may have its place after the next one.
      cache.forget(offset, image.clusterSize)
      frees.add({ offset, length: image.clusterSize, reason: 'other' })
      throw error
    }
    for (let gate = commit().gate; gate !== undefined; gate = commit().gate) await gate
    l1.set(index, offset)
    tables.add(offset, image.clusterSize, ACTIVE_L2)
    if (old === 0) return
    tables.delete(old, image.clusterSize)
    frees.add({ offset: old, length: image.clusterSize, reason: 'other' })
  }

  /** A table in memory. @param old  host offset of the one that it is a copy of; 0: it is empty */
  async #fill(offset: number, old: number): Promise<void> {
    const { image, cache } = this.#parts
    for (let at = 0; at < image.clusterSize; at += cache.sliceSize) {
      const fresh = await cache.create(offset + at)
      if (old === 0) continue
      // A commit may write it while we wait; not pinned, it would be dropped then, and what we put into it be lost.
      fresh.pins += 1
      try {
        const source = await cache.get(old + at)
        bytesOf(fresh).set(bytesOf(source))
        cache.changed(fresh)
      } finally {
        fresh.pins -= 1
      }
    }
  }

  async #invalid(index: number, offset: number, use: 'read' | 'write'): Promise<never> {
    const { image } = this.#parts
    const error: IoError = await image.corrupt(
      use,
      `L2 table offset 0x${offset.toString(16)} invalid or unaligned (L1 index: 0x${index.toString(16)})`,
      offset,
    )
    throw error
  }
}
