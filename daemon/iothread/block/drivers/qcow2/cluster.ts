// SPDX-License-Identifier: Apache-2.0
// One guest cluster: what its L2 entry says about a part of it. Pure. Extended entries tell for each of 32 subclusters;
// others are treated as if all 32 were alike.

import type { L2Entry, Subclusters } from '../../../../../protocol/qcow2/entries.js'

export const SUBCLUSTERS = 32
const ALL = 0xffff_ffff

/** What a part of a cluster is. */
export type Shown = 'data' | 'zero' | 'backing'

type Standard = Extract<L2Entry, { kind: 'standard' }>

/** Whether the entry names a host cluster. @param external  of a data file, whose first cluster is at 0 */
export function hasPlace(entry: Standard, external: boolean): boolean {
  return entry.offset !== 0 || (external && entry.copied)
}

/** @param bit  number of the subcluster */
function shownBy(subclusters: Subclusters, bit: number): Shown {
  const mask = 2 ** bit
  if ((subclusters.allocated & mask) !== 0) return 'data'
  return (subclusters.zero & mask) !== 0 ? 'zero' : 'backing'
}

/**
 * What the cluster shows at `inCluster`, and for how many bytes at most to the end of the cluster.
 * @param clusterSize  bytes
 */
export function shownAt(
  entry: Standard,
  inCluster: number,
  clusterSize: number,
  external: boolean,
): { shown: Shown; length: number } {
  const { subclusters } = entry
  const rest = clusterSize - inCluster
  if (subclusters === undefined) {
    if (entry.zero) return { shown: 'zero', length: rest }
    return { shown: hasPlace(entry, external) ? 'data' : 'backing', length: rest }
  }
  const size = clusterSize / SUBCLUSTERS
  let bit = Math.floor(inCluster / size)
  const shown = shownBy(subclusters, bit)
  while (bit < SUBCLUSTERS && shownBy(subclusters, bit) === shown) bit += 1
  return { shown, length: bit * size - inCluster }
}

/** Bits of the subclusters that a range inside the cluster touches. `length` > 0. */
export function maskOf(inCluster: number, length: number, clusterSize: number): number {
  const size = clusterSize / SUBCLUSTERS
  const first = Math.floor(inCluster / size)
  const last = Math.ceil((inCluster + length) / size)
  return last - first >= SUBCLUSTERS ? ALL : ((2 ** (last - first) - 1) << first) >>> 0
}

/** An entry whose range became data at `offset`. @param mask  the subclusters that did */
export function withData(old: L2Entry, offset: number, extended: boolean, mask: number): Standard {
  const standard = { kind: 'standard', offset, copied: true, zero: false } as const
  if (!extended) return { ...standard, subclusters: undefined }
  const before = old.kind === 'standard' ? old.subclusters : undefined
  return {
    ...standard,
    subclusters: {
      allocated: ((before?.allocated ?? 0) | mask) >>> 0,
      zero: ((before?.zero ?? 0) & ~mask) >>> 0,
    },
  }
}

/** An entry whose range became zero. @param keep  its place stays */
export function withZero(old: Standard, keep: boolean, extended: boolean, mask: number): L2Entry {
  const place = keep ? { offset: old.offset, copied: old.copied } : { offset: 0, copied: false }
  if (!extended) return { kind: 'standard', ...place, zero: true, subclusters: undefined }
  const { allocated = 0, zero = 0 } = old.subclusters ?? {}
  return {
    kind: 'standard',
    ...place,
    zero: false,
    subclusters: { allocated: (allocated & ~mask) >>> 0, zero: (zero | mask) >>> 0 },
  }
}

/**
 * An entry whose range has its place at `offset`, which reads as zero.
 * @param shown  what it is then: data, zeroes, or of extended entries nothing yet
 */
export function withPlace(
  old: L2Entry,
  offset: number,
  extended: boolean,
  mask: number,
  shown: Shown,
): L2Entry {
  const data = withData(old, offset, extended, mask)
  switch (shown) {
    case 'data':
      return data
    case 'zero':
      return withZero(data, true, extended, mask)
    case 'backing':
      return { ...data, subclusters: { allocated: 0, zero: 0 } }
    default:
      return shown satisfies never
  }
}

/** An entry without anything. */
export const UNALLOCATED: Standard = {
  kind: 'standard',
  offset: 0,
  copied: false,
  zero: false,
  subclusters: undefined,
}
