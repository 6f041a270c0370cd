// SPDX-License-Identifier: Apache-2.0
// A clock that a test moves: what waits for a time is called when the test has let it pass, in the order of the times.

import type { Clock } from '../../daemon/common/clock.js'

export class FakeClock implements Clock {
  readonly #timers = new Set<{ readonly at: number; readonly call: () => void }>()
  #now = 0

  now(): number {
    return this.#now
  }

  after(ms: number, call: () => void): () => void {
    const timer = { at: this.#now + ms, call }
    this.#timers.add(timer)
    return () => this.#timers.delete(timer)
  }

  /** How many wait. */
  get timers(): number {
    return this.#timers.size
  }

  pass(ms: number): void {
    const end = this.#now + ms
    for (;;) {
      const [next] = [...this.#timers].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)
      if (next === undefined) break
      this.#timers.delete(next)
      this.#now = Math.max(this.#now, next.at)
      next.call()
    }
    this.#now = end
  }
}
