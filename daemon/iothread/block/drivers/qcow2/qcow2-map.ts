// SPDX-License-Identifier: Apache-2.0
// The qcow2 format as a map: holds the parts together. What each does stands in its own file; what order they keep on
// the disk in commit.ts.

import { Autoclear, type Header, Incompatible } from '../../../../../protocol/qcow2/header.js'
import { CommandError } from '../../../../errors.js'
import type { FormatFacts } from '../../../messages.js'
import type { BitmapStore } from '../../bitmaps/bitmap-store.js'
import type { NodeBitmaps } from '../../bitmaps/node-bitmaps.js'
import type { BackingFile } from '../../driver.js'
import type { Allocation, ClearRange, Epoch, MapDriver, Mapping, PackedPlaces } from '../../mapping.js'
import type { BlockNode } from '../../node.js'
import type { Preallocate } from '../../preallocate.js'
import { Allocator } from './allocate.js'
import { Bitmaps } from './bitmaps.js'
import { Commit } from './commit.js'
import { formatFacts } from './facts.js'
import { type Freed, type FreeReason, Frees } from './frees.js'
import { GuestMap } from './guest-map.js'
import type { Image } from './image.js'
import { L1Table } from './l1-table.js'
import { L2Tables } from './l2-tables.js'
import { learnTables } from './learn-tables.js'
import { checkWritable, loadShown, loadSnapshots, type SnapshotTable } from './load.js'
import type { CacheSizes } from './options.js'
import { TableClusters } from './overlap.js'
import { isPreallocated } from './preallocated.js'
import { Refcounts } from './refcounts.js'
import { repairDirty } from './repair-dirty.js'
import { Resizer } from './resize.js'
import { checkSame } from './same-image.js'
import { TableCache } from './table-cache.js'
import { Zeroer } from './zero.js'

/** Which freed places the storage below is told of. */
export interface PassDiscard {
  readonly request: boolean
  readonly snapshot: boolean
  readonly other: boolean
}

export interface MapOptions {
  readonly backing: BlockNode | undefined
  /** Whatever backing file the image names, nothing shows through. */
  readonly alone: boolean
  /** Named bitmaps of the image's node. */
  readonly bitmaps: NodeBitmaps
  /** Of caches for a disk of that length, bytes. @throws CommandError for a length that they are too large for */
  readonly caches: (length: number) => CacheSizes
  readonly passDiscard: PassDiscard
  /** Seconds after which tables that nobody looked at are forgotten; 0: never. */
  readonly cleanInterval: number
  /** Discarded clusters keep their places. */
  readonly keepPlaces: boolean
  /** Writes are kept away from L2 tables of snapshots too. */
  readonly guardSnapshots: boolean
}

export class Qcow2Map implements MapDriver {
  readonly clusterSize: number
  readonly #image: Image
  readonly #options: MapOptions
  /** Changed by replaceChild() only. */
  #backing: BlockNode | undefined
  readonly #l1: L1Table
  readonly #l2Cache: TableCache
  readonly #blockCache: TableCache
  readonly #tables: TableClusters
  readonly #refcounts: Refcounts
  readonly #frees: Frees
  readonly #l2: L2Tables
  readonly #guest: GuestMap
  readonly #allocator: Allocator
  readonly #zeroer: Zeroer
  readonly #commit: Commit
  readonly #bitmaps: Bitmaps
  readonly #resizer: Resizer
  /** Runs between load() and close(). */
  #cleaning: NodeJS.Timeout | undefined
  /** Whether the file may have holes where data lies; found out when it is first asked for. */
  #looksThrough: boolean | Promise<boolean> | undefined
  #snapshots: SnapshotTable = { list: [], size: 0 }
  /** Set with the first change; forgotten when others may have changed the image. */
  #prepared: Promise<void> | undefined
  #ready = false
  /** Settling began, and has not succeeded. */
  #unsettled = false

  constructor(image: Image, options: MapOptions) {
    this.clusterSize = image.clusterSize
    this.#image = image
    this.#options = options
    this.#backing = options.backing
    const { passDiscard, keepPlaces, bitmaps } = options
    const passes = (reason: FreeReason) => reason === 'always' || passDiscard[reason]
    const caches = options.caches(image.header.size)
    const commit = () => this.#commit.run()
    const tables = new TableClusters(image.clusterSize)
    const l1 = new L1Table(image)
    const cache = new TableCache(image, caches.l2Slice, caches.l2, commit)
    this.#blockCache = new TableCache(image, caches.refcountSlice, caches.refcount, commit)
    const refcounts = new Refcounts(image, this.#blockCache, tables, passes)
    const frees = new Frees((freed) => this.#release(freed))
    const l2 = new L2Tables({ image, l1, cache, refcounts, frees, tables, commit: () => this.#commit })
    const map = new GuestMap(image, l1, l2, tables)
    this.#tables = tables
    this.#l1 = l1
    this.#l2Cache = cache
    this.#refcounts = refcounts
    this.#frees = frees
    this.#l2 = l2
    this.#guest = map
    this.#allocator = new Allocator({ image, map, l2, refcounts, frees, tables })
    this.#zeroer = new Zeroer({
      image,
      map,
      l2,
      frees,
      backing: () => this.#backing,
      passDiscard: passDiscard.request,
      keepPlaces,
    })
    this.#commit = new Commit({ image, refcounts, l1, l2: cache, frees })
    this.#bitmaps = new Bitmaps({ image, refcounts, tables, bitmaps, commit: this.#commit })
    this.#resizer = new Resizer({
      ...{ image, l1, l2Cache: cache, refcounts, frees, tables, zeroer: this.#zeroer },
      ...{ allocator: this.#allocator, commit: this.#commit, bitmaps: this.#bitmaps },
      backing: () => this.#backing,
      snapshots: () => this.#snapshots.list,
    })
  }

  get compression(): 'zlib' | 'zstd' {
    return this.#image.header.compression
  }

  /**
   * Reads what an open image needs in memory.
   * @param reopened  the node has its bitmaps already
   * @throws IoError, CommandError
   */
  async load(reopened: boolean): Promise<void> {
    await this.#loadTables()
    if (!reopened) await this.#bitmaps.loadBits()
    const { cleanInterval } = this.#options
    if (cleanInterval > 0) this.#cleaning ??= this.#cleanEvery(cleanInterval)
  }

  close(): void {
    clearInterval(this.#cleaning)
  }

  #keepAtMost({ l2, refcount }: CacheSizes): void {
    this.#l2Cache.keepAtMost(l2)
    this.#blockCache.keepAtMost(refcount)
  }

  async #loadTables(): Promise<void> {
    await this.#l1.load()
    this.#snapshots = await loadSnapshots(this.#image)
    await this.#bitmaps.loadDirectory()
  }

  length(): number {
    return this.#image.header.size
  }

  map(offset: number, length: number, use?: 'read' | 'write'): Mapping | Promise<Mapping> {
    return this.#guest.map(offset, length, use)
  }

  maps(
    offset: number,
    length: number,
    use?: 'read' | 'write',
  ): readonly Mapping[] | Promise<readonly Mapping[]> {
    return this.#guest.maps(offset, length, use)
  }

  looksThrough(): boolean | Promise<boolean> {
    if (this.#looksThrough !== undefined) return this.#looksThrough
    const looking: Promise<boolean> = isPreallocated(this.#image)
      .catch(() => false)
      .then((found) => {
        // The image may have been loaded anew meanwhile.
        if (this.#looksThrough === looking) this.#looksThrough = found
        return found
      })
    this.#looksThrough = looking
    return looking
  }

  enter(): Epoch {
    return this.#frees.enter()
  }

  leave(epoch: Epoch): void {
    this.#frees.leave(epoch)
  }

  beforeChange(): Promise<void> | undefined {
    if (!this.#ready) return this.#makeReady()
    this.#image.checkSound()
    return undefined
  }

  allocate(offset: number, length: number): Promise<Allocation> {
    return this.#allocator.allocate(offset, length)
  }

  allocatePacked(offset: number, sizes: readonly number[]): Promise<PackedPlaces | undefined> {
    return this.#allocator.allocatePacked(offset, sizes)
  }

  mapZero(offset: number, length: number, unmap: boolean, stored = false): Promise<number> {
    return this.#zeroer.zero(offset, length, unmap, stored)
  }

  unmap(offset: number, length: number): Promise<void> {
    return this.#zeroer.discard(offset, length)
  }

  async flush(): Promise<void> {
    if (!this.#ready) return
    await this.#commit.run()
    await this.#frees.settled()
    await this.#commit.tidy()
  }

  async resize(length: number, clear: ClearRange, how?: Preallocate): Promise<void> {
    const caches = this.#options.caches(length)
    await this.#makeReady()
    await this.#resizer.resize(length, clear, how)
    this.#looksThrough = undefined
    this.#keepAtMost(caches)
  }

  /** Everything to the disk, and the file no longer than what is used of it. */
  async settle(): Promise<void> {
    if (!this.#ready) return
    this.#unsettled = true
    await this.flush()
    await this.#bitmaps.save()
    await this.#commit.tidy()
    await this.#image.flush()
    const { file } = this.#image.env
    const end = await this.#refcounts.end()
    if (file.driver.can.resize && end < file.length()) {
      await file.resize(end)
      this.#refcounts.cutAt(end)
      await this.#image.flush()
    }
    this.#ready = false
    this.#prepared = undefined
    this.#unsettled = false
  }

  /** Other programs may have changed the image: nothing that was known of it counts. */
  async freshen(): Promise<void> {
    if (this.#ready && !this.#unsettled) return
    // What could not be written when the last user left belongs to an image that others may have changed since.
    this.#ready = false
    this.#prepared = undefined
    this.#unsettled = false
    await this.#reload()
  }

  async #reload(): Promise<void> {
    const header = await loadShown(this.#image.env)
    this.#checkSame(this.#image.header, header)
    this.#image.reloaded(header)
    this.#keepAtMost(this.#options.caches(header.size))
    this.#frees.forget()
    this.#l2Cache.clear()
    this.#blockCache.clear()
    this.#tables.clear()
    this.#looksThrough = undefined
    await this.#loadTables()
    await this.#bitmaps.loadBits()
  }

  #checkSame(before: Header, now: Header): void {
    const alone = this.#options.alone && this.#backing === undefined
    checkSame(before, now, !alone, this.#image.env.name)
  }

  takeOver(previous: MapDriver): void {
    if (!(previous instanceof Qcow2Map)) return
    this.#checkSame(previous.#image.header, this.#image.header)
    this.#image.reloaded(previous.#image.header)
    this.#l1.use(previous.#l1.bytes)
    this.#snapshots = previous.#snapshots
    this.#bitmaps.use(previous.#bitmaps.stored)
  }

  get bitmapStore(): BitmapStore {
    const bitmaps = this.#bitmaps
    return {
      checkNew: (name, granularity) => bitmaps.checkNew(name, granularity),
      hold: async (name) => {
        await this.#makeReady()
        await bitmaps.hold(name)
      },
      holds: (name) => bitmaps.holds(name),
      remove: async (name) => {
        await this.#makeReady()
        await bitmaps.remove(name)
      },
    }
  }

  format(): FormatFacts {
    return formatFacts(this.#image.header, this.#snapshots.list, this.#bitmaps.stored)
  }

  replaceChild(role: string, node: BlockNode | undefined): void {
    const { env } = this.#image
    if (role === 'backing') this.#backing = node
    else if (node !== undefined && role === 'data-file') env.dataFile = node
    else if (node !== undefined) env.file = node
  }

  /** Whatever of it is on the disk when this is cut off, what shows is what is below. */
  async empty(): Promise<void> {
    const { header, clusterSize } = this.#image
    if (this.#image.external) throw new CommandError('An image with a data file cannot be emptied')
    await this.beforeChange()
    await this.#zeroer.drop(0, Math.ceil(header.size / clusterSize) * clusterSize, 'snapshot')
    await this.flush()
  }

  /** What the image shows without being stored in it must be the same with the other backing file. */
  async nameBacking(backing: BackingFile | undefined): Promise<void> {
    await this.#makeReady()
    await this.#image.nameBacking(backing)
  }

  #cleanEvery(seconds: number): NodeJS.Timeout {
    // Longer than a timer can wait is as good as that.
    const timer = setInterval(
      () => {
        this.#l2Cache.forgetUnused()
        this.#blockCache.forgetUnused()
      },
      Math.min(seconds * 1000, 2 ** 31 - 1),
    )
    timer.unref()
    return timer
  }

  #makeReady(): Promise<void> {
    if (this.#ready) return Promise.resolve()
    this.#prepared ??= this.#prepare().catch((error: unknown) => {
      this.#prepared = undefined
      throw error
    })
    return this.#prepared
  }

  /**
   * Before the first change: what an earlier writer left undone is put right, this one learns which clusters are tables,
   * and marks that it must not leave are cleared. Nobody else writes from here on: locks are held.
   */
  async #prepare(): Promise<void> {
    const image = this.#image
    image.checkSound()
    // Marked so since it was opened.
    checkWritable(image.header)
    if (image.header.incompatible.has(Incompatible.dirty)) {
      await repairDirty(image)
      await this.#reload()
    }
    const { guardSnapshots } = this.#options
    await learnTables(image, this.#l1, this.#snapshots, this.#bitmaps.stored, this.#tables, guardSnapshots)
    await this.#refcounts.load()
    this.#allocator.restart()
    const autoclear = autoclearAfterWrites(image.header)
    if (autoclear.size !== image.header.autoclear.size) await image.changeHeader({ autoclear })
    await this.#bitmaps.begin()
    this.#ready = true
  }

  /** Freed places for whoever allocates next. A failure leaves a leak, which the next check finds. */
  async #release(freed: readonly Freed[]): Promise<void> {
    for (const { offset, length, reason } of freed)
      await this.#refcounts.release(offset, length, reason).catch(() => undefined)
  }
}

/** Marks that stay true although the image is written: those this driver keeps true. */
function autoclearAfterWrites(header: Header): Set<number> {
  const known = new Set<number>([Autoclear.rawDataFile, Autoclear.bitmaps])
  return new Set([...header.autoclear].filter((bit) => known.has(bit)))
}
