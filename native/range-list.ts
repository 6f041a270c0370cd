// SPDX-License-Identifier: Apache-2.0
// Hands ranges to the addon, which copies them. Used by engine.ts and streams.ts.

import type { Range } from './types.js'

export class RangeList {
  #list = new Float64Array(64)

  /** `[offset, length, …]`, valid until the next call. */
  list(ranges: readonly Range[]): Float64Array {
    const count = ranges.length
    if (this.#list.length < count * 2) this.#list = new Float64Array(count * 4)
    const list = this.#list
    let at = 0
    for (const { offset, length } of ranges) {
      list[at++] = offset
      list[at++] = length
    }
    return list
  }
}
