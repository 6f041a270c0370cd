// SPDX-License-Identifier: Apache-2.0
// Extent cache of one file: which ranges are holes, learned in batches, so that a sequential pass asks the file
// system a number of questions that grows with the number of extents, never with the number of chunks.
// (QEMU bug 1912224: one SEEK_HOLE per 1 MiB chunk, each a walk over all extents, froze mirrors of fragmented files.)
// Used by the drivers of files and of NBD servers. Changes by other programs while the file is open are not seen.
//
// Safe answers: 'data' is always true enough (it costs a read), 'zero' must be proved. Therefore
// - a write turns what is known of its range into data when it starts and again when it has ended;
// - zero and discard make their range unknown when they start and again when they have ended;
// - what was touched while a query was in flight is not taken over from the query's result.

import type { Extent } from './driver.js'
import { ExtentList } from './extent-list.js'

/** Asks storage: `[offset, length, kind, …]` as IoEngine.extents, kind 1 data, 0 hole. Rejects with IoError. */
export type ExtentQuery = (offset: number, length: number, limit: number) => Promise<Float64Array>

/** First batch of a pass, extents. Small, so that a slow lseek gives a first answer soon; doubled while it goes on. */
const FIRST_BATCH = 16
const LARGEST_BATCH = 1024
/** Extents kept; beyond it all but the newest batch is forgotten. 17 bytes each. */
const CAPACITY = 16384

export class ExtentCache {
  readonly #query: ExtentQuery
  readonly #capacity: number
  readonly #list: ExtentList
  #running: Promise<unknown> | undefined
  /** Ranges touched while the query runs: start, end, start, end, … */
  #touched: number[] = []
  #batch = FIRST_BATCH
  /** Where the last query's knowledge ended. */
  #frontier = 0

  constructor(query: ExtentQuery, capacity = CAPACITY) {
    this.#query = query
    this.#capacity = capacity
    this.#list = new ExtentList(capacity)
  }

  /** Extents known now. */
  get size(): number {
    return this.#list.size
  }

  /** The extent at `offset` if that is known, as at(). */
  known(offset: number): Extent | undefined {
    const index = this.#list.find(offset)
    if (index < 0) return undefined
    const start = this.#list.start(index)
    const zero = this.#list.zero(index)
    return {
      offset: start,
      length: this.#list.end(index) - start,
      kind: zero ? 'zero' : 'data',
      allocated: !zero,
    }
  }

  /**
   * The extent at `offset`, whole as far as known (it may begin before `offset` and end after the range).
   * @param end  bytes, > offset: storage is asked no further than that unless it tells more for free
   */
  async at(offset: number, end: number): Promise<Extent> {
    for (;;) {
      const known = this.known(offset)
      if (known !== undefined) return known
      if (this.#running === undefined) return this.#ask(offset, end)
      // The query in flight may have begun before a change that this caller knows of: only what it leaves in the
      // cache counts.
      await this.#running.catch(ignore)
    }
  }

  /** A write of the range starts or has ended. */
  wrote(offset: number, length: number): void {
    const end = offset + length
    this.#note(offset, end)
    const list = this.#list
    const at = list.firstEndingAfter(offset)
    // What is unknown may stay so: it is asked for when somebody wants to know.
    if (at >= list.size || list.start(at) >= end) return
    if (list.start(at) <= offset && !list.zero(at) && list.end(at) >= end) return
    list.put(offset, end, false)
  }

  /** A zero or discard of the range starts or has ended, or the file was cut there. */
  forget(offset: number, length: number): void {
    this.#note(offset, offset + length)
    this.#list.cut(offset, offset + length)
  }

  async #ask(offset: number, end: number): Promise<Extent> {
    this.#batch = offset === this.#frontier ? Math.min(this.#batch * 2, LARGEST_BATCH) : FIRST_BATCH
    this.#touched = []
    const running = this.#query(offset, end - offset, this.#batch)
    this.#running = running
    let list: Float64Array
    try {
      list = await running
    } finally {
      this.#running = undefined
    }
    const touched = this.#touched
    this.#take(list, touched)
    const known = this.known(offset)
    if (known !== undefined) return known
    // Touched while we asked: data is the safe answer, for the first touched range only.
    const until = touchedEnd(touched, offset, end)
    return { offset, length: until - offset, kind: 'data', allocated: true }
  }

  #take(list: Float64Array, touched: readonly number[]): void {
    if (this.#list.size + list.length / 3 > this.#capacity) this.#list.clear()
    for (let i = 0; i + 2 < list.length; i += 3) {
      const start = list[i]!
      const end = start + list[i + 1]!
      this.#frontier = end
      if (end > start) this.#list.put(start, end, list[i + 2] === 0)
    }
    for (let i = 0; i < touched.length; i += 2) this.#list.cut(touched[i]!, touched[i + 1]!)
  }

  #note(start: number, end: number): void {
    if (this.#running === undefined) return
    const last = this.#touched.length - 2
    if (last >= 0 && this.#touched[last + 1] === start) this.#touched[last + 1] = end
    else this.#touched.push(start, end)
  }
}

/**
 * As a leaf tells it: it lies in its storage where it lies in its node. Written out: V8 makes a class of its own for every object
 * that is spread and given a property it did not have, and a list of 100 000 extents left 10 MiB of them until the next collection.
 */
export function lyingThere({ offset, length, kind, allocated }: Extent): Extent {
  return { offset, length, kind, allocated, host: offset }
}

/** End of the touched ranges that begin at or before `offset` and hold it; `end` when none does. */
function touchedEnd(touched: readonly number[], offset: number, end: number): number {
  for (let i = 0; i < touched.length; i += 2) {
    if (touched[i]! <= offset && touched[i + 1]! > offset) return Math.min(end, touched[i + 1]!)
  }
  return end
}

function ignore(): void {
  // The one who asked hears of the failure; those who waited ask themselves.
}
