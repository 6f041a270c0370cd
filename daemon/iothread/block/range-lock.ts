// SPDX-License-Identifier: Apache-2.0
// Range lock: orders changes that touch the same bytes of one node. Used by BlockNode above storage that needs a
// read-modify-write for unaligned requests (shared for plain writes, exclusive for read-modify-write), and by formats (shared for writes
// in place, exclusive for what changes the map).
// Invariant: a waiter never overtakes an earlier conflicting request, held or waiting (no starvation, no deadlock:
// every request waits only for older ones).

import type { Range } from '../../../native/types.js'

export interface RangeHold {
  readonly offset: number
  readonly end: number
  readonly exclusive: boolean
}

interface Entry extends RangeHold {
  /** Older entries in the way; 0 means the range is held. */
  blockers: number
  /** Younger entries that count this one among their blockers. */
  readonly blocked: Entry[]
  resolve: (() => void) | undefined
}

export class RangeLock {
  /** Held and waiting, oldest first. At most as many as requests are in flight, so a walk is short. */
  readonly #entries: Entry[] = []

  /**
   * @param offset  bytes, start of the range
   * @param length  bytes, > 0
   * @returns what release() wants; a promise only when an older request is in the way
   */
  acquire(offset: number, length: number, exclusive: boolean): RangeHold | Promise<RangeHold> {
    const end = offset + length
    const entry: Entry = { offset, end, exclusive, blockers: 0, blocked: [], resolve: undefined }
    for (const older of this.#entries) {
      if (older.offset < end && offset < older.end && (exclusive || older.exclusive)) {
        older.blocked.push(entry)
        entry.blockers += 1
      }
    }
    this.#entries.push(entry)
    if (entry.blockers === 0) return entry
    return new Promise((resolve) => {
      entry.resolve = () => resolve(entry)
    })
  }

  /** Shared for whole units of `align` bytes; exclusive, widened to whole units, for ranges that need a read-modify-write below. */
  acquireAligned(offset: number, length: number, align: number): RangeHold | Promise<RangeHold> {
    const start = Math.floor(offset / align) * align
    const end = Math.ceil((offset + length) / align) * align
    return this.acquire(start, end - start, start !== offset || end !== offset + length)
  }

  /** One shared hold from the first of some aligned pieces to the last: it keeps nobody waiting but unaligned changes. */
  acquireAll(pieces: readonly Range[]): RangeHold | Promise<RangeHold> {
    let start = Number.POSITIVE_INFINITY
    let end = 0
    for (const { offset, length } of pieces) {
      start = Math.min(start, offset)
      end = Math.max(end, offset + length)
    }
    return this.acquire(start, end - start, false)
  }

  release(hold: RangeHold): void {
    const index = this.#entries.indexOf(hold as Entry)
    const [entry] = this.#entries.splice(index, 1)
    for (const waiter of entry?.blocked ?? []) {
      waiter.blockers -= 1
      if (waiter.blockers === 0) waiter.resolve?.()
    }
  }

  /** Requests held and waiting. */
  get size(): number {
    return this.#entries.length
  }
}
