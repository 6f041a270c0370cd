// SPDX-License-Identifier: Apache-2.0
// How long senders had to wait for us: spans in which no receive was queued on a connection. Counted in classes, so that one
// long stall among many short ones is seen. Pure apart from the clock.

/** Upper bounds of the classes, milliseconds; one more class has what is longer. */
const WAIT_CLASSES = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] as const

export class WaitMeter {
  readonly #now: () => number
  readonly #since = new Map<object, number>()
  readonly #counts = new Array<number>(WAIT_CLASSES.length + 1).fill(0)
  #longest = 0

  constructor(now = () => performance.now()) {
    this.#now = now
  }

  /** Milliseconds. */
  get longest(): number {
    return this.#longest
  }

  get classes(): { upTo: number | undefined; count: number }[] {
    return this.#counts.map((count, index) => ({ upTo: WAIT_CLASSES[index], count }))
  }

  /** From now on nothing is received on a connection. */
  begin(connection: object): void {
    if (!this.#since.has(connection)) this.#since.set(connection, this.#now())
  }

  /** It goes on. */
  end(connection: object): void {
    const since = this.#since.get(connection)
    if (since === undefined) return
    this.#since.delete(connection)
    const waited = this.#now() - since
    this.#longest = Math.max(this.#longest, waited)
    const found = WAIT_CLASSES.findIndex((most) => waited <= most)
    const index = found < 0 ? WAIT_CLASSES.length : found
    this.#counts[index] = (this.#counts[index] ?? 0) + 1
  }
}
