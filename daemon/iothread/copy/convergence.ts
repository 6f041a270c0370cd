// SPDX-License-Identifier: Apache-2.0
// Convergence: from counters that are looked at now and then, how fast a source is changed, how fast it is copied, and
// what comes of that. Used by ConvergenceWatch. Pure: time is handed in.
//
// What is changed is compared with what is copied, not what is left now with what was left before: while all is dirty
// yet, a writer that is too fast adds nothing to it, and shows itself only when the first pass is over.

import type { Convergence, Verdict } from '../../common/convergence.js'

/** Time between two looks, milliseconds. */
export const LOOK_MS = 500
/** What is looked back on, milliseconds. */
const WINDOW_MS = 2000
/** Before that there is no verdict, milliseconds. */
const LEAST_MS = 1000
/** Rates that differ by less of the greater one are alike. */
const ALIKE = 0.1
/** Of what is copied, what may be made dirty meanwhile: a copy takes twice as long then. */
const ENOUGH = 0.5
/** What is copied within that time, seconds, is as good as done: a writer always leaves something behind it. */
const SOON = 0.25

/** Bytes; all but the last only grow. */
export interface Counters {
  /** Copied, or found to need no copy. */
  readonly done: number
  /** In whole chunks. */
  readonly dirtied: number
  /** By users of the source. */
  readonly written: number
  readonly remaining: number
}

/**
 * Whether a copy that could be faster should be: what is copied is hardly more than what is made dirty meanwhile.
 * @param remaining  bytes; rates in bytes per second
 */
export function isBehind(dirtyRate: number, copyRate: number, remaining: number): boolean {
  return remaining > copyRate * SOON && dirtyRate > ENOUGH * copyRate
}

/** @param remaining  bytes; rates in bytes per second */
export function judge(dirtyRate: number, copyRate: number, remaining: number): Verdict {
  if (remaining <= copyRate * SOON) return 'converging'
  const gain = copyRate - dirtyRate
  if (Math.abs(gain) <= ALIKE * Math.max(copyRate, dirtyRate)) return 'stalled'
  return gain > 0 ? 'converging' : 'diverging'
}

export class ConvergenceMeter {
  #looks: (Counters & { readonly at: number })[] = []
  #verdict: Verdict = 'unknown'
  /** What the last look said; a verdict changes when two looks in a row say the same. */
  #said: Verdict = 'unknown'
  #dirtyRate = 0
  #copyRate = 0
  #writeRate = 0

  get state(): Convergence {
    return { verdict: this.#verdict, dirtyRate: this.#dirtyRate, copyRate: this.#copyRate }
  }

  /** Bytes per second, over the same time as the other rates. */
  get writeRate(): number {
    return this.#writeRate
  }

  /** Whether it is time for a look. @param at  monotonic, milliseconds */
  due(at: number): boolean {
    const last = this.#looks.at(-1)
    return last === undefined || at - last.at >= LOOK_MS
  }

  look(at: number, counters: Counters): void {
    this.#looks.push({ at, ...counters })
    while (this.#looks.length > 2 && at - (this.#looks[1]?.at ?? at) >= WINDOW_MS) this.#looks.shift()
    const first = this.#looks[0]
    if (first === undefined || at - first.at < LEAST_MS) return
    const rate = (bytes: number) => Math.max(0, Math.round((bytes * 1000) / (at - first.at)))
    this.#dirtyRate = rate(counters.dirtied - first.dirtied)
    this.#copyRate = rate(counters.done - first.done)
    this.#writeRate = rate(counters.written - first.written)
    const says = judge(this.#dirtyRate, this.#copyRate, counters.remaining)
    if (this.#verdict === 'unknown' || says === this.#said) this.#verdict = says
    this.#said = says
  }

  /** Forgets the past, for a job that stood still. */
  reset(): void {
    this.#looks = []
    this.#verdict = 'unknown'
    this.#dirtyRate = 0
    this.#copyRate = 0
    this.#writeRate = 0
  }
}
