// SPDX-License-Identifier: Apache-2.0
// Places for guest data that cannot be written where it is: new host clusters, or one that was kept below zeroes.
// The caller holds the guest clusters alone, so their entries stay as they were read until link().

import type { L2Entry } from '../../../../../protocol/qcow2/entries.js'
import { formatL2Entry } from '../../../../../protocol/qcow2/entries.js'
import type { Allocation, PackedPlaces } from '../../mapping.js'
import type { BlockNode } from '../../node.js'
import { hasPlace, maskOf, type Shown, SUBCLUSTERS, withPlace } from './cluster.js'
import type { Freed, Frees } from './frees.js'
import type { GuestMap } from './guest-map.js'
import type { Image } from './image.js'
import type { L2Tables } from './l2-tables.js'
import type { TableClusters } from './overlap.js'
import { type HostRange, type Refcounts, roundUp } from './refcounts.js'
import type { TableSlice } from './table-cache.js'
import { Turns } from './turn.js'

const SECTOR = 512

export interface AllocateParts {
  readonly image: Image
  readonly map: GuestMap
  readonly l2: L2Tables
  readonly refcounts: Refcounts
  readonly frees: Frees
  readonly tables: TableClusters
}

/** Entries of neighbouring clusters that are treated alike. */
interface Run {
  readonly cluster: number
  readonly entries: readonly L2Entry[]
  /** Host offset of the place that is there already. */
  readonly kept: number | undefined
  /** What they become. */
  readonly shown: Shown
}

export class Allocator {
  readonly #parts: AllocateParts
  readonly #packing = new Turns()
  /** Where the next packed cluster goes: host offset, 0 = into a new host cluster. */
  #packedAt = 0

  constructor(parts: AllocateParts) {
    this.#parts = parts
    // A cluster that was freed may be anybody's next.
    parts.refcounts.whenFree = (offset) => {
      const { clusterSize } = parts.image
      if (offset === this.#packedAt - (this.#packedAt % clusterSize)) this.#packedAt = 0
    }
  }

  /** @param shown  what is linked; other than data: see withPlace() */
  async allocate(offset: number, length: number, shown: Shown = 'data'): Promise<Allocation> {
    const { image, l2, refcounts, tables } = this.#parts
    const cluster = Math.floor(offset / image.clusterSize)
    await l2.ensureWritable(cluster)
    const run = await this.#run(cluster, offset + length, shown)
    if (image.external) return await this.#external(run, offset, length)
    if (run.kept !== undefined) {
      const table = tables.find(run.kept, run.entries.length * image.clusterSize)
      if (table !== undefined)
        throw await image.corrupt(
          'write',
          `Preventing invalid write on metadata (overlaps with ${table})`,
          run.kept,
        )
      return this.#place(run, run.kept, false, offset, length, undefined)
    }
    const range = await refcounts.allocate(run.entries.length)
    const entries = run.entries.slice(0, range.length / image.clusterSize)
    return this.#place({ ...run, entries }, range.offset, range.blank, offset, length, range)
  }

  /** Room for packed clusters behind those packed before, while they fit into one host cluster or continue in the next. */
  async allocatePacked(offset: number, sizes: readonly number[]): Promise<PackedPlaces | undefined> {
    const { image, l2, map } = this.#parts
    if (image.external) return undefined
    const cluster = Math.floor(offset / image.clusterSize)
    const olds: (L2Entry | undefined)[] = []
    for (const [index, size] of sizes.entries()) {
      if (size > 0) await l2.ensureWritable(cluster + index)
      const slice = size > 0 ? await l2.slice(cluster + index) : undefined
      olds.push(slice === undefined ? undefined : await map.entry(slice, cluster + index))
    }
    const hosts = await this.#packing.run(() => this.#packedRooms(sizes))
    return {
      file: image.env.file,
      hosts,
      align: this.#packedAlign(),
      link: () => this.#linkPacked(cluster, olds, hosts, sizes),
      abandon: () => this.#unpack(hosts, sizes),
    }
  }

  /** What the file below wants requests to be multiples of; small clusters are not spent on it. */
  #packedAlign(): number {
    const { clusterSize, env } = this.#parts.image
    const { requestAlign } = env.file.driver.limits
    return requestAlign * 8 <= clusterSize ? requestAlign : 1
  }

  /** Others may have changed the image: what was begun is not continued. */
  restart(): void {
    this.#packedAt = 0
  }

  /** All of them, or none when there is no room. */
  async #packedRooms(sizes: readonly number[]): Promise<(number | undefined)[]> {
    const hosts: (number | undefined)[] = []
    // Clusters packed at once begin with a block of their own, so that they are written without reading.
    this.#packedAt = roundUp(this.#packedAt, this.#packedAlign())
    if (this.#packedAt % this.#parts.image.clusterSize === 0) this.#packedAt = 0
    try {
      for (const size of sizes) hosts.push(size > 0 ? await this.#packedRoom(size) : undefined)
      return hosts
    } catch (error) {
      await this.#unpack(hosts, sizes)
      throw error
    }
  }

  async #unpack(hosts: readonly (number | undefined)[], sizes: readonly number[]): Promise<void> {
    for (const [index, host] of hosts.entries())
      if (host !== undefined) await this.#parts.refcounts.release(host, sizes[index] ?? 0)
  }

  /** Shows packed clusters, those of one slice at once. After a failure the places of the others are free again. */
  async #linkPacked(
    cluster: number,
    olds: readonly (L2Entry | undefined)[],
    hosts: readonly (number | undefined)[],
    sizes: readonly number[],
  ): Promise<void> {
    const { perSlice } = this.#parts.l2
    for (let index = 0; index < olds.length; ) {
      const rest = perSlice - ((cluster + index) % perSlice)
      const first = index
      const entries = olds.slice(first, first + rest)
      const entry = (_old: L2Entry, at: number): L2Entry => {
        const host = hosts[first + at] ?? 0
        const size = sizes[first + at] ?? 0
        const length = Math.ceil(((host % SECTOR) + size) / SECTOR) * SECTOR - (host % SECTOR)
        return { kind: 'compressed', offset: host, length }
      }
      await this.#link(cluster + first, entries, entry, () =>
        this.#unpack(hosts.slice(first), sizes.slice(first)),
      )
      index += entries.length
    }
  }

  /** Host offset for packed bytes; every host cluster they touch is used once more. */
  async #packedRoom(size: number): Promise<number> {
    const { image, refcounts } = this.#parts
    const { clusterSize } = image
    const at = this.#packedAt
    const left = at === 0 ? 0 : clusterSize - (at % clusterSize)
    const useAgain = () => refcounts.addUse(at - (at % clusterSize), () => this.#packedAt === at)
    if (left >= size && (await useAgain())) {
      this.#packedAt = left === size ? 0 : at + size
      return at
    }
    const fresh = await refcounts.allocate(1)
    // Bytes may cross into the new cluster when it follows the old one.
    if (left > 0 && left < size && fresh.offset === at + left) {
      const crosses = await useAgain().catch(async (error: unknown) => {
        await refcounts.release(fresh.offset, fresh.length)
        throw error
      })
      if (crosses) {
        this.#packedAt = at + size
        return at
      }
    }
    this.#packedAt = size === clusterSize ? 0 : fresh.offset + size
    return fresh.offset
  }

  /** Neighbours from `cluster` on that need the same, to the end of the request or of the slice. */
  async #run(cluster: number, end: number, shown: Shown): Promise<Run> {
    const { image, l2, map } = this.#parts
    const slice = await l2.slice(cluster)
    if (slice === undefined) throw new Error(`no L2 table for cluster ${cluster}`)
    const last = Math.min(
      Math.ceil(end / image.clusterSize),
      (Math.floor(cluster / l2.perSlice) + 1) * l2.perSlice,
    )
    const first = await map.entry(slice, cluster)
    const kept = this.#keptPlace(first)
    const entries = [first]
    for (let next = cluster + 1; next < last; next++) {
      const entry = await map.entry(slice, next)
      const place = this.#keptPlace(entry)
      const alike =
        kept === undefined ? place === undefined : place === kept + entries.length * image.clusterSize
      if (!alike || this.#shownInPlace(entry)) break
      entries.push(entry)
    }
    return { cluster, entries, kept, shown }
  }

  /** A host cluster of its own that can be written without anybody seeing it. */
  #keptPlace(entry: L2Entry): number | undefined {
    const { external } = this.#parts.image
    if (entry.kind !== 'standard' || !entry.copied) return undefined
    return hasPlace(entry, external) ? entry.offset : undefined
  }

  /** All of it is data that can be written where it is. */
  #shownInPlace(entry: L2Entry): boolean {
    if (entry.kind !== 'standard' || !entry.copied || entry.zero) return false
    return entry.subclusters === undefined || entry.subclusters.allocated === 0xffff_ffff
  }

  /** Data in the external file lies where the guest has it. */
  async #external(run: Run, offset: number, length: number): Promise<Allocation> {
    const { image } = this.#parts
    const host = run.cluster * image.clusterSize
    const end = Math.min(host + run.entries.length * image.clusterSize, image.header.size)
    await image.ensureLength(end, image.dataFile)
    return this.#place(run, host, false, offset, length, undefined)
  }

  /**
   * @param host   place of the run's first cluster
   * @param taken  host clusters to be given back when nothing comes of it
   */
  #place(
    run: Run,
    host: number,
    blank: boolean,
    offset: number,
    length: number,
    taken: HostRange | undefined,
  ): Allocation {
    const { image, refcounts } = this.#parts
    const { clusterSize } = image
    const giveBack = async () => {
      if (taken !== undefined) await refcounts.release(taken.offset, run.entries.length * clusterSize)
    }
    const start = run.cluster * clusterSize
    const shown = this.#shownRange(run, offset, length)
    const masks = run.entries.map((_, index) => {
      const from = Math.max(0, shown.start - start - index * clusterSize)
      const to = Math.min(clusterSize, shown.end - start - index * clusterSize)
      return maskOf(from, to - from, clusterSize)
    })
    const file: BlockNode = image.dataFile
    return {
      offset: shown.start,
      length: shown.end - shown.start,
      file,
      host: host + (shown.start - start),
      blank,
      link: () =>
        this.#link(
          run.cluster,
          run.entries,
          (old, index) =>
            withPlace(old, host + index * clusterSize, image.extended, masks[index] ?? 0, run.shown),
          giveBack,
        ),
      abandon: giveBack,
    }
  }

  /** The request widened to clusters, or to subclusters where the rest of the cluster shows what it showed. */
  #shownRange(run: Run, offset: number, length: number): { start: number; end: number } {
    const { image } = this.#parts
    const { clusterSize } = image
    const begin = run.cluster * clusterSize
    const finish = begin + run.entries.length * clusterSize
    const unit = clusterSize / SUBCLUSTERS
    const fine = (entry: L2Entry | undefined) =>
      image.extended &&
      entry?.kind === 'standard' &&
      (this.#keptPlace(entry) !== undefined || entry.offset === 0)
    const start = fine(run.entries[0]) ? Math.floor(offset / unit) * unit : begin
    const wanted = Math.min(finish, offset + length)
    const end = fine(run.entries.at(-1)) ? Math.ceil(wanted / unit) * unit : finish
    // A data file ends with the disk, maybe inside a cluster.
    const there = image.external ? roundUp(image.dataFile.length(), SECTOR) : finish
    return { start: Math.max(start, begin), end: Math.min(end, finish, there) }
  }

  /**
   * Shows the new entries, and gives up the places of the old ones; undefined: an entry that stays.
   * @param giveBack  frees the new places; called after a failure before the first entry changed, in memory or on the disk.
   *     What an entry may show stays in use: a leak is better than a place that two have.
   */
  async #link(
    cluster: number,
    olds: readonly (L2Entry | undefined)[],
    entry: (old: L2Entry, index: number) => L2Entry,
    giveBack: () => Promise<void>,
  ): Promise<void> {
    const { image, l2, frees } = this.#parts
    if (olds.every((old) => old === undefined)) return
    let begun = false
    const change = (slice: TableSlice) => {
      begun = true
      for (const [index, old] of olds.entries()) {
        if (old === undefined) continue
        const at = l2.indexIn(cluster + index) * image.entrySize
        const next = entry(old, index)
        formatL2Entry(slice.view, at, next, image.header.clusterBits, image.extended)
        const freed = placeOf(old, image)
        if (freed !== undefined && freed.offset !== next.offset) frees.add(freed)
      }
    }
    try {
      await l2.change(cluster, change)
    } catch (error) {
      // What cannot be given back is a leak, which the next check finds.
      if (!begun) await giveBack().catch(() => undefined)
      throw error
    }
  }
}

/** The storage behind an entry; undefined where it has none of its own in the image. */
export function placeOf(entry: L2Entry, image: Image): Freed | undefined {
  if (entry.kind === 'compressed') return { offset: entry.offset, length: entry.length, reason: 'other' }
  if (entry.offset === 0 || image.external) return undefined
  return { offset: entry.offset, length: image.clusterSize, reason: 'other' }
}
