// SPDX-License-Identifier: Apache-2.0
// Changing the size of a qcow2 disk. Nobody else uses the image meanwhile (the node is drained). The header names the
// new size last: a crash before leaves the old size. Growing changes nothing that it shows, also when it fails; of what
// shrinking is to cut off a crash may leave parts.

import { MAX_L1 } from '../../../../../protocol/qcow2/header.js'
import type { Snapshot } from '../../../../../protocol/qcow2/snapshots.js'
import { CommandError } from '../../../../errors.js'
import type { Allocation, ClearRange } from '../../mapping.js'
import { type BlockNode, SECTOR } from '../../node.js'
import { type Preallocate, preallocate } from '../../preallocate.js'
import type { Allocator } from './allocate.js'
import type { Bitmaps } from './bitmaps.js'
import type { Commit } from './commit.js'
import type { Frees } from './frees.js'
import type { Image } from './image.js'
import type { L1Table } from './l1-table.js'
import type { TableClusters } from './overlap.js'
import { type Refcounts, roundUp } from './refcounts.js'
import type { TableCache } from './table-cache.js'
import type { Zeroer } from './zero.js'

export interface ResizeParts {
  readonly image: Image
  readonly l1: L1Table
  readonly l2Cache: TableCache
  readonly refcounts: Refcounts
  readonly frees: Frees
  readonly tables: TableClusters
  readonly zeroer: Zeroer
  readonly allocator: Allocator
  readonly commit: Commit
  readonly bitmaps: Bitmaps
  readonly backing: () => BlockNode | undefined
  readonly snapshots: () => readonly Snapshot[]
}

export class Resizer {
  readonly #parts: ResizeParts

  constructor(parts: ResizeParts) {
    this.#parts = parts
  }

  /**
   * @param clear  makes a guest range read as zero, beyond the end of the disk too
   * @param how    of a longer disk: its new clusters get places
   * @throws CommandError for a size that the image cannot have
   */
  async resize(length: number, clear: ClearRange, how?: Preallocate): Promise<void> {
    const { image, bitmaps, commit } = this.#parts
    if (length % SECTOR !== 0) throw new CommandError('The new size must be a multiple of 512')
    if (this.#parts.snapshots().length > 0 && image.header.version === 2)
      throw new CommandError("Can't resize a version 2 image which has snapshots")
    if (length > image.header.size) this.#checkGrowth(length)
    if (length !== image.header.size) await bitmaps.holdAll()
    if (length < image.header.size) await this.#cut(length, image.header.size)
    else if (length > image.header.size) await this.#growOrStay(length, clear, how)
    await commit.run()
    await image.changeHeader({ size: length })
    if (image.external && length < image.dataFile.length()) await image.dataFile.resize(length)
    await commit.run()
  }

  /** Gives up what lies between the ends of a disk of `length` bytes and of one of `end`. */
  async #cut(length: number, end: number): Promise<void> {
    const { image, l1, l2Cache, frees, tables, zeroer } = this.#parts
    const { clusterSize, l2Span } = image
    await zeroer.drop(roundUp(length, clusterSize), roundUp(end, clusterSize), 'always')
    for (let index = Math.ceil(length / l2Span); index < l1.size; index++) {
      const { offset } = l1.get(index)
      if (offset === 0) continue
      l1.set(index, 0)
      tables.delete(offset, clusterSize)
      l2Cache.forget(offset, clusterSize)
      frees.add({ offset, length: clusterSize, reason: 'always' })
    }
  }

  /** Leaves nothing behind the end of the disk when it fails: to find that place would be left to the next check. */
  async #growOrStay(length: number, clear: ClearRange, how: Preallocate | undefined): Promise<void> {
    const { image, commit } = this.#parts
    const data = image.dataFile.length()
    const given: Allocation[] = []
    try {
      await this.#grow(length, clear, how, given)
    } catch (error) {
      const undo = async () => {
        // First of all: on a full file system the tables that give them up need storage.
        for (const { file, host, length } of given)
          await file.zero(host, length, { unmap: true, fast: true }).catch(() => undefined)
        await this.#cut(image.header.size, Math.max(image.header.size, Math.min(length, this.#tablesEnd())))
        if (image.external && data < image.dataFile.length()) await image.dataFile.resize(data)
        await commit.run()
      }
      // What is left then reads as zero, and is a part of the disk for nobody.
      await undo().catch(() => undefined)
      throw error
    }
  }

  /** Guest bytes up to the end of the last L2 table there is. */
  #tablesEnd(): number {
    const { image, l1 } = this.#parts
    let tables = l1.size
    while (tables > 0 && l1.isEmpty(tables - 1)) tables -= 1
    return tables * image.l2Span
  }

  #checkGrowth(length: number): void {
    const { image } = this.#parts
    if (this.#l1Entries(length) * 8 > MAX_L1)
      throw new CommandError(`The image size is too large for its cluster size (${image.clusterSize} bytes)`)
    if (this.#shownBelow(length) > image.header.size && image.header.version === 2)
      throw new CommandError('Cannot grow a version 2 image whose backing file is longer')
  }

  #l1Entries(length: number): number {
    return Math.ceil(length / this.#parts.image.l2Span)
  }

  /** Bytes of a disk of `length` bytes that the backing node has. */
  #shownBelow(length: number): number {
    const backing = this.#parts.backing()
    return backing === undefined ? 0 : Math.min(length, backing.length())
  }

  /** @param given  gets the places that got storage */
  async #grow(
    length: number,
    clear: ClearRange,
    how: Preallocate | undefined,
    given: Allocation[],
  ): Promise<void> {
    const { image } = this.#parts
    const old = image.header.size
    const entries = this.#l1Entries(length)
    const shows = this.#shownBelow(length)
    if (entries > this.#parts.l1.size) await this.#growL1(entries)
    const start = roundUp(old, image.clusterSize)
    // Its clusters are written where they are, so all of them must be there.
    if (image.external && length > image.dataFile.length()) await image.dataFile.resize(length)
    // The rest of the last cluster may hold what an earlier, longer disk had there.
    if (old < start) await clear(old, Math.min(start, length) - old)
    // What the backing node has there was never part of this disk.
    if (how !== undefined)
      return this.#preallocate(start, roundUp(length, image.clusterSize), how, shows > old, given)
    const end = roundUp(shows, image.clusterSize)
    for (let at = start; at < end; ) at += await this.#parts.zeroer.zero(at, end - at, true, false)
  }

  /**
   * Places for whole clusters, which nobody can see yet: each reads as zero before it is linked.
   * @param covers  the backing node has something there, which must not show
   */
  async #preallocate(
    from: number,
    end: number,
    how: Preallocate,
    covers: boolean,
    given: Allocation[],
  ): Promise<void> {
    const { allocator, image } = this.#parts
    // Subclusters are allocated by the first write, as in a new image; a raw data file shows as it is.
    const uncovered = image.extended && !image.rawData ? 'backing' : 'data'
    const covering = how.mode === 'metadata' ? 'zero' : 'data'
    for (let at = from; at < end; ) {
      const place = await allocator.allocate(at, end - at, covers ? covering : uncovered)
      if (how.mode !== 'metadata') given.push(place)
      try {
        await preallocate(place.file, place.host, place.length, how, place.blank)
      } catch (error) {
        await place.abandon()
        throw error
      }
      await place.link()
      at = roundUp(place.offset + place.length, image.clusterSize)
    }
  }

  /** The table as it is, with room for more, in a new place; or longer where it is. */
  async #growL1(entries: number): Promise<void> {
    const { image, l1, refcounts, frees, tables, commit } = this.#parts
    const { clusterSize, header } = image
    await commit.run()
    const bytes = new Uint8Array(entries * 8)
    bytes.set(l1.bytes)
    const old = { offset: header.l1Offset, length: roundUp(header.l1Size * 8, clusterSize) }
    if (header.l1Size > 0 && bytes.length <= old.length) {
      await image.write(old.offset + header.l1Size * 8, bytes.subarray(header.l1Size * 8))
      await image.changeHeader({ l1Size: entries })
      l1.use(bytes)
      return
    }
    const clusters = Math.ceil(bytes.length / clusterSize)
    const { offset } = await refcounts.allocateWhole(clusters)
    const padded = new Uint8Array(clusters * clusterSize)
    padded.set(bytes)
    try {
      await image.write(offset, padded)
      await commit.run()
      await image.changeHeader({ l1Offset: offset, l1Size: entries })
    } catch (error) {
      // Where the header on the disk may name it, nobody else may have its place. What cannot be given back is a leak, which
      // the next check finds.
      if (image.isSound) await refcounts.release(offset, padded.length).catch(() => undefined)
      throw error
    }
    l1.use(bytes)
    tables.add(offset, clusters * clusterSize, 'active L1 table')
    tables.delete(old.offset, old.length)
    if (old.length > 0) frees.add({ ...old, reason: 'other' })
  }
}
