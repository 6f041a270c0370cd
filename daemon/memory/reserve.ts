// SPDX-License-Identifier: Apache-2.0
// Storage for pages that are to come, reserved in windows: a file system that finds room for each write by itself is slower
// (1 MiB writes past the page cache on ext4: 2.05 GB/s, 2.3 with the room made before; 512 KiB: 1.7 and 2.2). What no page came for is
// given back. Used by MappedSink. Best effort: what cannot be reserved is told by the write that finds no room.
//
// Each reservation costs: ext4 lets all writes of the file come to their end before it, and begins none until it is done. So several
// windows are reserved at once, as many as were filled before.
// Rule: only where memory is dense; around scattered pages there would be more to give back than was gained.

import type { FileId, IoEngine, Range } from '../../native/types.js'
import { nextRun } from '../../protocol/migration/mapped-bitmap.js'

/** Bytes reserved at least, and what windows begin at multiples of in their block. */
const WINDOW = 16 * 2 ** 20
/** Windows reserved at once, at most. */
const MOST_WINDOWS = 16
/** Pages that lie one behind the other and make memory dense, bytes. */
const DENSE = 256 * 1024
/** Shorter stretches without pages are not worth a call, bytes. */
const LEAST_GAP = 64 * 1024

/** A block's pages in the file, bytes. */
export interface ReservedBlock {
  readonly place: number
  readonly length: number
  readonly bitmap: Uint8Array
}

export class Reserve {
  readonly #engine: IoEngine
  readonly #file: FileId
  readonly #blocks: readonly ReservedBlock[]
  /** By their offset in the file. */
  readonly #windows = new Map<number, Promise<void> | 'made'>()
  /** Bytes of pages in windows, and of windows. */
  #filled = 0
  #made = 0
  #able: boolean

  /** @param able  false: nothing is reserved */
  constructor(engine: IoEngine, file: FileId, blocks: readonly ReservedBlock[], able: boolean) {
    this.#engine = engine
    this.#file = file
    this.#blocks = blocks
    this.#able = able
  }

  /** Answers when there is room for these pages. Never rejects. */
  async make(pieces: readonly Range[]): Promise<void> {
    if (!this.#able) return
    const waits = new Set<Promise<void>>()
    for (const { offset, length } of pieces.filter(({ length }) => length >= DENSE)) {
      const block = this.#blockAt(offset)
      if (block === undefined) continue
      for (const window of windowsOf(block, offset, length)) {
        const made = this.#windows.get(window) ?? this.#reserve(block, window)
        if (made !== 'made') waits.add(made)
      }
      this.#filled += length
    }
    if (waits.size > 0) await Promise.all(waits)
  }

  /** All pages are in their places and the file has its length: the rest of the windows has no storage any more. */
  async giveBack(pageSize: number): Promise<void> {
    for (const start of this.#windows.keys()) {
      const block = this.#blockAt(start)
      if (block === undefined) continue
      const from = (start - block.place) / pageSize
      const to = Math.min(block.length, start - block.place + WINDOW) / pageSize
      const given: Promise<number>[] = []
      for (let page = from; page < to; ) {
        const run = nextRun(block.bitmap, page, to, to)
        const gap = ((run?.page ?? to) - page) * pageSize
        // A file system that cannot leaves it allocated, which reads the same.
        if (gap >= LEAST_GAP) given.push(this.#engine.discard(this.#file, block.place + page * pageSize, gap))
        page = run === undefined ? to : run.page + run.count
      }
      await Promise.all(given)
    }
  }

  /** This window and some behind it. */
  #reserve(block: ReservedBlock, start: number): Promise<void> {
    const end = block.place + block.length
    const starts: number[] = []
    const most = Math.min(
      MOST_WINDOWS,
      Math.max(1, Math.floor((2 * Math.min(this.#filled, this.#made) - this.#made) / WINDOW)),
    )
    for (let at = start; at < end && starts.length < most && !this.#windows.has(at); at += WINDOW)
      starts.push(at)
    const length = Math.min(end - start, starts.length * WINDOW)
    this.#made += length
    const making = this.#engine.allocate(this.#file, start, length).then((result) => {
      if (result < 0) this.#able = false
      for (const each of starts) this.#windows.set(each, 'made')
    })
    for (const each of starts) this.#windows.set(each, making)
    return making
  }

  #blockAt(offset: number): ReservedBlock | undefined {
    return this.#blocks.find(({ place, length }) => offset >= place && offset < place + length)
  }
}

/** Offsets in the file of the windows that a range of a block touches. */
function windowsOf({ place }: ReservedBlock, offset: number, length: number): number[] {
  const windows: number[] = []
  const first = Math.floor((offset - place) / WINDOW) * WINDOW
  for (let at = first; at < offset - place + length; at += WINDOW) windows.push(place + at)
  return windows
}
