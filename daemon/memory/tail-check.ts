// SPDX-License-Identifier: Apache-2.0
// The last bytes of an image on their way: whether it is whole shows only there, and on a device that is longer where it ends.
// Used by sources.

import { FormatError } from '../../protocol/format-error.js'
import { concat } from '../../protocol/migration/bytes.js'
import {
  findDescription,
  HEAD_LENGTH,
  type TailEnd,
  whyIncomplete,
} from '../../protocol/migration/description.js'
import { DescriptionFinder } from '../../protocol/migration/description-finder.js'
import { MAX_DESCRIPTION } from '../../protocol/migration/section.js'
import type { FileBytes } from './file-bytes.js'

/** The longest description, and what stands in front of it, fit. */
const KEPT = MAX_DESCRIPTION + 4096
/** The last byte of a description. */
const CLOSING = 0x7d
/** First look at the end of a file, bytes. */
const WINDOW = 2 ** 16

/** A file that ends with a description ends with it, whatever looks like one before; else bytes may follow the image. */
export async function tailOfFile(file: FileBytes): Promise<TailCheck> {
  const exact = !file.isDevice && (await endsWithDescription(file))
  return new TailCheck(file.name, exact ? 'exact' : 'padded')
}

export class TailCheck {
  readonly #name: string
  readonly #finder: DescriptionFinder | undefined
  #seen = 0
  #parts: Uint8Array[] = []
  #length = 0

  /**
   * @param name  of the source, for the error
   * @param end   padded: the image ends with the first description
   */
  constructor(name: string, end: TailEnd) {
    this.#name = name
    this.#finder = end === 'padded' ? new DescriptionFinder() : undefined
  }

  /**
   * What follows RAM; the bytes stay the caller's, who does not change them.
   * @returns how many of them are the image's: all, until its end has come
   */
  add(bytes: Uint8Array): number {
    if (this.#finder?.end !== undefined) return 0
    const before = this.#seen
    this.#seen += bytes.length
    this.#keep(bytes)
    this.#finder?.add(bytes)
    return (this.#finder?.end ?? this.#seen) - before
  }

  /** Whether it is complete as far as it has come. */
  get isComplete(): boolean {
    if (this.#finder !== undefined) return this.#finder.end !== undefined
    const last = this.#parts.at(-1)
    if (last?.at(-1) !== CLOSING) return false
    return findDescription(concat(this.#parts), 'exact') !== undefined
  }

  /** No more bytes come. @throws FormatError when the image is not complete */
  check(): void {
    this.#finder?.finish()
    const why = this.#finder?.end === undefined ? whyIncomplete(concat(this.#parts), 'exact') : undefined
    this.#parts = []
    this.#length = 0
    if (why !== undefined) throw new FormatError(`${this.#name} is not complete: ${why}`)
  }

  #keep(bytes: Uint8Array): void {
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
}

async function endsWithDescription(file: FileBytes): Promise<boolean> {
  for (let length = WINDOW; ; length *= 4) {
    const end = await file.bytes(Math.max(0, file.length - length), Math.min(length, file.length))
    // It has no byte 0, so what stands in front of it does.
    if (end.lastIndexOf(0) < HEAD_LENGTH && length < Math.min(KEPT, file.length)) continue
    return findDescription(end, 'exact') !== undefined
  }
}
