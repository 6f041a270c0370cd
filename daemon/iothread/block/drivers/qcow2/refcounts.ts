// SPDX-License-Identifier: Apache-2.0
// Host clusters: how often each is used, which are free, and new refcount blocks where the counts go on. Counts change
// in memory; the commit writes them, always before what refers to a new cluster. A count that is too high after a crash
// is a leak; one that is too low cannot be.
//
//   refcount table (in memory) ─▶ refcount block (slices in the cache) ─▶ count of cluster i

import { parseRefcountTableEntry } from '../../../../../protocol/qcow2/entries.js'
import { getRefcount, maxRefcount, setRefcount } from '../../../../../protocol/qcow2/refcount-block.js'
import { EFBIG } from '../../../../common/errno.js'
import { IoError } from '../../../../errors.js'
import { FileEnd } from './file-end.js'
import { FreeRun } from './free-run.js'
import type { FreeReason } from './frees.js'
import type { Image } from './image.js'
import type { TableClusters, TableName } from './overlap.js'
import { largerTable, lengthened, tableBytes, usedOnce } from './refcount-table.js'
import type { TableCache, TableSlice } from './table-cache.js'
import { Turns } from './turn.js'

/** Host offsets have 56 bits; a number holds 53 of them exactly. */
const MAX_HOST = 2 ** 53 - 1

/** New host clusters in one piece. */
export interface HostRange {
  readonly offset: number
  readonly length: number
  /** They read as zero: the file was never written there. */
  readonly blank: boolean
}

export class Refcounts {
  readonly #image: Image
  readonly #blocks: TableCache
  readonly #tables: TableClusters
  /** Whether the storage below is told of what is free for a reason. */
  readonly #passes: (reason: FreeReason) => boolean
  readonly #turns = new Turns()
  /** What is being written is seen as written by nobody else before it is: one write-back, or move of the table, at once. */
  readonly #writing = new Turns()
  /** Host offsets of refcount blocks, 0 = none; with room to grow up to the table's end. */
  #table = new Float64Array(0)
  #tableDirty = false
  /** No cluster below is free, as far as is known. */
  #lowest = 0
  /** Host offset from which on nothing was ever written. */
  #blankFrom = 0
  readonly #fileEnd: FileEnd
  /** Told of each cluster that became free. */
  whenFree: (offset: number) => void = () => {}

  constructor(
    image: Image,
    blocks: TableCache,
    tables: TableClusters,
    passes: (reason: FreeReason) => boolean,
  ) {
    this.#image = image
    this.#blocks = blocks
    this.#tables = tables
    this.#passes = passes
    this.#fileEnd = new FileEnd(image, () => this.#end())
  }

  get dirty(): boolean {
    return this.#tableDirty || this.#blocks.dirty
  }

  /** Reads the refcount table; once, before the first change. @throws IoError when the image is corrupt */
  async load(): Promise<void> {
    const { header, clusterSize, env } = this.#image
    const length = header.refcountTableClusters * clusterSize
    if (header.refcountTableOffset + length > roundUp(env.file.length(), clusterSize))
      throw await this.#image.corrupt('write', 'Refcount table lies beyond the end of the file', length)
    const bytes = await this.#image.read(header.refcountTableOffset, length)
    const view = new DataView(bytes.buffer)
    const table = new Float64Array(length / 8)
    await this.#claim(header.refcountTableOffset, length, 'refcount table')
    for (let index = 0; index < table.length; index++) {
      if (index % 16384 === 0) await new Promise((resolve) => setImmediate(resolve))
      const { offset, reserved } = parseRefcountTableEntry(view, index * 8)
      if (reserved || offset % clusterSize !== 0 || offset >= roundUp(env.file.length(), clusterSize)) {
        throw await this.#image.corrupt(
          'write',
          `refcount block offset ${offset} invalid (entry ${index})`,
          offset,
        )
      }
      table[index] = offset
      if (offset !== 0) await this.#claim(offset, clusterSize, 'refcount block')
    }
    this.#table = table
    this.#lowest = 0
    this.#blankFrom = roundUp(env.file.length(), clusterSize)
    this.#fileEnd.found()
  }

  async #claim(offset: number, length: number, name: TableName): Promise<void> {
    const other = this.#tables.claim(offset, length, name)
    if (other === undefined) return
    throw await this.#image.corrupt(
      'write',
      `Preventing invalid write on ${name} (overlaps with ${other})`,
      offset,
      length,
    )
  }

  /** Between 1 and `count` clusters in one piece, each used once from now on. */
  allocate(count: number): Promise<HostRange> {
    return this.#allocate(count, 1)
  }

  /** `count` clusters in one piece, for tables that must not be scattered. */
  allocateWhole(count: number): Promise<HostRange> {
    return this.#allocate(count, count)
  }

  #allocate(most: number, least: number): Promise<HostRange> {
    return this.#turns.run(async () => {
      for (;;) {
        const found = await this.#findFree(most, least)
        if (found !== undefined) return await this.#take(found.index, found.count)
      }
    })
  }

  /**
   * One more use of a cluster.
   * @param still  asked when its turn has come: it may have become free, and somebody else's, before
   * @returns false when its count cannot be higher, or it is not wanted any more
   */
  addUse(offset: number, still: () => boolean): Promise<boolean> {
    return this.#turns.run(async () => {
      if (!still()) return false
      const most = maxRefcount(this.#image.header.refcountOrder)
      const raised = (count: number) => (count === 0 || count >= most ? undefined : count + 1)
      return (await this.#change(offset / this.#image.clusterSize, raised)) !== undefined
    })
  }

  /**
   * One use less of each cluster that the range touches.
   * @param reason  of what was in use, on the disk too; undefined: nothing of it was
   */
  release(offset: number, length: number, reason?: FreeReason): Promise<void> {
    const { clusterSize } = this.#image
    return this.#turns.run(async () => {
      const last = Math.floor((offset + length - 1) / clusterSize)
      for (let index = Math.floor(offset / clusterSize); index <= last; index++) {
        const count = await this.#get(index)
        const table = index === 0 ? 'header' : this.#tables.find(index * clusterSize, clusterSize)
        if (count === 1 && table !== undefined) {
          throw await this.#image.corrupt('write', `Preventing the loss of ${table}`, index * clusterSize)
        }
        if (count === 0) {
          const text = `refcount of cluster ${index} is lower than its uses`
          throw await this.#image.corrupt('write', text, offset)
        }
        if (count === 1) await this.#fileEnd.freeing()
        if (count === 1 && reason !== undefined) await this.#discard(index, reason)
        await this.#change(index, () => count - 1)
        if (count === 1) this.#freed(index)
      }
    })
  }

  /** It may be found from now on. */
  #freed(index: number): void {
    this.#lowest = Math.min(this.#lowest, index)
    this.whenFree(index * this.#image.clusterSize)
  }

  /** Tells the storage of a cluster that nobody uses any more, before others may have it. */
  async #discard(index: number, reason: FreeReason): Promise<void> {
    const { clusterSize, env } = this.#image
    const at = index * clusterSize
    const length = Math.min(clusterSize, env.file.length() - at)
    // One that fails leaves storage in use, and nothing else.
    if (this.#passes(reason) && length > 0) await env.file.discard(at, length).catch(() => undefined)
  }

  async count(offset: number): Promise<number> {
    const index = Math.floor(offset / this.#image.clusterSize)
    if ((this.#table[this.#blockOf(index)] ?? 0) === 0) return 0
    return await this.#get(index)
  }

  /**
   * Counts, and then where they are, to the disk; all that were changed before the call. What refers to new clusters may
   * be written after a flush.
   */
  writeBack(): Promise<void> {
    return this.#writing.run(async () => {
      // A block that is added from now on is not among those written below: the table must not show it yet.
      const table = this.#tableDirty ? tableBytes(this.#table) : undefined
      this.#tableDirty = false
      try {
        await this.#blocks.writeBack()
        if (table === undefined) return
        await this.#image.flush()
        await this.#image.write(this.#image.header.refcountTableOffset, table)
      } catch (error) {
        if (table !== undefined) this.#tableDirty = true
        throw error
      }
    })
  }

  /** Where the file may end, host offset. */
  end(): Promise<number> {
    return this.#turns.run(() => this.#fileEnd.get())
  }

  /** End of the last cluster of the file that is in use, host offset. */
  async #end(): Promise<number> {
    const { clusterSize, blockEntries, env } = this.#image
    // Counts beyond the end of the file are not looked at: a block of narrow ones has millions.
    const last = Math.ceil(env.file.length() / clusterSize) - 1
    for (let block = this.#blockOf(last); block >= 0; block--) {
      if ((this.#table[block] ?? 0) === 0) continue
      let index = Math.min(last, (block + 1) * blockEntries - 1)
      for (; index >= block * blockEntries; index--)
        if ((await this.#get(index)) > 0) return (index + 1) * clusterSize
    }
    return clusterSize
  }

  /** The file was cut: what is beyond was never written. */
  cutAt(end: number): void {
    this.#blankFrom = Math.min(this.#blankFrom, end)
  }

  #blockOf(index: number): number {
    return Math.floor(index / this.#image.blockEntries)
  }

  /** Calls `work` with the slice of a cluster's count and the index in it; its block exists. */
  async #at<T>(index: number, work: (slice: TableSlice, at: number) => T): Promise<T> {
    const block = this.#table[this.#blockOf(index)] ?? 0
    if (block === 0)
      throw await this.#image.corrupt('write', `cluster ${index} is used and has no refcount`, 0)
    const perSlice = this.#perSlice()
    const inBlock = index % this.#image.blockEntries
    const number = Math.floor(inBlock / perSlice)
    return await this.#blocks.use(block + number * this.#blocks.sliceSize, (slice) =>
      work(slice, inBlock % perSlice),
    )
  }

  async #get(index: number): Promise<number> {
    const order = this.#image.header.refcountOrder
    const count = await this.#at(index, (slice, at) => getRefcount(slice.view, at, order))
    if (count <= maxRefcount(order)) return count
    throw await this.#image.corrupt('write', `refcount of cluster ${index} is impossible`, 0)
  }

  /** @param change  gives the new count, of one that is possible; undefined: it stays. @returns what it gave */
  #change(index: number, change: (count: number) => number | undefined): Promise<number | undefined> {
    const order = this.#image.header.refcountOrder
    return this.#at(index, (slice, at) => {
      const before = getRefcount(slice.view, at, order)
      const count = before > maxRefcount(order) ? undefined : change(before)
      if (count === undefined) return undefined
      setRefcount(slice.view, at, order, count)
      this.#blocks.changed(slice)
      return count
    })
  }

  #perSlice(): number {
    return (this.#blocks.sliceSize * 8) / 2 ** this.#image.header.refcountOrder
  }

  /**
   * The first run of free clusters of at least `least`.
   * @returns undefined when a refcount block was added, and the search is to start again
   */
  async #findFree(most: number, least: number): Promise<{ index: number; count: number } | undefined> {
    const { blockEntries, clusterSize, header } = this.#image
    const run = new FreeRun(this.#lowest, most, least)
    const look = ({ view }: TableSlice, at: number): boolean => {
      const end = Math.min(this.#perSlice(), at + blockEntries - (run.index % blockEntries))
      return run.look(view, at, end, header.refcountOrder)
    }
    for (;;) {
      if ((run.index + least) * clusterSize > MAX_HOST) throw this.#full()
      const block = this.#blockOf(run.index)
      const isThere = (this.#table[block] ?? 0) !== 0
      if (!isThere && run.count < least) {
        // One within the run would end it, and a run of that many has one in every place.
        await this.#addBlock(block, least < blockEntries ? undefined : run.lowest)
        return undefined
      }
      if (isThere && !(await this.#at(run.index, look))) continue
      this.#lowest = run.lowest ?? run.first
      return { index: run.first, count: run.count }
    }
  }

  async #take(index: number, count: number): Promise<HostRange> {
    const { clusterSize } = this.#image
    const [offset, length] = [index * clusterSize, count * clusterSize]
    const table = index === 0 ? 'header' : this.#tables.find(offset, length)
    if (table !== undefined) {
      const text = `Preventing invalid allocation of ${table} at offset ${offset}`
      throw await this.#image.corrupt('write', text, offset)
    }
    await this.#image.ensureLength(offset + length)
    let counted = index
    try {
      for (; counted < index + count; counted++) await this.#change(counted, () => 1)
    } catch (error) {
      // What cannot be counted back is a leak, which the next check finds.
      while (counted-- > index) await this.#change(counted, () => 0).catch(() => undefined)
      throw error
    }
    if (this.#lowest === index) this.#lowest = index + count
    const blank = offset >= this.#blankFrom
    this.#blankFrom = Math.max(this.#blankFrom, offset + length)
    return { offset, length, blank }
  }

  /** A refcount block, in the first cluster that it counts. @param host  in place of that, the index of a free cluster */
  async #addBlock(block: number, host?: number): Promise<void> {
    if (block >= this.#table.length) return await this.#growTable(block + 1)
    const { clusterSize, blockEntries, header } = this.#image
    const offset = (host ?? block * blockEntries) * clusterSize
    // The header's own cluster has no count, or what is a table has none: nothing of this is to be believed.
    const table = this.#tables.find(offset, clusterSize)
    if (table !== undefined) {
      const text = `Preventing invalid allocation of ${table} at offset ${offset}`
      throw await this.#image.corrupt('write', text, offset)
    }
    await this.#image.ensureLength(offset + clusterSize)
    if (host !== undefined) await this.#change(host, () => 1)
    await this.#blocks.createAll(offset, clusterSize)
    // At once: a table that names a block whose own cluster has no count would have others get its place.
    await this.#blocks.use(offset, (slice) => {
      if (host === undefined) setRefcount(slice.view, 0, header.refcountOrder, 1)
      this.#blocks.changed(slice)
      this.#table[block] = offset
      this.#tableDirty = true
      this.#tables.add(offset, clusterSize, 'refcount block')
    })
    this.#blankFrom = Math.max(this.#blankFrom, offset + clusterSize)
  }

  /**
   * A longer table behind everything that the old one counts, with the blocks that count it:
   *
   *   … counted by the old table │ new blocks │ new table │
   */
  async #growTable(least: number): Promise<void> {
    const { clusterSize, blockEntries, header } = this.#image
    const old = { offset: header.refcountTableOffset, length: header.refcountTableClusters * clusterSize }
    const larger = largerTable(this.#table.length, least, clusterSize, blockEntries)
    if (larger === undefined) throw this.#full()
    const { blocks, clusters } = larger
    const start = this.#table.length * blockEntries * clusterSize
    if (start + (blocks + clusters) * clusterSize > MAX_HOST) throw this.#full()
    await this.writeBack()
    const added = Array.from({ length: blocks }, (_, i) => start + i * clusterSize)
    const table = lengthened(this.#table, added, (clusters * clusterSize) / 8)
    const offset = start + blocks * clusterSize
    await this.#writing.run(async () => {
      await this.#image.write(start, usedOnce(blocks + clusters, blocks * clusterSize, header.refcountOrder))
      await this.#image.write(offset, tableBytes(table))
      await this.#image.changeHeader({ refcountTableOffset: offset, refcountTableClusters: clusters })
      this.#table = table
      this.#tableDirty = false
    })
    this.#tables.add(start, blocks * clusterSize, 'refcount block')
    this.#tables.delete(old.offset, old.length)
    this.#tables.add(offset, clusters * clusterSize, 'refcount table')
    this.#blankFrom = Math.max(this.#blankFrom, offset + clusters * clusterSize)
    await this.#freeNow(old.offset, old.length)
  }

  /** The old table, inside the turn of whoever needed a longer one. */
  async #freeNow(offset: number, length: number): Promise<void> {
    const { clusterSize } = this.#image
    for (let index = offset / clusterSize; index < (offset + length) / clusterSize; index++) {
      const count = await this.#change(index, (before) => Math.max(0, before - 1))
      if (count !== 0) continue
      await this.#discard(index, 'other')
      this.#freed(index)
    }
  }

  #full(): IoError {
    return new IoError(EFBIG, 'write', this.#image.env.name)
  }
}

export function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit
}
