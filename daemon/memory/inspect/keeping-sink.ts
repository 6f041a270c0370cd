// SPDX-License-Identifier: Apache-2.0
// Sink of an inspection: lets the pages go and keeps everything else, so that what is known of an image stays known when its
// file ends too early.

import { FormatError } from '../../../protocol/format-error.js'
import { freshDigests } from '../digest-file.js'
import type { BlockPlace, ImageHead } from '../image.js'
import { NullSink, placesInLine } from '../null-sink.js'
import type { Slots } from '../slots.js'
import { StatesDigest } from '../states-digest.js'

/** Memory of a guest that is looked at, bytes: a list of blocks can claim anything. */
const MOST_MEMORY = 2 ** 45

export class KeepingSink extends NullSink {
  readonly #digests: boolean
  readonly #states = new StatesDigest()
  #head: ImageHead | undefined
  #places: readonly BlockPlace[] = []
  #early: Uint8Array[] = []
  /** Numbers of pages that came as changes, by block: what is in them is not known. */
  readonly #changed = new Map<number, Set<number>>()

  /** @param digests  of all pages are wanted */
  constructor(slots: Slots, digests: boolean) {
    super(slots)
    this.#digests = digests
  }

  get head(): ImageHead | undefined {
    return this.#head
  }
  get places(): readonly BlockPlace[] {
    return this.#places
  }
  /** Sections and commands in front of the end of RAM. */
  get kept(): readonly Uint8Array[] {
    return this.#early
  }
  get tailLength(): number {
    return this.#states.tailLength
  }
  /** Pages that came as changes (XBZRLE). */
  get changed(): number {
    return [...this.#changed.values()].reduce((sum, { size }) => sum + size, 0)
  }

  override async begin(head: ImageHead): Promise<readonly BlockPlace[]> {
    const total = head.blocks.reduce((sum, { length }) => sum + length, 0)
    if (total > MOST_MEMORY) throw new FormatError(`the blocks of RAM claim ${total} bytes together`)
    this.#head = head
    this.#places = placesInLine(head).map((place, index) =>
      this.#digests
        ? { ...place, digests: freshDigests(head.blocks[index]?.length ?? 0, head.pageSize) }
        : place,
    )
    return this.#places
  }

  override async early(bytes: Uint8Array): Promise<void> {
    this.#states.early(bytes)
    this.#early.push(bytes)
  }

  override async tail(bytes: Uint8Array): Promise<void> {
    this.#states.tail(bytes)
  }

  /** The scanner stopped at a page that came as a change. */
  change(block: number, page: number): void {
    const pages = this.#changed.get(block) ?? new Set()
    this.#changed.set(block, pages.add(page))
  }

  /** What follows RAM; undefined when it was too long to be kept. */
  tailBytes(): Uint8Array | undefined {
    return this.#states.tailBytes()
  }

  /** See StatesDigest. To be called once. */
  states(): Uint8Array {
    return this.#states.finish()
  }
}
