// SPDX-License-Identifier: Apache-2.0
// Sink that keeps nothing: to measure a source, and to check streams that are stored as they are.

import type { BlockPlace, ImageHead, MemorySink, PageBatch } from './image.js'
import type { Slots } from './slots.js'

export class NullSink implements MemorySink {
  readonly #slots: Slots

  constructor(slots: Slots) {
    this.#slots = slots
  }

  async begin(head: ImageHead): Promise<readonly BlockPlace[]> {
    return placesInLine(head)
  }

  async pages({ slot }: PageBatch): Promise<void> {
    this.#slots.give(slot)
  }

  async barrier(): Promise<void> {}
  async early(_bytes: Uint8Array): Promise<void> {}
  async pagesDone(): Promise<void> {}
  async tail(_bytes: Uint8Array): Promise<void> {}
  async finish(): Promise<void> {}
  async abort(): Promise<void> {}
}

/** Places for sinks that have none of their own: one behind the other, apart so that no piece reaches over two blocks. */
export function placesInLine({ blocks, pageSize }: ImageHead): BlockPlace[] {
  let place = 0
  return blocks.map(({ length }) => {
    const block = { place, bitmap: new Uint8Array(Math.ceil(length / pageSize / 8)), digests: undefined }
    place += length + pageSize
    return block
  })
}
