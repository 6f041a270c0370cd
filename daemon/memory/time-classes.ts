// SPDX-License-Identifier: Apache-2.0
// Lengths of time counted in classes, so that one long one among many short ones is seen. Pure.

import type { TimeClass } from './messages.js'

/** Upper bounds of the classes, milliseconds; one more class has what is longer. */
const BOUNDS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] as const

export class TimeClasses {
  readonly #counts = new Array<number>(BOUNDS.length + 1).fill(0)
  #longest = 0

  /** Milliseconds. */
  get longest(): number {
    return this.#longest
  }

  list(): readonly TimeClass[] {
    return this.#counts.map((count, index) => ({ upTo: BOUNDS[index], count }))
  }

  add(ms: number): void {
    this.#longest = Math.max(this.#longest, ms)
    const found = BOUNDS.findIndex((most) => ms <= most)
    const index = found < 0 ? BOUNDS.length : found
    this.#counts[index] = (this.#counts[index] ?? 0) + 1
  }
}
