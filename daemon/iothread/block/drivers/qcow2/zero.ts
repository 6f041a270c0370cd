// SPDX-License-Identifier: Apache-2.0
// Zeroes and discards in the map: entries are changed and places given up, no data is written. The caller holds the
// guest clusters alone.

import { formatL2Entry, type L2Entry } from '../../../../../protocol/qcow2/entries.js'
import { ENOTSUP } from '../../../../common/errno.js'
import { IoError } from '../../../../errors.js'
import type { BlockNode } from '../../node.js'
import { placeOf } from './allocate.js'
import { hasPlace, maskOf, SUBCLUSTERS, UNALLOCATED, withZero } from './cluster.js'
import type { FreeReason, Frees } from './frees.js'
import type { GuestMap } from './guest-map.js'
import type { Image } from './image.js'
import type { L2Tables } from './l2-tables.js'

export interface ZeroParts {
  readonly image: Image
  readonly map: GuestMap
  readonly l2: L2Tables
  readonly frees: Frees
  readonly backing: () => BlockNode | undefined
  /** Discards of guests are passed to the storage below. */
  readonly passDiscard: boolean
  /** Discarded clusters keep their places. */
  readonly keepPlaces: boolean
}

/** What an entry becomes; undefined: it stays. */
type Change = (entry: L2Entry) => L2Entry | undefined

export class Zeroer {
  readonly #parts: ZeroParts

  constructor(parts: ZeroParts) {
    this.#parts = parts
  }

  /**
   * @param stored  also what reads as zero because nothing shows through gets entries
   * @returns bytes that read as zero now; 0 when the beginning can only be written
   */
  async zero(offset: number, length: number, unmap: boolean, stored = false): Promise<number> {
    const { image } = this.#parts
    const { clusterSize } = image
    const unit = image.extended ? clusterSize / SUBCLUSTERS : clusterSize
    const end = offset + length
    const reachesEnd = end >= image.header.size
    const last = reachesEnd ? Math.ceil(end / unit) * unit : Math.floor(end / unit) * unit
    if (offset % unit !== 0 || last <= offset) return 0
    const inCluster = offset % clusterSize
    const wholes = Math.floor(last / clusterSize) * clusterSize
    if (inCluster === 0 && wholes > offset)
      return Math.min(length, await this.#zeroClusters(offset, wholes, unmap, stored))
    const partEnd = Math.min(last, offset - inCluster + clusterSize)
    return (await this.#zeroPart(offset, partEnd - offset, stored)) ? Math.min(length, partEnd - offset) : 0
  }

  /** Whole clusters inside the range lose their places and show zeroes then; where that cannot be, nothing changes. */
  async discard(offset: number, length: number): Promise<void> {
    const { image } = this.#parts
    const backing = this.#parts.backing()
    const { clusterSize } = image
    // Who reads the data file without the map must see the same.
    if (image.rawData) return
    // Version 2 cannot say that they are zero, and what the backing node has there is long out of date.
    if (image.header.version === 2 && backing !== undefined) return
    const reachesEnd = offset + length >= image.header.size
    const start = Math.ceil(offset / clusterSize) * clusterSize
    const end = (reachesEnd ? Math.ceil : Math.floor)((offset + length) / clusterSize) * clusterSize
    for (let at = start; at < end; ) {
      const kept: number[] = []
      const change = (entry: L2Entry) => {
        const next = this.#discarded(entry)
        if (next?.kind === 'standard' && next.offset !== 0) kept.push(next.offset)
        return next
      }
      at = await this.#change(at, end, change, 'request')
      if (!this.#parts.passDiscard) continue
      for (const host of kept) await this.#discardIn(image.env.file, host)
    }
  }

  /** Whole clusters show the backing node, or nothing, again: for what lies beyond a new end. */
  async drop(offset: number, end: number, reason: FreeReason): Promise<void> {
    for (let at = offset; at < end; )
      at = await this.#change(at, end, (entry) => this.#dropped(entry), reason)
  }

  async #zeroClusters(offset: number, end: number, unmap: boolean, stored: boolean): Promise<number> {
    const { image } = this.#parts
    const backing = this.#parts.backing()
    if (image.header.version === 2 && (backing !== undefined || stored)) return 0
    if (image.rawData) {
      await image.ensureLength(Math.min(end, image.header.size), image.dataFile)
      await image.dataFile.zero(offset, Math.min(end, image.header.size) - offset, { unmap, fast: false })
    }
    const keep = !unmap || image.external || this.#parts.keepPlaces
    const emptied: number[] = []
    const change = (entry: L2Entry) => {
      const next = this.#zeroed(entry, keep, stored)
      if (next?.kind === 'standard' && hasPlace(next, image.external)) emptied.push(next.offset)
      return next
    }
    let done = offset
    // A raw data file is zero as far as the request reaches: what is left would be made so again.
    do done = await this.#change(done, end, change, 'request', stored)
    while (image.rawData && done < end)
    const giveBack = unmap && keep && this.#parts.passDiscard && !image.rawData
    for (const host of giveBack ? emptied : []) await this.#empty(host)
    return done - offset
  }

  /** Some subclusters of one cluster. @returns false when its entry cannot say it */
  async #zeroPart(offset: number, length: number, stored: boolean): Promise<boolean> {
    const { image, l2, map } = this.#parts
    if (image.rawData) return false
    const cluster = Math.floor(offset / image.clusterSize)
    const nothing = !stored && this.#showsNothing(cluster * image.clusterSize)
    if (nothing && (await l2.slice(cluster)) === undefined) return true
    await l2.ensureWritable(cluster)
    const slice = await l2.slice(cluster)
    const old = slice === undefined ? undefined : await map.entry(slice, cluster)
    if (old === undefined || old.kind === 'compressed') return false
    const mask = maskOf(offset % image.clusterSize, length, image.clusterSize)
    await this.#change(cluster * image.clusterSize, (cluster + 1) * image.clusterSize, () =>
      withZero(old, true, true, mask),
    )
    return true
  }

  /** Nothing shows through at a guest offset: what is not stored is zero. */
  #showsNothing(offset: number): boolean {
    const backing = this.#parts.backing()
    return backing === undefined || offset >= backing.length()
  }

  #zeroed(entry: L2Entry, keep: boolean, stored = false): L2Entry | undefined {
    const { image } = this.#parts
    const backing = this.#parts.backing()
    const all = 0xffff_ffff
    if (backing === undefined && isNothing(entry) && !stored) return undefined
    if (image.header.version === 2) return UNALLOCATED
    if (entry.kind === 'compressed') return withZero(UNALLOCATED, false, image.extended, all)
    const stays = keep && entry.copied
    const next = withZero(entry, stays, image.extended, all)
    return next.kind === 'standard' && next.offset === entry.offset && isZero(entry) ? undefined : next
  }

  #discarded(entry: L2Entry): L2Entry | undefined {
    const { image, keepPlaces } = this.#parts
    const backing = this.#parts.backing()
    if (isNothing(entry) && backing === undefined) return undefined
    const hasOwn = entry.kind === 'standard' && entry.copied && entry.offset !== 0
    if (keepPlaces && hasOwn && !image.external) return this.#zeroed(entry, true)
    if (backing === undefined) return UNALLOCATED
    return isZero(entry) && entry.offset === 0
      ? undefined
      : withZero(UNALLOCATED, false, image.extended, 0xffff_ffff)
  }

  #dropped(entry: L2Entry): L2Entry | undefined {
    return isNothing(entry) ? undefined : UNALLOCATED
  }

  /**
   * Changes the entries of one slice from `at` on.
   * @param end  bytes, a multiple of the cluster size
   * @param reason  told to the storage below as that; undefined: no place is given up
   * @param stored  see zero()
   * @returns where the next slice begins, at most `end`
   */
  async #change(
    at: number,
    end: number,
    change: Change,
    reason?: FreeReason,
    stored = false,
  ): Promise<number> {
    const { image, l2, map, frees, passDiscard } = this.#parts
    const first = Math.floor(at / image.clusterSize)
    const last = Math.min(end / image.clusterSize, (Math.floor(first / l2.perSlice) + 1) * l2.perSlice)
    const before = await l2.slice(first)
    if (before === undefined && !stored && this.#showsNothing(at)) return this.#skipEmpty(first, end)
    const changes: { cluster: number; old: L2Entry; next: L2Entry }[] = []
    for (let cluster = first; cluster < last; cluster++) {
      const old = before === undefined ? UNALLOCATED : await map.entry(before, cluster)
      const next = change(old)
      if (next !== undefined) changes.push({ cluster, old, next })
    }
    if (changes.length === 0) return last * image.clusterSize
    await l2.ensureWritable(first)
    await l2.change(first, (slice) => {
      for (const { cluster, old, next } of changes) {
        const position = l2.indexIn(cluster) * image.entrySize
        formatL2Entry(slice.view, position, next, image.header.clusterBits, image.extended)
        const freed = placeOf(old, image)
        if (reason !== undefined && freed !== undefined && freed.offset !== next.offset)
          frees.add({ ...freed, reason })
      }
    })
    // Clusters of a data file are nobody else's: it can be told before the change is durable.
    if (image.external && passDiscard && reason === 'request') {
      for (const { cluster, old, next } of changes)
        if (hadPlace(old) && !hadPlace(next))
          await this.#discardIn(image.dataFile, cluster * image.clusterSize)
    }
    return last * image.clusterSize
  }

  /** Storage of a place that is kept and not shown. Zeroes, as after a power cut it may be shown again. */
  async #empty(host: number): Promise<void> {
    const { dataFile, clusterSize } = this.#parts.image
    const length = Math.min(clusterSize, dataFile.length() - host)
    if (length <= 0) return
    try {
      await dataFile.zero(host, length, { unmap: true, fast: true })
    } catch (error) {
      // Storage that cannot do it at once keeps what it has.
      if (!(error instanceof IoError && error.errno === ENOTSUP)) throw error
    }
  }

  async #discardIn(node: BlockNode, offset: number): Promise<void> {
    const length = Math.min(this.#parts.image.clusterSize, node.length() - offset)
    if (length > 0) await node.discard(offset, length)
  }

  /** Clusters without a table, that show nothing: where the next table begins. */
  #skipEmpty(cluster: number, end: number): number {
    const { image } = this.#parts
    const next = (Math.floor(cluster / image.l2Entries) + 1) * image.l2Entries
    return Math.min(end, next * image.clusterSize)
  }
}

/** In a data file, whose first cluster has offset 0. */
function hadPlace(entry: L2Entry): boolean {
  return entry.kind === 'standard' && hasPlace(entry, true)
}

/** Neither stored nor zero. */
function isNothing(entry: L2Entry): boolean {
  if (entry.kind === 'compressed' || entry.offset !== 0 || entry.copied || entry.zero) return false
  return (
    entry.subclusters === undefined || (entry.subclusters.allocated === 0 && entry.subclusters.zero === 0)
  )
}

/** All of it reads as zero by its entry. */
function isZero(entry: L2Entry): boolean {
  if (entry.kind === 'compressed') return false
  return entry.subclusters === undefined ? entry.zero : entry.subclusters.zero === 0xffff_ffff
}
