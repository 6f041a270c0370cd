// SPDX-License-Identifier: Apache-2.0
// How many bytes some ranges cover together, each counted once. Used by tickets, which tell how much was transferred.
// Ranges are kept apart and ascending; those that touch become one, so a transfer from front to back is one range. Who
// touches many places that lie apart is counted exactly up to MOST of them, from then on each range for itself.

import type { CoveredBytes } from '../../messages-images.js'

/** Ranges that are kept. */
const MOST = 65536

export class ByteUnion {
  readonly #starts: number[] = []
  readonly #ends: number[] = []
  #total = 0

  /** @param before  from covered() of an earlier one */
  constructor(before?: CoveredBytes) {
    if (before === undefined) return
    const { ranges, total } = before
    for (let at = 0; at < ranges.length; at += 2) {
      this.#starts.push(ranges[at] as number)
      this.#ends.push(ranges[at + 1] as number)
    }
    this.#total = total
  }

  /** Bytes covered. */
  get total(): number {
    return this.#total
  }

  covered(): CoveredBytes {
    const ranges = new Float64Array(2 * this.#starts.length)
    for (const [index, start] of this.#starts.entries())
      ranges.set([start, this.#ends[index] as number], 2 * index)
    return { ranges, total: this.#total }
  }

  /** Many at once: merged in one go. @param offsets  are sorted then */
  addEach(offsets: Float64Array, length: number): void {
    if (this.#starts.length + offsets.length > MOST) {
      for (const offset of offsets) this.add(offset, length)
      return
    }
    offsets.sort()
    const [olds, oldEnds] = [this.#starts.splice(0), this.#ends.splice(0)]
    this.#total = offsets.length === 0 ? this.#total : this.#total - covered(olds, oldEnds)
    let [old, fresh] = [0, 0]
    while (old < olds.length || fresh < offsets.length) {
      const next = offsets[fresh] ?? Number.POSITIVE_INFINITY
      if ((olds[old] ?? Number.POSITIVE_INFINITY) <= next) {
        this.#append(olds[old] as number, oldEnds[old] as number)
        old++
      } else {
        this.#append(next, next + length)
        fresh++
      }
    }
    this.#total = offsets.length === 0 ? this.#total : this.#total + covered(this.#starts, this.#ends)
  }

  /** Not before the last one. */
  #append(start: number, end: number): void {
    const last = this.#ends.length - 1
    const before = this.#ends[last]
    if (before !== undefined && start <= before) this.#ends[last] = Math.max(before, end)
    else {
      this.#starts.push(start)
      this.#ends.push(end)
    }
  }

  add(offset: number, length: number): void {
    if (length <= 0) return
    const end = offset + length
    // The first range that ends at or behind our start, and the first that begins behind our end.
    const from = firstAtLeast(this.#ends, offset)
    const to = firstAtLeast(this.#starts, end + 1)
    if (from === to && this.#starts.length >= MOST) {
      this.#total += length
      return
    }
    let [start, stop, covered] = [offset, end, 0]
    for (let index = from; index < to; index++) {
      const [first, last] = [this.#starts[index] as number, this.#ends[index] as number]
      start = Math.min(start, first)
      stop = Math.max(stop, last)
      covered += last - first
    }
    this.#starts.splice(from, to - from, start)
    this.#ends.splice(from, to - from, stop)
    this.#total += stop - start - covered
  }
}

function covered(starts: readonly number[], ends: readonly number[]): number {
  return ends.reduce((sum, end, index) => sum + end - (starts[index] as number), 0)
}

/** Index of the first number that is not less. */
function firstAtLeast(ascending: readonly number[], value: number): number {
  let [low, high] = [0, ascending.length]
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((ascending[middle] as number) < value) low = middle + 1
    else high = middle
  }
  return low
}
