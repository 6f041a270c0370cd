// SPDX-License-Identifier: Apache-2.0
// The last bytes of an image on their way: whether it is whole shows only there. Used by sources.

import { FormatError } from '../../protocol/format-error.js'
import { concat } from '../../protocol/migration/bytes.js'
import { findDescription, type TailEnd, whyIncomplete } from '../../protocol/migration/description.js'
import { MAX_DESCRIPTION } from '../../protocol/migration/section.js'

/** The longest description, and what stands in front of it, fit. */
const KEPT = MAX_DESCRIPTION + 4096
/** The last byte of a description. */
const CLOSING = 0x7d

export class TailCheck {
  readonly #name: string
  readonly #end: TailEnd
  #parts: Uint8Array[] = []
  #length = 0

  /** @param name  of the source, for the error */
  constructor(name: string, end: TailEnd) {
    this.#name = name
    this.#end = end
  }

  /** What follows RAM; the bytes stay the caller's, who does not change them. */
  add(bytes: Uint8Array): void {
    this.#parts.push(bytes)
    this.#length += bytes.length
    for (
      let [first] = this.#parts;
      first !== undefined && this.#length - first.length >= KEPT;
      [first] = this.#parts
    ) {
      this.#parts.shift()
      this.#length -= first.length
    }
  }

  /** Whether it is complete as far as it has come. */
  get isComplete(): boolean {
    const last = this.#parts.at(-1)
    if (last?.at(-1) !== CLOSING) return false
    return findDescription(concat(this.#parts), 'exact') !== undefined
  }

  /** @throws FormatError when the image is not complete */
  check(): void {
    const why = whyIncomplete(concat(this.#parts), this.#end)
    this.#parts = []
    this.#length = 0
    if (why !== undefined) throw new FormatError(`${this.#name} is not complete: ${why}`)
  }
}
