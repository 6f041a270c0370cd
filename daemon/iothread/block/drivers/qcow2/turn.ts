// SPDX-License-Identifier: Apache-2.0
// Turns: work that awaits and must not be interleaved with its like, first come first served. Used where tables change
// in several steps.

export class Turns {
  #last: Promise<void> | undefined

  async run<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#last
    let end: () => void = () => {}
    const mine = new Promise<void>((resolve) => {
      end = resolve
    })
    this.#last = mine
    if (before !== undefined) await before
    try {
      return await work()
    } finally {
      if (this.#last === mine) this.#last = undefined
      end()
    }
  }
}
