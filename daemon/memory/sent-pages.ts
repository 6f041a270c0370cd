// SPDX-License-Identifier: Apache-2.0
// Which pages went out to who loads a stream, and the records for those that are zero in the end. In fresh memory a page that
// never went out is zero; one that went out before it became zero has to be cleared there. Used by the sinks of streams.

import { Writer } from '../../protocol/migration/bytes.js'
import { isPageSet, setPage } from '../../protocol/migration/mapped-bitmap.js'
import { RamFlag } from '../../protocol/migration/ram-flags.js'
import type { BlockPlace, ImageHead } from './image.js'
import type { BlockRun } from './stream-sink.js'

/** Records written at a time, and each of them that names no block; bytes. */
const STEP = 65536
const RECORD = 9

export class SentPages {
  readonly #head: ImageHead
  readonly #places: readonly BlockPlace[]
  /** By block; bits as those of the places. */
  readonly #sent: readonly Uint8Array[]

  /** @param places  whose bits say in the end which pages are zero */
  constructor(head: ImageHead, places: readonly BlockPlace[]) {
    this.#head = head
    this.#places = places
    this.#sent = places.map(({ bitmap }) => new Uint8Array(bitmap.length))
  }

  add({ block, ranges }: BlockRun): void {
    const { pageSize } = this.#head
    const sent = this.#sent[block]
    if (sent === undefined) throw new RangeError(`block ${block}`)
    for (const { offset, length } of ranges)
      for (let at = offset; at < offset + length; at += pageSize) setPage(sent, at / pageSize)
  }

  /** Records for pages that are zero, in steps. @param all  also for those that never went out */
  *zeroRecords(all: boolean): Generator<Uint8Array> {
    const { blocks, pageSize } = this.#head
    for (const [index, { name, length }] of blocks.entries()) {
      let writer = new Writer()
      let filled = 0
      let named = false
      for (const page of this.#zeroes(index, length / pageSize, all)) {
        const word = page * pageSize + RamFlag.zero
        if (named) writer.u64(word + RamFlag.continue).u8(0)
        else writer.u64(word).name(name).u8(0)
        named = true
        filled += RECORD
        if (filled < STEP) continue
        yield writer.finish()
        writer = new Writer()
        filled = 0
      }
      if (filled > 0) yield writer.finish()
    }
  }

  /** Numbers of pages of a block. Eight that are not asked for are passed over at once. */
  *#zeroes(block: number, pages: number, all: boolean): Generator<number> {
    const set = this.#places[block]?.bitmap ?? new Uint8Array()
    const sent = this.#sent[block] ?? new Uint8Array()
    for (let first = 0, byte = 0; first < pages; first += 8, byte += 1) {
      if (((all ? 0xff : (sent[byte] ?? 0)) & ~(set[byte] ?? 0)) === 0) continue
      for (let page = first; page < Math.min(first + 8, pages); page++)
        if (!isPageSet(set, page) && (all || isPageSet(sent, page))) yield page
    }
  }
}
