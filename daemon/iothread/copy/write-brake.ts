// SPDX-License-Identifier: Apache-2.0
// Write brake: slows the changes that users make of a source, while a mirror could not follow them otherwise. Used by
// ConvergenceWatch; without a limit changes go through without waiting.
// Invariant: changes go in the order they came, and all that wait go when the brake is released.

import { RateLimit } from './rate-limit.js'

/** Of what is copied, what users may make dirty meanwhile: the rest is what is gained. */
const AIM = 0.8
/** Users always get that, bytes per second. */
const LEAST = 2 ** 18
/** No change waits much longer, seconds: guests give a disk up that does not answer for half a minute. */
const LONGEST_WAIT = 5

/** Rates in bytes per second over the same time; bytes that wait. */
export interface Traffic {
  readonly writeRate: number
  readonly dirtyRate: number
  readonly copyRate: number
  readonly waiting: number
}

/**
 * Bytes per second that users may write so that what is dirty shrinks; what is written makes whole chunks dirty.
 * @param now  the limit so far, which stays while nothing is written
 */
export function brakeLimit({ writeRate, dirtyRate, copyRate, waiting }: Traffic, now: number): number {
  const enough = dirtyRate === 0 ? now : (AIM * copyRate * writeRate) / dirtyRate
  return Math.round(Math.max(LEAST, waiting / LONGEST_WAIT, enough))
}

interface Waiter {
  readonly bytes: number
  readonly go: () => void
}

export class WriteBrake {
  readonly #rate: RateLimit
  #queue: Waiter[] = []
  #timer: NodeJS.Timeout | undefined
  /** Bytes that were let through. */
  written = 0
  /** Bytes of the changes that wait. */
  waiting = 0

  /** @param now  monotonic clock, milliseconds */
  constructor(now?: () => number) {
    this.#rate = new RateLimit(0, now)
  }

  /** Bytes per second; 0 = none. */
  get limit(): number {
    return this.#rate.speed
  }

  /** @returns when the change may be made; undefined: at once */
  admit(bytes: number): Promise<void> | undefined {
    if (this.limit === 0) {
      this.written += bytes
      return undefined
    }
    this.waiting += bytes
    return new Promise((go) => {
      this.#queue.push({ bytes, go })
      if (this.#queue.length === 1) this.#pump()
    })
  }

  set(limit: number): void {
    this.#rate.set(limit)
    this.#pump()
  }

  release(): void {
    if (this.limit > 0) this.set(0)
  }

  #pump(): void {
    clearTimeout(this.#timer)
    for (let head = this.#queue[0]; head !== undefined; head = this.#queue[0]) {
      const waitMs = this.#rate.wait()
      if (waitMs > 0) {
        this.#timer = setTimeout(() => this.#pump(), Math.ceil(waitMs))
        return
      }
      this.#queue.shift()
      this.#rate.charge(head.bytes)
      this.waiting -= head.bytes
      this.written += head.bytes
      head.go()
    }
  }
}
