// SPDX-License-Identifier: Apache-2.0
// Rate limit of a job: a bucket that runs into debt. A piece may start while there is no debt and then adds its own
// length to it, so the first piece is never held up. Who comes late (timers do, by a millisecond or more) starts with
// what he missed, up to CREDIT_MS, so that the mean is the speed and not a little less.
// Pure apart from the clock handed in: the caller sleeps.

/** Time that may be caught up, milliseconds. */
const CREDIT_MS = 100

export class RateLimit {
  readonly #now: () => number
  #asked: number
  /** What a budget gives, 0 = no limit. */
  #share = 0
  /** The lesser of both. */
  #speed: number
  /** Bytes that were charged. */
  charged = 0
  /** When the debt is paid, milliseconds of the clock. Undefined until the first piece. */
  #paidAt: number | undefined

  /**
   * @param speed  bytes per second, 0 = no limit
   * @param now    monotonic clock, milliseconds
   */
  constructor(speed: number, now = () => performance.now()) {
    this.#asked = speed
    this.#speed = speed
    this.#now = now
  }

  get speed(): number {
    return this.#speed
  }

  /** A new speed; what is owed is owed in bytes, so it is paid at the new speed. */
  set(speed: number): void {
    this.#asked = speed
    this.#apply()
  }

  /** What a budget gives: the lesser of it and the speed holds. @param share  bytes per second, 0 = no limit */
  setShare(share: number): void {
    this.#share = share
    this.#apply()
  }

  #apply(): void {
    const limits = [this.#asked, this.#share].filter((limit) => limit > 0)
    const speed = limits.length === 0 ? 0 : Math.min(...limits)
    if (speed === this.#speed) return
    const now = this.#now()
    const owed = Math.max(0, (this.#paidAt ?? now) - now) * this.#speed
    this.#speed = speed
    this.#paidAt = speed === 0 ? now : now + owed / speed
  }

  /** Milliseconds until the next piece may start; 0 = now. */
  wait(): number {
    return this.#speed === 0 || this.#paidAt === undefined ? 0 : Math.max(0, this.#paidAt - this.#now())
  }

  /** A piece of so many bytes starts. */
  charge(bytes: number): void {
    this.charged += bytes
    if (this.#speed === 0) return
    const now = this.#now()
    this.#paidAt = Math.max(this.#paidAt ?? now, now - CREDIT_MS) + (bytes / this.#speed) * 1000
  }

  /**
   * Longest piece that keeps the flow even: a twentieth of a second's worth.
   * @param granularity  pieces are multiples of this, bytes
   * @param most         upper bound, bytes
   */
  piece(granularity: number, most: number): number {
    if (this.#speed === 0 || this.#paidAt === undefined) return most
    const even = Math.floor(this.#speed / 20 / granularity) * granularity
    return Math.min(most, Math.max(granularity, even))
  }
}
