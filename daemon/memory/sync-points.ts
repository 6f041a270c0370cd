// SPDX-License-Identifier: Apache-2.0
// Sync points of multifd: who comes to one waits until all have come and what they brought is in its place. The only order
// there is between connections.

import { FormatError } from '../../protocol/format-error.js'

export class SyncPoints {
  readonly #parties: number
  readonly #settle: () => Promise<void>
  readonly #name: string
  #arrived = 0
  #left = 0
  #over = false
  #next = gate()

  /**
   * @param settle  called when all have arrived, before any of them goes on
   * @param name    of the connections, for errors
   */
  constructor(parties: number, settle: () => Promise<void>, name: string) {
    this.#parties = parties
    this.#name = name
    this.#settle = settle
  }

  /** @throws FormatError when a connection has ended that others wait for, or there are no more points */
  async arrive(): Promise<void> {
    const point = this.#next
    this.#arrived += 1
    if (this.#over) this.#failOver()
    else if (this.#left > 0) this.#failUneven()
    else if (this.#arrived === this.#parties) {
      this.#arrived = 0
      this.#next = gate()
      this.#settle().then(point.open, point.fail)
    }
    await point.passed
  }

  /** A connection has ended: nobody may wait for it. */
  leave(): void {
    this.#left += 1
    if (this.#arrived > 0) this.#failUneven()
  }

  /** The main connection comes to no more points: who is at one has one too many. */
  close(): void {
    this.#over = true
    if (this.#arrived > 0) this.#failOver()
  }

  #failOver(): void {
    this.fail(
      new FormatError(`${this.#name}: a multifd channel has a sync point more than the main connection`),
    )
  }

  #failUneven(): void {
    this.fail(new FormatError(`${this.#name}: a multifd channel ended before the others`))
  }

  /** Whoever waits, or will, is told. */
  fail(error: Error): void {
    this.#next.fail(error)
  }
}

interface Gate {
  readonly passed: Promise<void>
  readonly open: () => void
  readonly fail: (error: Error) => void
}

function gate(): Gate {
  let open = (): void => {}
  let fail = (_error: Error): void => {}
  const passed = new Promise<void>((resolve, reject) => {
    open = resolve
    fail = reject
  })
  // Who waits hears of it; nobody may be waiting yet.
  passed.catch(() => undefined)
  return { passed, open, fail }
}
