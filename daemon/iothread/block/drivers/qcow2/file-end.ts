// SPDX-License-Identifier: Apache-2.0
// Where the file of a qcow2 image may end when nobody writes to it any more. Used by Refcounts.
// Behind the last cluster in use lies what was reserved and never needed, and what was freed. But where the counts of an image are too low,
// guest data may lie there too: what nobody counted when the file was found, and what is not zero, stays.

import type { Image } from './image.js'

export class FileEnd {
  readonly #image: Image
  readonly #counted: () => Promise<number>
  /** Length of the file as it was found, bytes. */
  #found = 0
  /** Where the clusters in use ended before any was freed, host offset; undefined: none was. */
  #before: number | undefined

  /** @param counted  end of the last cluster in use by the counts, host offset */
  constructor(image: Image, counted: () => Promise<number>) {
    this.#image = image
    this.#counted = counted
  }

  /** The counts are those of the file now. */
  found(): void {
    this.#found = this.#image.env.file.length()
    this.#before = undefined
  }

  /** To be called before a cluster becomes free. */
  async freeing(): Promise<void> {
    this.#before ??= await this.#counted()
  }

  /** Host offset. @throws IoError */
  async get(): Promise<number> {
    const counted = await this.#counted()
    const { file } = this.#image.env
    const end = Math.min(this.#found, file.length())
    for (let at = Math.max(counted, this.#before ?? 0); at < end; ) {
      const { offset, length, kind } = await file.status(at, end - at)
      if (kind === 'data') return Math.max(counted, end)
      at = offset + length
    }
    return counted
  }
}
