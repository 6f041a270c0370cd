// SPDX-License-Identifier: Apache-2.0
// Which parts of one READ its chunks have told so far. A client has one for each READ that is answered in chunks: data that
// is beyond the request or comes twice would be written where it does not belong, data that never comes is stale memory.
// Source: doc/proto.md, NBD_CMD_READ, "Structured replies".

import { PeerError } from '../peer-error.js'

interface Range {
  /** Bytes. */
  readonly offset: number
  readonly length: number
}

export class ReadCover {
  readonly #request: Range
  /** Ascending, apart from each other: start, end, start, end, … Chunks in order keep it at one pair. */
  readonly #edges: number[] = []
  #missing: number

  constructor({ offset, length }: Range) {
    this.#request = { offset, length }
    this.#missing = length
  }

  /** Bytes that no chunk told yet. */
  get missing(): number {
    return this.#missing
  }

  /**
   * A chunk's range, OFFSET_DATA or OFFSET_HOLE; to be called before its data is taken.
   * @throws PeerError when it lies not within the request, or was told before
   */
  add(offset: number, length: number): void {
    const { offset: start, length: whole } = this.#request
    const end = offset + length
    if (offset < start || end > start + whole) throw this.#wrong(offset, length, 'lies not in it')
    const at = this.#firstAbove(offset)
    // Odd: the offset is inside a range that was told.
    if (at % 2 === 1 || (this.#edges[at] ?? Number.POSITIVE_INFINITY) < end)
      throw this.#wrong(offset, length, 'was told before')
    const [joinsBefore, joinsBehind] = [this.#edges[at - 1] === offset, this.#edges[at] === end]
    const edges = [...(joinsBefore ? [] : [offset]), ...(joinsBehind ? [] : [end])]
    this.#edges.splice(joinsBefore ? at - 1 : at, Number(joinsBefore) + Number(joinsBehind), ...edges)
    this.#missing -= length
  }

  /** Place of the first edge above a value. */
  #firstAbove(value: number): number {
    let [low, high] = [0, this.#edges.length]
    if ((this.#edges.at(-1) ?? -1) <= value) return high
    while (low < high) {
      const middle = (low + high) >> 1
      if ((this.#edges[middle] ?? 0) <= value) low = middle + 1
      else high = middle
    }
    return low
  }

  #wrong(offset: number, length: number, how: string): PeerError {
    const { offset: start, length: whole } = this.#request
    return new PeerError(
      `reply to a read of ${whole} bytes at ${start}: ${length} bytes at ${offset}, which ${how}`,
    )
  }
}
