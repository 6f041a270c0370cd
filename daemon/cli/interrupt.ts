// SPDX-License-Identifier: Apache-2.0
// ^C and its relatives while a command holds something that needs a clean end. The first signal asks for that end, a
// second one is for leaving at once.

const signals = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const

export class Interrupt {
  #asked = false
  readonly #handler: (name: NodeJS.Signals) => void

  /**
   * Both get the exit status of their signal.
   * @param first   called once; asks for a clean end
   * @param second  called for every further signal; does not return to the work
   */
  constructor(first: (status: number) => void, second: (status: number) => void) {
    this.#handler = (name) => {
      const status = signals[name as keyof typeof signals]
      if (this.#asked) {
        second(status)
        return
      }
      this.#asked = true
      first(status)
    }
    for (const name of Object.keys(signals)) process.on(name, this.#handler)
  }

  /** Signals have their usual effect again. */
  [Symbol.dispose](): void {
    for (const name of Object.keys(signals)) process.off(name, this.#handler)
  }
}
