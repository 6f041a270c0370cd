// SPDX-License-Identifier: Apache-2.0
// How fine the dirty bitmap of a copy is. Used by the jobs and drivers that copy.

import { CommandError } from '../../errors.js'

const DEFAULT = 65536
/** Longest bitmap, bits: a quarter of a GiB of memory. With the default granularity that covers 128 TiB. */
const MAX_CHUNKS = 2 ** 31

/**
 * Bytes per dirty bit; of a very large disk more than by default.
 * @param wanted  0 = default
 * @throws CommandError for one so fine that the bitmap would not fit into memory
 */
export function granularityFor(length: number, wanted: number): number {
  const least = 2 ** Math.ceil(Math.log2(Math.max(1, length / MAX_CHUNKS)))
  if (wanted === 0) return Math.max(DEFAULT, least)
  if (wanted < least)
    throw new CommandError(`Parameter 'granularity' expects at least ${least} for a disk of ${length} bytes`)
  return wanted
}

/**
 * The same for a snapshot, whose chunks the target stores whole.
 * @param cluster  what the target writes whole, bytes
 * @param least    0 = default
 */
export function chunkFor(length: number, cluster: number, least: number): number {
  return Math.max(granularityFor(length, 0), cluster, least)
}

/**
 * How much is copied at once.
 * @param most   bytes; of a target that wants more to be whole, that
 * @param whole  what the target wants whole, a power of two; undefined: anything
 */
export function wholePiece(most: number, whole = 1): number {
  return Math.max(whole, Math.floor(most / whole) * whole)
}

/** What of a copy is under way at once. @param memory  bytes for all pieces; for one there always is */
export function piecesFor(
  memory: number,
  slotSize: number,
  whole: number | undefined,
): { readonly tasks: number; readonly piece: number } {
  const piece = wholePiece(Math.min(slotSize, memory), whole)
  return { tasks: Math.max(1, Math.floor(memory / Math.max(slotSize, piece))), piece }
}
