// SPDX-License-Identifier: Apache-2.0
// Free clusters that follow each other, looked for in one slice of counts after the other. Pure; used by Refcounts.

import { getRefcount } from '../../../../../protocol/qcow2/refcount-block.js'

export class FreeRun {
  readonly #most: number
  readonly #least: number
  /** The next cluster to look at; the run ends before it. */
  index: number
  /** Clusters of the run. */
  count = 0
  /** The first free cluster of all that were looked at. */
  lowest: number | undefined

  /**
   * @param from   cluster to begin at
   * @param most   clusters that are wanted
   * @param least  shorter runs are passed over
   */
  constructor(from: number, most: number, least: number) {
    this.index = from
    this.#most = most
    this.#least = least
  }

  /** Cluster the run begins with. */
  get first(): number {
    return this.index - this.count
  }

  /**
   * Looks at a slice of counts.
   * @param at   where the count of the next cluster stands
   * @param end  where the slice ends, in counts
   * @returns whether the run is all that is to be had
   */
  look(view: DataView, at: number, end: number, order: number): boolean {
    for (let i = at; i < end; i++, this.index++) {
      if (getRefcount(view, i, order) === 0) {
        if (this.count === this.#most) return true
        this.lowest ??= this.index
        this.count += 1
      } else {
        if (this.count >= this.#least) return true
        this.count = 0
      }
    }
    return this.count === this.#most
  }
}
