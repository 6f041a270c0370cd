// SPDX-License-Identifier: Apache-2.0
// Zeroes among data that was read: a guest writes them into files, and a copy had better not store them. Used by RangeCopy.
//
// Where to look: a run that is cut out becomes a request of its own, and a hole between data makes a file of more extents. So
// only runs of 64 KiB count, or of a cluster where the target's are smaller, unless the user says how long they are to be.

import { pageBits } from '../../../native/page-scanner.js'
import type { IoEngine } from '../../../native/types.js'
import type { Area } from './dirty-bitmap.js'
import type { Slice } from './driver.js'

/** Bytes. */
const USUAL_UNIT = 64 * 1024
const LEAST_UNIT = 4096

/** A part of a range that was read. */
export interface Found extends Area {
  readonly zero: boolean
}

/**
 * @param cluster  what the target writes whole, bytes; a power of two. Undefined: anything
 * @param asked    shortest run, bytes; 0: what is usual
 * @returns a power of two, of several that are possible the longest that finds all runs of the length asked for
 */
export function unitFor(cluster: number | undefined, asked = 0): number {
  const whole = Math.max(LEAST_UNIT, cluster ?? 0)
  if (asked > 0) return Math.max(whole, 2 ** Math.floor(Math.log2(asked)))
  return cluster === undefined || cluster <= 1 ? USUAL_UNIT : whole
}

/**
 * @param offset  of the range in its node; units are counted from the node's beginning
 * @param unit    power of two, at least 4096, bytes
 * @returns its parts in order, neighbours of different kinds
 */
export function zeroRuns(engine: IoEngine, offset: number, from: Slice, unit: number): Found[] {
  const end = offset + from.length
  const first = Math.ceil(offset / unit) * unit
  const count = Math.floor((end - first) / unit)
  if (count <= 0) return [{ offset, length: from.length, zero: false }]
  const bits = pageBits(engine, from.slot, from.offset + (first - offset), count * unit, unit)
  const runs: Found[] = []
  let start = offset
  let zero = false
  for (let index = 0; index < count; index++) {
    const here = ((bits[index >> 3] ?? 0) & (1 << (index & 7))) === 0
    if (here === zero) continue
    const at = first + index * unit
    if (at > start) runs.push({ offset: start, length: at - start, zero })
    start = at
    zero = here
  }
  const last = first + count * unit
  // What is left behind the last whole unit may be anything.
  if (zero && last < end) {
    runs.push({ offset: start, length: last - start, zero })
    start = last
    zero = false
  }
  runs.push({ offset: start, length: end - start, zero })
  return runs
}
