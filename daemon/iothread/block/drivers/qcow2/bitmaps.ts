// SPDX-License-Identifier: Apache-2.0
// Persistent bitmaps that follow every write ("auto"). Used by the qcow2 map. On the disk they are marked in use before
// the first change; new bits gather in memory, and are added to those on the disk when the last user has left:
//
//   mark in use ─ flush ─ changes … ─ bits to clusters ─ refcounts ─ tables ─ flush ─ mark saved ─ flush
//
// A crash between leaves them in use: nobody trusts them then. Bitmaps without "auto" are not touched.

import { FormatError } from '../../../../../protocol/format-error.js'
import {
  formatBitmapDirectory,
  parseBitmapTableEntry,
  type StoredBitmap,
} from '../../../../../protocol/qcow2/bitmaps.js'
import { viewOf } from '../../../../../protocol/qcow2/bytes.js'
import { formatL1Entry } from '../../../../../protocol/qcow2/entries.js'
import { type StoredBitmaps, tableEntries } from './bitmap-directory.js'
import type { Commit } from './commit.js'
import type { Image } from './image.js'
import type { TableClusters } from './overlap.js'
import type { Refcounts } from './refcounts.js'

/** Memory for new bits of all bitmaps of an image, bytes. One that would need more stays marked in use. */
const MOST_MEMORY = 128 << 20

export interface BitmapParts {
  readonly image: Image
  readonly refcounts: Refcounts
  readonly tables: TableClusters
  readonly commit: Commit
}

/** One that is being kept. */
interface Kept {
  /** Index in the directory. */
  readonly index: number
  readonly granularityBits: number
  /** Bits set since it was marked in use, by index of the table entry; each as large as a cluster. */
  readonly pages: Map<number, Uint8Array>
}

export class Bitmaps {
  readonly #parts: BitmapParts
  #stored: StoredBitmaps | undefined
  #kept: readonly Kept[] = []
  /** Bytes of their pages. */
  #memory = 0

  constructor(parts: BitmapParts) {
    this.#parts = parts
  }

  /** As they are marked on the disk. */
  get stored(): StoredBitmaps | undefined {
    return this.#stored
  }

  use(stored: StoredBitmaps | undefined): void {
    this.#stored = stored
    this.#kept = []
  }

  /** Before the first change: durable on the disk that their content is in memory. */
  async begin(): Promise<void> {
    const kept = (this.#stored?.list ?? []).flatMap(({ auto, inUse, granularityBits }, index): Kept[] =>
      auto && !inUse ? [{ index, granularityBits, pages: new Map() }] : [],
    )
    if (kept.length > 0) await this.#markInUse(new Set(kept.map(({ index }) => index)), true)
    this.#kept = kept
    this.#memory = 0
  }

  /** The range is about to change. */
  mark(offset: number, length: number): void {
    for (const kept of this.#kept) {
      if (this.#set(kept, offset, length)) continue
      this.#kept = this.#kept.filter((other) => other !== kept)
      this.#memory -= kept.pages.size * this.#parts.image.clusterSize
    }
  }

  /** No change is under way, nor comes before begin(). A bitmap that cannot be saved stays marked. */
  async save(): Promise<void> {
    if (this.#kept.length === 0) return
    const saved = new Set<number>()
    for (const kept of this.#kept) if (await this.#saveOne(kept)) saved.add(kept.index)
    await this.#parts.image.flush()
    await this.#markInUse(saved, false)
    this.#kept = []
  }

  /** @returns false when there is no memory for it */
  #set(kept: Kept, offset: number, length: number): boolean {
    const { image } = this.#parts
    const granularity = 2 ** kept.granularityBits
    const end = Math.ceil(Math.min(offset + length, image.header.size) / granularity)
    const perPage = image.clusterSize * 8
    for (let bit = Math.floor(offset / granularity); bit < end; ) {
      const index = Math.floor(bit / perPage)
      const stop = Math.min(end, (index + 1) * perPage)
      const page = kept.pages.get(index) ?? this.#newPage()
      if (page === undefined) return false
      kept.pages.set(index, page)
      setBits(page, bit - index * perPage, stop - index * perPage)
      bit = stop
    }
    return true
  }

  #newPage(): Uint8Array | undefined {
    const { clusterSize } = this.#parts.image
    if (this.#memory + clusterSize > MOST_MEMORY) return undefined
    this.#memory += clusterSize
    return new Uint8Array(clusterSize)
  }

  /** In place, and only flags: whatever of it reaches the disk is a directory. */
  async #markInUse(which: ReadonlySet<number>, inUse: boolean): Promise<void> {
    const { image } = this.#parts
    if (this.#stored === undefined || which.size === 0) return
    const list = this.#stored.list.map((one, index): StoredBitmap => {
      return which.has(index) ? { ...one, inUse } : one
    })
    const { directoryOffset, directorySize } = this.#stored.directory
    const bytes = formatBitmapDirectory(list)
    // A name that is no UTF-8 was not kept as it is.
    if (bytes.length !== directorySize)
      throw await image.corrupt('write', 'Invalid bitmap name', directoryOffset)
    await image.write(directoryOffset, bytes)
    this.#stored = { ...this.#stored, list }
    await image.flush()
  }

  /** @returns false when what is on the disk is no bitmap */
  async #saveOne(kept: Kept): Promise<boolean> {
    const { image, refcounts, commit } = this.#parts
    const bitmap = this.#stored?.list[kept.index]
    if (bitmap === undefined) return false
    if (kept.pages.size === 0) return true
    const bytes = await image.read(bitmap.tableOffset, tableEntries(kept.granularityBits, image) * 8)
    const table = viewOf(bytes)
    const fresh: number[] = []
    try {
      for (const [index, page] of kept.pages) {
        const offset = await this.#savePage(table, index, page)
        if (offset !== undefined) fresh.push(offset)
      }
      // The new clusters count before the table names them.
      await commit.run()
      // From here on it may name them, whatever becomes of the write.
      if (fresh.splice(0).length > 0) await image.write(bitmap.tableOffset, bytes)
      return true
    } catch (error) {
      for (const offset of fresh) await refcounts.release(offset, image.clusterSize).catch(() => undefined)
      if (error instanceof FormatError) return false
      throw error
    }
  }

  /**
   * Adds bits to those on the disk.
   * @returns the host offset of the cluster, when it is a new one
   * @throws FormatError for an entry that is none
   */
  async #savePage(table: DataView, index: number, page: Uint8Array): Promise<number | undefined> {
    const { image, refcounts, tables } = this.#parts
    const { offset, ones } = parseBitmapTableEntry(table, index * 8)
    if (ones) return undefined
    if (offset === 0) {
      const fresh = await refcounts.allocate(1)
      await image.write(fresh.offset, page)
      formatL1Entry(table, index * 8, { offset: fresh.offset, copied: false })
      return fresh.offset
    }
    const own =
      offset % image.clusterSize === 0 &&
      offset < image.env.file.length() &&
      tables.find(offset, image.clusterSize) === undefined &&
      (await refcounts.count(offset)) === 1
    if (!own) throw new FormatError('Invalid bitmap table entry')
    const bits = await image.read(offset, image.clusterSize)
    for (const [at, byte] of page.entries()) bits[at] = (bits[at] ?? 0) | byte
    await image.write(offset, bits)
    return undefined
  }
}

/** Sets bits `from` … `to` - 1; the lowest bit of a byte comes first. */
function setBits(page: Uint8Array, from: number, to: number): void {
  const first = Math.floor(from / 8)
  const last = Math.floor((to - 1) / 8)
  const head = (0xff << (from % 8)) & 0xff
  const tail = 0xff >> (7 - ((to - 1) % 8))
  if (first === last) {
    page[first] = (page[first] ?? 0) | (head & tail)
    return
  }
  page[first] = (page[first] ?? 0) | head
  page.fill(0xff, first + 1, last)
  page[last] = (page[last] ?? 0) | tail
}
