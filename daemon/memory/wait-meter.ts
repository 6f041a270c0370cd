// SPDX-License-Identifier: Apache-2.0
// How long senders had to wait for us: spans in which no receive was queued on a connection. Pure apart from the clock.

import { TimeClasses } from './time-classes.js'

export class WaitMeter {
  readonly #now: () => number
  readonly #since = new Map<object, number>()
  readonly times = new TimeClasses()

  constructor(now = () => performance.now()) {
    this.#now = now
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
    this.times.add(this.#now() - since)
  }
}
