// SPDX-License-Identifier: Apache-2.0
// How much of a source was changed since the last look, each chunk counted once however often it was changed: what is
// changed again before it is copied is copied once. Used by ConvergenceWatch.

/** A change of more chunks than that is counted as it comes: to remember them all would cost more than it tells. */
const LONG = 64

export class DirtiedChunks {
  readonly #granularity: number
  readonly #chunks = new Set<number>()
  #long = 0

  /** @param granularity  bytes per chunk */
  constructor(granularity: number) {
    this.#granularity = granularity
  }

  mark(offset: number, length: number): void {
    if (length > LONG * this.#granularity) {
      this.#long += length
      return
    }
    const end = Math.ceil((offset + length) / this.#granularity)
    for (let chunk = Math.floor(offset / this.#granularity); chunk < end; chunk++) this.#chunks.add(chunk)
  }

  /** @returns bytes since this was asked last */
  take(): number {
    const bytes = this.#chunks.size * this.#granularity + this.#long
    this.#chunks.clear()
    this.#long = 0
    return bytes
  }
}
