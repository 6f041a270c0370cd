// SPDX-License-Identifier: Apache-2.0
// How often each host cluster is referred to, as the check counts it. Compact: pages of counters come to be when a
// cluster of theirs is referred to, and are as wide as their largest counter needs. Used by the files of this folder.

import { FormatError } from '../../../../../../protocol/format-error.js'

/** Clusters per page, a power of two. */
const PAGE = 4096
/** Bytes of all pages together: enough for 32 TiB of clusters of 64 KiB that are all in use. */
export const MAX_BYTES = 512 * 2 ** 20
const MAX_COUNT = 2 ** 32 - 1

type Page = Uint8Array | Uint16Array | Uint32Array

export class ReferenceCounts {
  readonly #pages = new Map<number, Page>()
  readonly #maxBytes: number
  #bytes = 0

  constructor(maxBytes = MAX_BYTES) {
    this.#maxBytes = maxBytes
  }

  get(cluster: number): number {
    return this.#pages.get(Math.floor(cluster / PAGE))?.[cluster % PAGE] ?? 0
  }

  /**
   * One reference more, or as many as `by` says.
   * @throws FormatError when the counters would need too much memory
   */
  add(cluster: number, by = 1): void {
    const index = Math.floor(cluster / PAGE)
    const count = Math.min(MAX_COUNT, this.get(cluster) + by)
    const page = this.#widePage(index, count)
    page[cluster % PAGE] = count
  }

  /** Forgets all references of a cluster. */
  clear(cluster: number): void {
    const page = this.#pages.get(Math.floor(cluster / PAGE))
    if (page !== undefined) page[cluster % PAGE] = 0
  }

  /** Clusters of the pages there are: `[first, end)` ascending. Every cluster with a count lies in one. */
  *ranges(): Generator<readonly [number, number]> {
    const indexes = Float64Array.from(this.#pages.keys()).sort()
    for (const index of indexes) yield [index * PAGE, (index + 1) * PAGE]
  }

  #widePage(index: number, count: number): Page {
    const page = this.#pages.get(index)
    if (page !== undefined && count < 2 ** (8 * page.BYTES_PER_ELEMENT)) return page
    const width = count < 2 ** 8 ? 1 : count < 2 ** 16 ? 2 : 4
    this.#bytes += PAGE * width - (page?.byteLength ?? 0)
    if (this.#bytes > this.#maxBytes)
      throw new FormatError(
        `The references of this image need more than ${this.#maxBytes / 2 ** 20} MiB to be counted`,
      )
    const made =
      width === 1 ? new Uint8Array(PAGE) : width === 2 ? new Uint16Array(PAGE) : new Uint32Array(PAGE)
    if (page !== undefined) made.set(page)
    this.#pages.set(index, made)
    return made
  }
}
