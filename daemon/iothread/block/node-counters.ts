// SPDX-License-Identifier: Apache-2.0
// What a node counts of its requests. Used by BlockNode only.

import type { NodeStats } from '../messages.js'

export type Counters = { -readonly [K in keyof NodeStats]: NodeStats[K] }

export function newCounters(): Counters {
  return {
    reads: 0,
    readBytes: 0,
    writes: 0,
    writeBytes: 0,
    zeroes: 0,
    zeroBytes: 0,
    discards: 0,
    discardBytes: 0,
    flushes: 0,
    failedReads: 0,
    failedWrites: 0,
    failedFlushes: 0,
    writeHighest: 0,
  }
}

/** Something was written up to there. */
export function reached(counters: Counters, end: number): void {
  if (end > counters.writeHighest) counters.writeHighest = end
}
