// SPDX-License-Identifier: Apache-2.0
// Rate meter: bytes per second over the last two seconds, from a counter that is looked at now and then.

/** What is looked back on, milliseconds. */
const WINDOW_MS = 2000

export class RateMeter {
  readonly #now: () => number
  #samples: { readonly at: number; readonly bytes: number }[] = []

  /** @param now  monotonic clock, milliseconds */
  constructor(now = () => performance.now()) {
    this.#now = now
  }

  /** @returns bytes per second, 0 until two looks lie apart */
  rate(bytes: number): number {
    const at = this.#now()
    this.#samples.push({ at, bytes })
    while (this.#samples.length > 2 && at - (this.#samples[1]?.at ?? at) > WINDOW_MS) this.#samples.shift()
    const first = this.#samples[0]
    if (first === undefined || at === first.at) return 0
    return Math.max(0, Math.round(((bytes - first.bytes) * 1000) / (at - first.at)))
  }

  /** Forgets the past, for a job that stood still. */
  reset(): void {
    this.#samples = []
  }
}
