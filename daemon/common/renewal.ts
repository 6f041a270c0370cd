// SPDX-License-Identifier: Apache-2.0
// Doing something again whenever that is asked for, never twice at once. Used for files that are read anew on a signal.
// Invariant: one round is under way at most, and one waits for its end at most: whoever asks during a round gets one that
// begins after he asked, together with all others who did.

export class Renewal {
  readonly #work: () => Promise<void>
  #running: Promise<void> | undefined
  #next: Promise<void> | undefined

  constructor(work: () => Promise<void>) {
    this.#work = work
  }

  /** Resolves, or rejects, with a round that began after this was called. */
  ask(): Promise<void> {
    if (this.#next !== undefined) return this.#next
    if (this.#running === undefined) return this.#begin()
    this.#next = this.#running
      .catch(() => undefined) // told to whoever asked for that round
      .then(() => {
        this.#next = undefined
        return this.#begin()
      })
    return this.#next
  }

  #begin(): Promise<void> {
    const round = this.#work().finally(() => {
      this.#running = undefined
    })
    this.#running = round
    return round
  }
}
