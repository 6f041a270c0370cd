// SPDX-License-Identifier: Apache-2.0
// Finds the first description in bytes that come in pieces: where an image ends that lies on something longer, a block device.
// Keeps no more than one description that has begun. Used by who reads images from files.

import { concat } from './bytes.js'
import { candidateAt, HEAD_LENGTH, isClosed, MAX_TRIES, readCandidate } from './description.js'
import { SectionType } from './section-type.js'

export class DescriptionFinder {
  /** From the first byte on that may begin one. */
  #parts: Uint8Array[] = []
  #length = 0
  /** Bytes that were given and are not kept any more. */
  #before = 0
  /** With fewer bytes it is no use to look. */
  #wanted = 0
  #tries = 0
  #end: number | undefined

  /** Where the description ends, counted in all bytes that were given; undefined: it has not been found. */
  get end(): number | undefined {
    return this.#end
  }

  /** What follows the pages, from the boundary on; the bytes stay the caller's, who does not change them. */
  add(bytes: Uint8Array): void {
    if (this.#end !== undefined || this.#tries === MAX_TRIES) return
    this.#parts.push(bytes)
    this.#length += bytes.length
    if (this.#length >= this.#wanted) this.#look(false)
  }

  /** No more come: what only began is none, and may have hidden one. */
  finish(): void {
    if (this.#end === undefined && this.#tries < MAX_TRIES) this.#look(true)
  }

  #look(last: boolean): void {
    const bytes = concat(this.#parts)
    for (let at = nextEof(bytes, 0); at >= 0; at = nextEof(bytes, at + 1)) {
      const candidate = candidateAt(bytes, at)
      if (candidate === undefined) continue
      // Only with the next byte it looks like JSON.
      const length = HEAD_LENGTH + (at + HEAD_LENGTH < bytes.length ? candidate.jsonLength : 1)
      if (at + length > bytes.length) {
        if (last) continue
        this.#keep(bytes, at, length)
        return
      }
      if (!isClosed(bytes, candidate)) continue
      this.#tries += 1
      if (readCandidate(bytes, candidate) !== undefined) this.#end = this.#before + at + length
      if (this.#end === undefined && this.#tries < MAX_TRIES) continue
      this.#keep(bytes, bytes.length, 0)
      return
    }
    // One may begin in the last bytes.
    this.#keep(bytes, Math.max(0, bytes.length - HEAD_LENGTH), 0)
  }

  #keep(bytes: Uint8Array, from: number, wanted: number): void {
    this.#parts = from < bytes.length ? [bytes.slice(from)] : []
    this.#length = bytes.length - from
    this.#before += from
    this.#wanted = wanted
  }
}

/** The next EOF with the type of a description behind it, or -1. */
function nextEof(bytes: Uint8Array, from: number): number {
  for (let type = bytes.indexOf(SectionType.description, from + 1); type >= 0; ) {
    if (bytes[type - 1] === SectionType.eof) return type - 1
    type = bytes.indexOf(SectionType.description, type + 1)
  }
  return -1
}
