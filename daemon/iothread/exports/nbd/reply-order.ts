// SPDX-License-Identifier: Apache-2.0
// Keeps replies of one connection whole: while one is put in parts, with the disk read between them, all others wait.
// Used by Serving.
// Rule: a reply in parts must be able to end without memory of those that wait behind it.

export class ReplyOrder {
  #inParts = false
  readonly #behind: (() => void)[] = []

  /** @param put  puts all of a reply, or a chunk of one: now, or behind the reply that is put in parts */
  whole(put: () => void): void {
    if (this.#inParts) this.#behind.push(put)
    else put()
  }

  /** Until the returned object is disposed nobody else puts anything. */
  async parts(): Promise<Disposable> {
    if (this.#inParts)
      await new Promise<void>((resolve) =>
        this.#behind.push(() => {
          this.#inParts = true
          resolve()
        }),
      )
    this.#inParts = true
    return { [Symbol.dispose]: () => this.#over() }
  }

  #over(): void {
    this.#inParts = false
    while (!this.#inParts) {
      const next = this.#behind.shift()
      if (next === undefined) return
      next()
    }
  }
}
