// SPDX-License-Identifier: Apache-2.0
// How long one client is waited for. Used by HttpStream, which tells of every byte in either direction.
// Rule: a client is given up exactly when the time is over that it may make no progress in, or that a head may take, and
// only while it is waited for: what it waits for itself takes as long as it takes.

import type { Clock } from '../common/clock.js'
import type { StreamLimits } from './limits.js'

export class Patience {
  readonly #limits: StreamLimits
  readonly #clock: Clock
  readonly #waiting: () => boolean
  readonly #lost: (why: string) => void
  /** The last progress, or when waiting began. */
  #since: number
  /** When the head that is being read began. */
  #headSince: number | undefined
  #stopIdle: () => void
  #stopHead: (() => void) | undefined

  /**
   * @param waiting  whether the client is waited for
   * @param lost     called once, when it is given up
   */
  constructor(limits: StreamLimits, clock: Clock, waiting: () => boolean, lost: (why: string) => void) {
    this.#limits = limits
    this.#clock = clock
    this.#waiting = waiting
    this.#lost = lost
    this.#since = clock.now()
    this.#stopIdle = clock.after(limits.idleMs, () => this.#lookIdle())
  }

  /** The client took or sent something, or is waited for from now on. */
  progress(): void {
    this.#since = this.#clock.now()
  }

  /** Something came that is, or stands before, a head that has not ended; also when that was told already. */
  headBegins(): void {
    if (this.#headSince !== undefined) return
    this.#headSince = this.#clock.now()
    this.#stopHead = this.#clock.after(this.#limits.headMs, () => this.#lookHead(this.#clock.now()))
  }

  headEnds(): void {
    this.#headSince = undefined
    this.#stopHead?.()
    this.#stopHead = undefined
  }

  end(): void {
    this.#stopIdle()
    this.headEnds()
  }

  /** Never later than the time is over: whoever is waited for from now on has all of it before him. */
  #lookIdle(): void {
    const now = this.#clock.now()
    const from = this.#waiting() ? this.#since : now
    const left = from + this.#limits.idleMs - now
    if (left > 0) this.#stopIdle = this.#clock.after(left, () => this.#lookIdle())
    else this.#giveUp('the client made no progress in time')
  }

  #lookHead(now: number): void {
    const left = (this.#headSince ?? now) + this.#limits.headMs - now
    if (left > 0) this.#stopHead = this.#clock.after(left, () => this.#lookHead(this.#clock.now()))
    else this.#giveUp('the client did not finish the head of its request in time')
  }

  #giveUp(why: string): void {
    this.end()
    this.#lost(why)
  }
}
