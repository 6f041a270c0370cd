// SPDX-License-Identifier: Apache-2.0
// Entries of L1, L2 and refcount tables. Source: docs/interop/qcow2 of QEMU, "Cluster mapping", "Extended L2 Entries".
// Values of 64 bits are handled as two halves; host offsets (56 bits, always whole sectors) become numbers.
//
//   L2 entry, standard    63 copied | 62 = 0 | 61..56 reserved | 55..9 host offset | 8..1 reserved | 0 reads as zero
//   L2 entry, compressed  62 = 1 | 61..x sectors beyond the first | x-1..0 host offset, x = 62 - (clusterBits - 8)

import { FormatError } from '../format-error.js'
import { setUint64 } from './bytes.js'

const HIGH = 2 ** 32
const COPIED = 0x8000_0000
const COMPRESSED = 0x4000_0000
const OFFSET_HIGH = 0x00ff_ffff
const OFFSET_LOW = 0xffff_fe00
const RESERVED_HIGH = 0x3f00_0000
const RESERVED_LOW = 0x1fe
const SECTOR = 512

export interface TableEntry {
  /** Host offset of a table, 0 = none. */
  readonly offset: number
  /** Its refcount is exactly one (L1 entries). */
  readonly copied: boolean
}

/** Bits that must be clear are checked by the reader of the whole: `reserved` says that some are set. */
export function parseL1Entry(view: DataView, at: number): TableEntry & { readonly reserved: boolean } {
  const high = view.getUint32(at)
  const low = view.getUint32(at + 4)
  return {
    offset: (high & OFFSET_HIGH) * HIGH + ((low & OFFSET_LOW) >>> 0),
    copied: (high & COPIED) !== 0,
    reserved: (high & 0x7f00_0000) !== 0 || (low & 0x1ff) !== 0,
  }
}

export function formatL1Entry(view: DataView, at: number, entry: TableEntry): void {
  setUint64(view, at, entry.offset)
  if (entry.copied) view.setUint32(at, (view.getUint32(at) | COPIED) >>> 0)
}

/** 32 bits each, bit x for subcluster x. A subcluster is never both. */
export interface Subclusters {
  readonly allocated: number
  readonly zero: number
}

export type L2Entry =
  /** `offset` 0 without `copied`: no host cluster. With an external data file 0 with `copied` is cluster 0. */
  | {
      readonly kind: 'standard'
      readonly offset: number
      readonly copied: boolean
      /** Reads as zero (without extended entries). */
      readonly zero: boolean
      /** Extended entries only. */
      readonly subclusters: Subclusters | undefined
    }
  /** `length`: bytes to read at `offset`, to the end of a sector; the data may end earlier. */
  | { readonly kind: 'compressed'; readonly offset: number; readonly length: number }

/**
 * @param extended  entries have 16 bytes
 * @throws FormatError for reserved bits, or for subclusters both allocated and zero
 */
export function parseL2Entry(view: DataView, at: number, clusterBits: number, extended: boolean): L2Entry {
  const high = view.getUint32(at)
  const low = view.getUint32(at + 4)
  if ((high & COMPRESSED) !== 0) return parseCompressed(high, low, clusterBits)
  const zero = (low & 1) !== 0
  if ((high & RESERVED_HIGH) !== 0 || (low & RESERVED_LOW) !== 0 || (zero && extended))
    throw new FormatError('reserved bits of an L2 entry are set')
  return {
    kind: 'standard',
    offset: (high & OFFSET_HIGH) * HIGH + ((low & OFFSET_LOW) >>> 0),
    copied: (high & COPIED) !== 0,
    zero,
    subclusters: extended ? parseSubclusters(view, at + 8) : undefined,
  }
}

/**
 * How many standard entries from `at` on, at most `most`, name one host cluster after the other and say nothing else of them.
 * @param host  host offset of the first
 */
export function countInLine(
  view: DataView,
  at: number,
  most: number,
  { host, copied, clusterSize }: { host: number; copied: boolean; clusterSize: number },
): number {
  const flags = copied ? COPIED : 0
  let count = 0
  for (; count < most; count++, at += 8) {
    const expected = host + count * clusterSize
    if (view.getUint32(at + 4) !== expected % HIGH) break
    if (view.getUint32(at) !== flags + Math.floor(expected / HIGH)) break
  }
  return count
}

export function formatL2Entry(
  view: DataView,
  at: number,
  entry: L2Entry,
  clusterBits: number,
  extended: boolean,
): void {
  if (extended) {
    const subclusters = entry.kind === 'standard' ? entry.subclusters : undefined
    view.setUint32(at + 8, subclusters?.zero ?? 0)
    view.setUint32(at + 12, subclusters?.allocated ?? 0)
  }
  if (entry.kind === 'compressed') {
    formatCompressed(view, at, entry, clusterBits)
    return
  }
  setUint64(view, at, entry.offset)
  if (entry.zero) view.setUint32(at + 4, (view.getUint32(at + 4) | 1) >>> 0)
  if (entry.copied) view.setUint32(at, (view.getUint32(at) | COPIED) >>> 0)
}

/** Host offset of a refcount block, 0 = none. `reserved`: bits that must be clear are set. */
export function parseRefcountTableEntry(view: DataView, at: number): { offset: number; reserved: boolean } {
  const low = view.getUint32(at + 4)
  return { offset: view.getUint32(at) * HIGH + ((low & OFFSET_LOW) >>> 0), reserved: (low & 0x1ff) !== 0 }
}

function parseSubclusters(view: DataView, at: number): Subclusters {
  const subclusters = { zero: view.getUint32(at), allocated: view.getUint32(at + 4) }
  if ((subclusters.zero & subclusters.allocated) !== 0)
    throw new FormatError('a subcluster of an L2 entry is both allocated and zero')
  return subclusters
}

/** Bits of the host offset that lie in the high half. 9 … 21 cluster bits give 61 … 49 offset bits. */
function offsetBits(clusterBits: number): number {
  return 62 - (clusterBits - 8) - 32
}

function parseCompressed(high: number, low: number, clusterBits: number): L2Entry {
  const bits = offsetBits(clusterBits)
  const offset = (high & (2 ** bits - 1)) * HIGH + low
  const sectors = ((high & 0x3fff_ffff) >>> bits) + 1
  return { kind: 'compressed', offset, length: sectors * SECTOR - (offset % SECTOR) }
}

function formatCompressed(
  view: DataView,
  at: number,
  entry: { readonly offset: number; readonly length: number },
  clusterBits: number,
): void {
  const sectors = Math.ceil(((entry.offset % SECTOR) + entry.length) / SECTOR) - 1
  const high = Math.floor(entry.offset / HIGH)
  view.setUint32(at, (COMPRESSED | (sectors << offsetBits(clusterBits)) | high) >>> 0)
  view.setUint32(at + 4, entry.offset % HIGH)
}
