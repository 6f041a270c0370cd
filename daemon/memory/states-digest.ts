// SPDX-License-Identifier: Apache-2.0
// The digest that says whose checksums are: SHA-256 of what comes early and of what follows RAM, to the end of the description.
// Bytes behind that are not the image's: a device that holds one is longer. Used where checksums are written and read.

import { createHash } from 'node:crypto'
import { findDescription } from '../../protocol/migration/description.js'

/** States that are kept, bytes. Longer ones are digested with what follows them; with VFIO they can be as long as memory. */
export const MOST_TAIL = 64 * 2 ** 20

export class StatesDigest {
  readonly #hash = createHash('sha256')
  #tail: Uint8Array[] = []
  #tailLength = 0

  /** Bytes that follow RAM. */
  get tailLength(): number {
    return this.#tailLength
  }

  /** Sections and commands in front of the end of RAM. */
  early(bytes: Uint8Array): void {
    this.#hash.update(bytes)
  }

  /** What follows RAM; the bytes are not changed any more. */
  tail(bytes: Uint8Array): void {
    const before = this.#tailLength
    this.#tailLength += bytes.length
    if (this.#tailLength <= MOST_TAIL) {
      this.#tail.push(bytes)
      return
    }
    if (before <= MOST_TAIL) for (const part of this.#tail.splice(0)) this.#hash.update(part)
    this.#hash.update(bytes)
  }

  /** What follows RAM; undefined when it is too long to be kept. */
  tailBytes(): Uint8Array | undefined {
    return this.#tailLength > MOST_TAIL ? undefined : Buffer.concat(this.#tail)
  }

  /** 32 bytes. To be called once, at the end. */
  finish(): Uint8Array {
    const tail = this.tailBytes() ?? new Uint8Array()
    const found = findDescription(tail, 'exact') ?? findDescription(tail, 'padded')
    const end = found === undefined ? tail.length : found.jsonOffset + found.jsonLength
    return this.#hash.update(tail.subarray(0, end)).digest()
  }
}
