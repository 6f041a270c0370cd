// SPDX-License-Identifier: Apache-2.0
// The speed limit of one transfer, shared by all its connections: who is to read bytes waits for his turn. What a sink writes has
// been counted when it was read. A new speed acts at once, and nobody waits any more when the transfer is cancelled.

import { Cancelled } from '../errors.js'
import { RateLimit } from '../iothread/copy/rate-limit.js'

/** Longest stretch that is moved at once under a limit, milliseconds of its speed. */
const SLICE_MS = 50
/** Timers know no longer time, milliseconds. */
const LONGEST_MS = 2 ** 31 - 1

export class Pace {
  readonly #limit: RateLimit
  readonly #signal: AbortSignal
  /** Those who wait; called when they are to look again. */
  readonly #waiting = new Set<() => void>()

  /** @param speed  bytes per second, 0 = no limit */
  constructor(speed: number, signal: AbortSignal) {
    this.#limit = new RateLimit(speed)
    this.#signal = signal
    signal.addEventListener('abort', () => this.#wake(), { once: true })
  }

  get limited(): boolean {
    return this.#limit.speed > 0
  }

  set(speed: number): void {
    this.#limit.set(speed)
    this.#wake()
  }

  /** Answers when the next bytes may move, or the transfer was cancelled. */
  async turn(): Promise<void> {
    for (let wait = this.#limit.wait(); wait > 0 && !this.#signal.aborted; wait = this.#limit.wait()) {
      await new Promise<void>((resolve) => {
        const look = () => {
          clearTimeout(timer)
          this.#waiting.delete(look)
          resolve()
        }
        const timer = setTimeout(look, Math.min(wait, LONGEST_MS))
        this.#waiting.add(look)
      })
    }
  }

  /** Waits for the turn of so many bytes. @throws Cancelled */
  async pay(bytes: number): Promise<void> {
    await this.turn()
    if (this.#signal.aborted) throw new Cancelled()
    this.#limit.charge(bytes)
  }

  /** So many bytes have moved. */
  charge(bytes: number): void {
    this.#limit.charge(bytes)
  }

  /** How much may move at once, bytes. */
  piece(most: number): number {
    if (!this.limited) return most
    return Math.min(most, Math.max(1, Math.floor((this.#limit.speed * SLICE_MS) / 1000)))
  }

  #wake(): void {
    for (const look of [...this.#waiting]) look()
  }
}
