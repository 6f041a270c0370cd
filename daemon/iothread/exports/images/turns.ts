// SPDX-License-Identifier: Apache-2.0
// Work of which some may be done at once, each in its turn: who comes first begins first, and who is stopped leaves the line.
// Used for checksums, which would else have all of the memory and the processors.

import type { Operation } from './ticket.js'

/** Whose turn it is. */
type Stoppable = Pick<Operation, 'check' | 'whenStopped'>

export class Turns {
  readonly #most: number
  #taken = 0
  /** First come first. */
  readonly #line = new Set<() => void>()

  /** @param most  at once */
  constructor(most: number) {
    this.#most = most
  }

  /** How many wait. */
  get waiting(): number {
    return this.#line.size
  }

  /** @returns what ends the turn when it is disposed. @throws Refusal when the request was stopped */
  async take(operation: Stoppable): Promise<Disposable> {
    operation.check()
    if (this.#taken < this.#most) this.#taken++
    else await this.#wait(operation)
    return { [Symbol.dispose]: () => this.#give() }
  }

  async #wait(operation: Stoppable): Promise<void> {
    const given = await new Promise<boolean>((resolve) => {
      const begin = () => {
        off()
        resolve(true)
      }
      const off = operation.whenStopped(() => {
        if (this.#line.delete(begin)) resolve(false)
      })
      this.#line.add(begin)
    })
    if (!given) operation.check()
  }

  /** To the next in the line, or back. */
  #give(): void {
    const [next] = this.#line
    if (next === undefined) this.#taken--
    else {
      this.#line.delete(next)
      next()
    }
  }
}
