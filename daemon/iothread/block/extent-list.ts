// SPDX-License-Identifier: Apache-2.0
// Ranges of a file that are known to be data or a hole: ascending, apart, neighbours of one kind merged. Used by ExtentCache.
// They lie outside the heap of JavaScript: lists that grow there by many thousand extents leave megabytes to be collected.

const FIRST_ROOM = 64

export class ExtentList {
  readonly #capacity: number
  #count = 0
  #starts = new Float64Array(FIRST_ROOM)
  #ends = new Float64Array(FIRST_ROOM)
  /** 1: a hole. */
  #zeros = new Uint8Array(FIRST_ROOM)

  /** @param capacity  extents; what has no room is not taken */
  constructor(capacity: number) {
    this.#capacity = capacity
  }

  get size(): number {
    return this.#count
  }
  start(index: number): number {
    return this.#starts[index]!
  }
  end(index: number): number {
    return this.#ends[index]!
  }
  zero(index: number): boolean {
    return this.#zeros[index] === 1
  }

  /** Index of the extent that holds `offset`; -1 when there is none. */
  find(offset: number): number {
    const index = this.firstEndingAfter(offset)
    return index < this.#count && this.#starts[index]! <= offset ? index : -1
  }

  /** Index of the first extent that ends behind `offset`; the size when there is none. */
  firstEndingAfter(offset: number): number {
    let low = 0
    let high = this.#count
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.#ends[middle]! > offset) high = middle
      else low = middle + 1
    }
    return low
  }

  /** Makes all of the file unknown. */
  clear(): void {
    this.#count = 0
  }

  /** Makes the range unknown. */
  cut(start: number, end: number): void {
    let from = this.firstEndingAfter(start)
    if (from >= this.#count || this.#starts[from]! >= end) return
    if (this.#starts[from]! < start) {
      const rest = this.#ends[from]!
      this.#ends[from] = start
      if (rest > end) {
        this.#insert(from + 1, end, rest, this.zero(from))
        return
      }
      from += 1
    }
    let to = from
    while (to < this.#count && this.#ends[to]! <= end) to += 1
    if (to < this.#count && this.#starts[to]! < end) this.#starts[to] = end
    this.#remove(from, to)
  }

  /** Makes the range one extent, merged with neighbours of its kind. */
  put(start: number, end: number, zero: boolean): void {
    this.cut(start, end)
    const index = this.firstEndingAfter(start)
    const joinsBefore = index > 0 && this.#ends[index - 1] === start && this.zero(index - 1) === zero
    const joinsAfter = index < this.#count && this.#starts[index] === end && this.zero(index) === zero
    if (joinsBefore && joinsAfter) {
      this.#ends[index - 1] = this.#ends[index]!
      this.#remove(index, index + 1)
    } else if (joinsBefore) this.#ends[index - 1] = end
    else if (joinsAfter) this.#starts[index] = start
    else this.#insert(index, start, end, zero)
  }

  #insert(index: number, start: number, end: number, zero: boolean): void {
    if (this.#count >= this.#capacity) return
    if (this.#count === this.#starts.length) this.#makeRoom()
    // Whoever goes through a file adds to the end.
    if (index < this.#count)
      for (const each of [this.#starts, this.#ends, this.#zeros])
        each.copyWithin(index + 1, index, this.#count)
    this.#starts[index] = start
    this.#ends[index] = end
    this.#zeros[index] = zero ? 1 : 0
    this.#count += 1
  }

  #remove(from: number, to: number): void {
    if (from === to) return
    for (const each of [this.#starts, this.#ends, this.#zeros]) each.copyWithin(from, to, this.#count)
    this.#count -= to - from
  }

  #makeRoom(): void {
    const room = Math.min(this.#starts.length * 4, Math.max(this.#capacity, FIRST_ROOM))
    const [starts, ends, zeros] = [new Float64Array(room), new Float64Array(room), new Uint8Array(room)]
    starts.set(this.#starts)
    ends.set(this.#ends)
    zeros.set(this.#zeros)
    this.#starts = starts
    this.#ends = ends
    this.#zeros = zeros
  }
}
