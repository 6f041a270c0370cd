// SPDX-License-Identifier: Apache-2.0
// From guest offsets to mappings: reads L2 entries, distrusts them, and joins neighbours that lie in line. Used by the
// qcow2 map for reads, and to find what a write may go over.

import { FormatError } from '../../../../../protocol/format-error.js'
import { countInLine, type L2Entry, parseL2Entry } from '../../../../../protocol/qcow2/entries.js'
import { Incompatible } from '../../../../../protocol/qcow2/header.js'
import type { Mapping } from '../../mapping.js'
import { hasPlace, shownAt } from './cluster.js'
import type { Image } from './image.js'
import type { L1Table } from './l1-table.js'
import type { L2Tables } from './l2-tables.js'
import type { TableClusters } from './overlap.js'
import { roundUp } from './refcounts.js'
import type { TableSlice } from './table-cache.js'

/** What a mapping is wanted for. */
type Use = 'read' | 'write'

export class GuestMap {
  readonly #image: Image
  readonly #l1: L1Table
  readonly #l2: L2Tables
  readonly #tables: TableClusters

  constructor(image: Image, l1: L1Table, l2: L2Tables, tables: TableClusters) {
    this.#image = image
    this.#l1 = l1
    this.#l2 = l2
    this.#tables = tables
  }

  /** The first mapping at `offset`, at most `length` bytes; at once when its table is in memory. */
  map(offset: number, length: number, use: Use = 'read'): Mapping | Promise<Mapping> {
    const slice = this.#l2.slice(Math.floor(offset / this.#image.clusterSize), use)
    if (slice === undefined) return { kind: 'backing', offset, length: this.#emptyFrom(offset, length) }
    if (slice instanceof Promise) return slice.then((loaded) => this.#first(loaded, offset, length, use))
    return this.#first(slice, offset, length, use)
  }

  /** All mappings from `offset` on that one slice tells, at least one, at most `length` bytes. */
  maps(offset: number, length: number, use: Use = 'read'): readonly Mapping[] | Promise<readonly Mapping[]> {
    const slice = this.#l2.slice(Math.floor(offset / this.#image.clusterSize), use)
    if (slice === undefined) return [{ kind: 'backing', offset, length: this.#emptyFrom(offset, length) }]
    if (slice instanceof Promise)
      return slice.then((loaded) => this.#inSlice(loaded, offset, length, use, false))
    return this.#inSlice(slice, offset, length, use, false)
  }

  /**
   * The entry of a guest cluster that is to be changed.
   * @throws IoError when it is not one; the image is corrupt then
   */
  async entry(slice: TableSlice, cluster: number): Promise<L2Entry> {
    try {
      return this.parse(slice, cluster)
    } catch (error) {
      throw await this.#bad(error, cluster * this.#image.clusterSize, 'write')
    }
  }

  /** @throws FormatError */
  parse(slice: TableSlice, cluster: number): L2Entry {
    const { entrySize, extended, header } = this.#image
    const entry = parseL2Entry(
      slice.view,
      this.#l2.indexIn(cluster) * entrySize,
      header.clusterBits,
      extended,
    )
    this.#check(entry, cluster)
    return entry
  }

  /** Bytes without any L2 table. */
  #emptyFrom(offset: number, length: number): number {
    const span = this.#image.l2Span
    let index = Math.floor(offset / span)
    const end = offset + length
    do index += 1
    while (index * span < end && (index >= this.#l1.size || this.#l1.isEmpty(index)))
    return Math.min(end, index * span) - offset
  }

  async #bad(error: unknown, offset: number, use: Use): Promise<unknown> {
    if (!(error instanceof FormatError)) return error
    return await this.#image.corrupt(use, error.message, offset)
  }

  #first(slice: TableSlice, offset: number, length: number, use: Use): Mapping | Promise<Mapping> {
    const found = this.#inSlice(slice, offset, length, use, true)
    return found instanceof Promise ? found.then(first) : first(found)
  }

  #inSlice(
    slice: TableSlice,
    offset: number,
    length: number,
    use: Use,
    single: boolean,
  ): readonly Mapping[] | Promise<readonly Mapping[]> {
    const { clusterSize } = this.#image
    const perSlice = this.#l2.perSlice
    const last = (Math.floor(offset / clusterSize / perSlice) + 1) * perSlice * clusterSize
    const end = Math.min(offset + length, last)
    try {
      let found = this.#run(slice, offset, end)
      const list: Mapping[] = []
      for (let at = offset + found.length; at < end; ) {
        const next = this.#run(slice, at, end)
        at += next.length
        if (follows(found, next)) {
          found = { ...found, length: found.length + next.length }
          continue
        }
        if (single) return [found]
        list.push(found)
        found = next
      }
      list.push(found)
      return list
    } catch (error) {
      return this.#bad(error, offset, use).then((reason) => Promise.reject(reason))
    }
  }

  /** What one entry says at `offset`, with the clusters that plainly go on from there: most images have many in line. */
  #run(slice: TableSlice, offset: number, end: number): Mapping {
    const found = this.#piece(slice, offset, end)
    const { clusterSize, env, extended, external } = this.#image
    const next = offset + found.length
    if (found.kind !== 'data' || next >= end || extended || external) return found
    const host = found.host + found.length
    const inFile = roundUp(env.file.length(), clusterSize) - host
    const most = Math.floor(Math.min(roundUp(end, clusterSize) - next, inFile) / clusterSize)
    const at = this.#l2.indexIn(next / clusterSize) * 8
    const like = { host, copied: found.writable, clusterSize }
    const length = Math.min(countInLine(slice.view, at, most, like) * clusterSize, end - next)
    if (length === 0 || (found.writable && this.#tables.find(host, length) !== undefined)) return found
    return { ...found, length: found.length + length }
  }

  /** What one entry says at `offset`. */
  #piece(slice: TableSlice, offset: number, end: number): Mapping {
    const { clusterSize, external } = this.#image
    const cluster = Math.floor(offset / clusterSize)
    const inCluster = offset - cluster * clusterSize
    const entry = this.parse(slice, cluster)
    if (entry.kind === 'compressed') {
      const length = Math.min(end - offset, clusterSize - inCluster)
      const { offset: host, length: size } = entry
      return { kind: 'compressed', offset, length, skip: inCluster, file: this.#image.env.file, host, size }
    }
    const { shown, length: atMost } = shownAt(entry, inCluster, clusterSize, external)
    const length = Math.min(end - offset, atMost)
    const host = entry.offset + inCluster
    if (shown === 'backing') return { kind: 'backing', offset, length }
    if (shown === 'zero') return { kind: 'zero', offset, length, host: entry.offset === 0 ? undefined : host }
    // Where an entry of a damaged image leads into a table, the way of a new place finds that out.
    const writable = external || (entry.copied && this.#tables.find(host, length) === undefined)
    return { kind: 'data', offset, length, file: this.#image.dataFile, host, writable }
  }

  #check(entry: L2Entry, cluster: number): void {
    const { clusterSize, external, env, header } = this.#image
    const { offset } = entry
    if (entry.kind === 'compressed') {
      if (header.incompatible.has(Incompatible.dataFile))
        throw new FormatError('Compressed cluster in an image with external data file')
      if (offset + entry.length > roundUp(env.file.length(), clusterSize))
        throw new FormatError(
          `Compressed cluster at 0x${offset.toString(16)} lies beyond the end of the file`,
        )
      return
    }
    if (!hasPlace(entry, external)) {
      if (entry.subclusters === undefined || entry.subclusters.allocated === 0) return
      throw new FormatError(`Subclusters of guest cluster ${cluster} are allocated without a host cluster`)
    }
    if (offset % clusterSize !== 0)
      throw new FormatError(
        `Cluster allocation offset 0x${offset.toString(16)} unaligned (guest cluster ${cluster})`,
      )
    if (external) {
      if (offset === cluster * clusterSize) return
      throw new FormatError(
        `External data file host cluster offset 0x${offset.toString(16)} does not match guest cluster offset ` +
          `0x${(cluster * clusterSize).toString(16)}`,
      )
    }
    if (offset >= roundUp(env.file.length(), clusterSize))
      throw new FormatError(
        `Cluster allocation offset 0x${offset.toString(16)} lies beyond the end of the file`,
      )
  }
}

function first(list: readonly Mapping[]): Mapping {
  const [found] = list
  if (found === undefined) throw new Error('a slice tells at least one mapping')
  return found
}

function follows(found: Mapping, next: Mapping): boolean {
  switch (found.kind) {
    case 'data':
      return (
        next.kind === 'data' && next.writable === found.writable && next.host === found.host + found.length
      )
    case 'zero':
      if (next.kind !== 'zero') return false
      return found.host === undefined ? next.host === undefined : next.host === found.host + found.length
    case 'backing':
      return next.kind === 'backing'
    case 'compressed':
      return false
    default:
      return found satisfies never
  }
}
