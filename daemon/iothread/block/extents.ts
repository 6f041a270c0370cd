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

/** Asks storage: `[offset, length, kind, …]` as IoEngine.extents, kind 1 data, 0 hole. Rejects with IoError. */
export type ExtentQuery = (offset: number, length: number, limit: number) => Promise<Float64Array>

/** First batch of a pass, extents. Small, so that a slow lseek gives a first answer soon; doubled while it goes on. */
const FIRST_BATCH = 16
const LARGEST_BATCH = 1024
/** Extents kept; beyond it all but the newest batch is forgotten. 24 bytes each. */
const CAPACITY = 16384

export class ExtentCache {
  readonly #query: ExtentQuery
  readonly #capacity: number
  /** Known extents, ascending, not overlapping, neighbours of one kind merged. Parallel arrays. */
  #starts: number[] = []
  #ends: number[] = []
  #zeros: boolean[] = []
  #running: Promise<unknown> | undefined
  /** Ranges touched while the query runs: start, end, start, end, … */
  #touched: number[] = []
  #batch = FIRST_BATCH
  /** Where the last query's knowledge ended. */
  #frontier = 0

  constructor(query: ExtentQuery, capacity = CAPACITY) {
    this.#query = query
    this.#capacity = capacity
  }

  /** Extents known now. */
  get size(): number {
    return this.#starts.length
  }

  /**
   * The extent at `offset`, whole as far as known (it may begin before `offset` and end after the range).
   * @param end  bytes, > offset: storage is asked no further than that unless it tells more for free
   */
  async at(offset: number, end: number): Promise<Extent> {
    for (;;) {
      const known = this.#find(offset)
      if (known >= 0) return this.#extent(known)
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
    const at = this.#firstEndingAfter(offset)
    // What is unknown may stay so: it is asked for when somebody wants to know.
    if (at >= this.#starts.length || this.#starts[at]! >= end) return
    if (this.#starts[at]! <= offset && !this.#zeros[at]! && this.#ends[at]! >= end) return
    this.#put(offset, end, false)
  }

  /** A zero or discard of the range starts or has ended, or the file was cut there. */
  forget(offset: number, length: number): void {
    this.#note(offset, offset + length)
    this.#cut(offset, offset + length)
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
    const known = this.#find(offset)
    if (known >= 0) return this.#extent(known)
    // Touched while we asked: data is the safe answer, for the first touched range only.
    const until = touchedEnd(touched, offset, end)
    return { offset, length: until - offset, kind: 'data', allocated: true }
  }

  #take(list: Float64Array, touched: readonly number[]): void {
    if (this.#starts.length + list.length / 3 > this.#capacity) {
      this.#starts = []
      this.#ends = []
      this.#zeros = []
    }
    for (let i = 0; i + 2 < list.length; i += 3) {
      const start = list[i]!
      const end = start + list[i + 1]!
      this.#frontier = end
      if (end > start) this.#put(start, end, list[i + 2] === 0)
    }
    for (let i = 0; i < touched.length; i += 2) this.#cut(touched[i]!, touched[i + 1]!)
  }

  #note(start: number, end: number): void {
    if (this.#running === undefined) return
    const last = this.#touched.length - 2
    if (last >= 0 && this.#touched[last + 1] === start) this.#touched[last + 1] = end
    else this.#touched.push(start, end)
  }

  #extent(index: number): Extent {
    const offset = this.#starts[index]!
    const zero = this.#zeros[index]!
    return { offset, length: this.#ends[index]! - offset, kind: zero ? 'zero' : 'data', allocated: !zero }
  }

  /** Index of the known extent that holds `offset`; -1 when there is none. */
  #find(offset: number): number {
    const index = this.#firstEndingAfter(offset)
    return index < this.#starts.length && this.#starts[index]! <= offset ? index : -1
  }

  #firstEndingAfter(offset: number): number {
    let low = 0
    let high = this.#ends.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.#ends[middle]! > offset) high = middle
      else low = middle + 1
    }
    return low
  }

  /** Makes the range unknown. */
  #cut(start: number, end: number): void {
    let from = this.#firstEndingAfter(start)
    if (from >= this.#starts.length || this.#starts[from]! >= end) return
    if (this.#starts[from]! < start) {
      const rest = this.#ends[from]!
      this.#ends[from] = start
      if (rest > end) {
        this.#insert(from + 1, end, rest, this.#zeros[from]!)
        return
      }
      from += 1
    }
    let to = from
    while (to < this.#starts.length && this.#ends[to]! <= end) to += 1
    if (to < this.#starts.length && this.#starts[to]! < end) this.#starts[to] = end
    if (to > from) {
      this.#starts.splice(from, to - from)
      this.#ends.splice(from, to - from)
      this.#zeros.splice(from, to - from)
    }
  }

  /** Makes the range one known extent, merged with neighbours of its kind. */
  #put(start: number, end: number, zero: boolean): void {
    this.#cut(start, end)
    const index = this.#firstEndingAfter(start)
    const joinsBefore = index > 0 && this.#ends[index - 1] === start && this.#zeros[index - 1] === zero
    const joinsAfter =
      index < this.#starts.length && this.#starts[index] === end && this.#zeros[index] === zero
    if (joinsBefore && joinsAfter) {
      this.#ends[index - 1] = this.#ends[index]!
      this.#starts.splice(index, 1)
      this.#ends.splice(index, 1)
      this.#zeros.splice(index, 1)
    } else if (joinsBefore) this.#ends[index - 1] = end
    else if (joinsAfter) this.#starts[index] = start
    else this.#insert(index, start, end, zero)
  }

  #insert(index: number, start: number, end: number, zero: boolean): void {
    if (this.#starts.length >= this.#capacity) return
    this.#starts.splice(index, 0, start)
    this.#ends.splice(index, 0, end)
    this.#zeros.splice(index, 0, zero)
  }
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
