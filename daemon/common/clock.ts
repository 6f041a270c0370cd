// SPDX-License-Identifier: Apache-2.0
// Clocks. The first is one that all threads of the process share and that nobody sets: `performance.now()` counts from the
// start of its thread. The others are for whoever waits a limited time; a test brings its own.

export function monotonicSeconds(): number {
  const [seconds, nanoseconds] = process.hrtime()
  return seconds + nanoseconds / 1e9
}

export interface Clock {
  /** Milliseconds since some moment of the past. */
  now(): number
  /** Calls once, so many milliseconds from now. @returns what calls it off */
  after(ms: number, call: () => void): () => void
}

/** What Node's timers can hold; who wants to wait longer is called early and looks again. */
const LONGEST_TIMER_MS = 2 ** 31 - 1

export const systemClock: Clock = {
  now: () => performance.now(),
  after: (ms, call) => {
    const timer = setTimeout(call, Math.min(ms, LONGEST_TIMER_MS))
    return () => clearTimeout(timer)
  },
}
