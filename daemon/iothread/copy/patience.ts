// SPDX-License-Identifier: Apache-2.0
// Patience of a copy that yields to guests: guests whose requests would be late anyway, or a target that is far away, must not
// make it take for ever. Used by jobs that copy once, and by the watch over a mirror until that is ready.
//
// The rule: every 10 s in which guests were heeded it is seen how much was done. Less than 4 MiB/s, or so little that the
// rest would take more than 8 hours, is no progress: the window may not be smaller than four times what it was, and after some
// such looks it is as large as without guests. Eight times as much as was needed takes one step back. A copy that is to be
// slow needs no more than half of its speed limit, and takes a step back when it comes near it.
//
// Pure: time is handed in.

import type { Courtesy } from './courtesy.js'

/** Time from one look to the next, milliseconds. */
const LOOK_MS = 10_000
/** Bytes per second that are progress. */
const LEAST_RATE = 4 * 2 ** 20
/** Time in which the rest is to be copied, seconds. */
const MOST_S = 8 * 3600
/** So many times what is needed is enough for a smaller window, which makes it no more than four times slower. */
const PLENTY = 8
/** So much of a speed limit is enough too. */
const NEARLY = 0.9

export class Patience {
  readonly #courtesy: Courtesy
  #last: { readonly at: number; readonly remaining: number } | undefined

  constructor(courtesy: Courtesy) {
    this.#courtesy = courtesy
  }

  /**
   * To be called often while the copy is under way.
   * @param at         monotonic, milliseconds
   * @param remaining  bytes still to do
   * @param limit      of the speed, bytes per second, 0 = none
   */
  look(at: number, remaining: number, limit: number): void {
    if (this.#last === undefined || !this.#courtesy.yields) this.#last = { at, remaining }
    const { at: from, remaining: before } = this.#last
    if (at - from < LOOK_MS) return
    this.#last = { at, remaining }
    const rate = ((before - remaining) * 1000) / (at - from)
    const wanted = Math.max(LEAST_RATE, remaining / MOST_S)
    const needed = limit > 0 ? Math.min(wanted, limit / 2) : wanted
    if (rate < needed) this.#courtesy.press()
    else if (rate > Math.min(PLENTY * needed, NEARLY * (limit || Number.POSITIVE_INFINITY)))
      this.#courtesy.ease()
  }

  /** The copy stands still, or has not begun. */
  pause(): void {
    this.#last = undefined
  }
}
