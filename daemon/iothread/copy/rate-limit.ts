// SPDX-License-Identifier: Apache-2.0
// Rate limit of a job: a bucket that runs into debt. A piece may start while there is no debt and then adds its own
// length to it, so the first piece is never held up, and the mean never exceeds the speed.
// Pure apart from the clock handed in: the caller sleeps.

export class RateLimit {
  #speed: number
  /** When the debt is paid, milliseconds of the clock. */
  #paidAt = 0

  /**
   * @param speed  bytes per second, 0 = no limit
   * @param now    monotonic clock, milliseconds
   */
  constructor(
    speed: number,
    private readonly now: () => number = () => performance.now(),
  ) {
    this.#speed = speed
  }

  get speed(): number {
    return this.#speed
  }

  /** A new speed; what is owed is owed in bytes, so it is paid at the new speed. */
  set(speed: number): void {
    const now = this.now()
    const owed = Math.max(0, this.#paidAt - now) * this.#speed
    this.#speed = speed
    this.#paidAt = speed === 0 ? now : now + owed / speed
  }

  /** Milliseconds until the next piece may start; 0 = now. */
  wait(): number {
    return this.#speed === 0 ? 0 : Math.max(0, this.#paidAt - this.now())
  }

  /** A piece of so many bytes starts. */
  charge(bytes: number): void {
    if (this.#speed === 0) return
    this.#paidAt = Math.max(this.#paidAt, this.now()) + (bytes / this.#speed) * 1000
  }

  /**
   * Longest piece that keeps the flow even: a twentieth of a second's worth.
   * @param granularity  pieces are multiples of this, bytes
   * @param most         upper bound, bytes
   */
  piece(granularity: number, most: number): number {
    if (this.#speed === 0 || this.#paidAt === 0) return most
    const even = Math.floor(this.#speed / 20 / granularity) * granularity
    return Math.min(most, Math.max(granularity, even))
  }
}
