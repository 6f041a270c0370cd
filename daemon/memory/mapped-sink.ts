// SPDX-License-Identifier: Apache-2.0
// Sink: a mapped-ram file. Pages go to their places as they come, several writes at once; the bitmaps, without which a
// file reads as all zeroes, go last.

import { FormatError } from '../../protocol/format-error.js'
import { nextRun } from '../../protocol/migration/mapped-bitmap.js'
import {
  type MappedLayout,
  type MappedSource,
  mappedPieces,
  mappedTailStart,
  planMappedRam,
} from '../../protocol/migration/mapped-layout.js'
import { EIO } from '../common/errno.js'
import { IoError } from '../errors.js'
import { TaskPool } from '../iothread/copy/task-pool.js'
import { Appender } from './appender.js'
import type { FileBytes } from './file-bytes.js'
import type { BlockPlace, ImageHead, MemorySink, PageBatch } from './image.js'
import { Reserve } from './reserve.js'
import type { Slots } from './slots.js'
import { PART_MARK, type TargetFile } from './target-file.js'

export interface MappedSinkOptions {
  readonly slots: Slots
  readonly target: TargetFile
  /** Where the image begins in the file, bytes. */
  readonly offset: number
  /** Writes of a slot under way at most. */
  readonly channels: number
  /** What stands in the file before the image, if that is ours too; it is written with the first bytes. */
  readonly front: Uint8Array
}

/**
 * Pieces of one slot under way at once, and never more than half of them: the engine itself begins the others, so that the disk has
 * something to do when all that it was given ends together and JavaScript is not there yet.
 */
const PIECES_AT_ONCE = 8
/** Bitmaps are written in steps, bytes. */
const STEP = 2 ** 20

interface Begun {
  readonly source: MappedSource
  readonly layout: MappedLayout
  readonly places: readonly BlockPlace[]
  readonly pageSize: number
  readonly reserve: Reserve
}

export class MappedSink implements MemorySink {
  readonly #options: MappedSinkOptions
  readonly #pool: TaskPool
  #early: Uint8Array[] = []
  #begun: Begun | undefined
  #tail: Appender | undefined

  constructor(options: MappedSinkOptions) {
    this.#options = options
    this.#pool = new TaskPool(options.channels)
  }

  async begin(head: ImageHead): Promise<readonly BlockPlace[]> {
    const { offset, front } = this.#options
    const blocks = head.blocks.map(({ name, length }) => ({ name, usedLength: length }))
    const source = { configuration: head.configuration, ramId: head.section, blocks }
    const layout = planMappedRam(source, offset + front.length)
    const places = layout.blocks.map(({ mapped, bitmapLength }) => ({
      place: mapped.pagesOffset,
      bitmap: new Uint8Array(bitmapLength),
      digests: undefined,
    }))
    this.#begun = {
      source,
      layout,
      places,
      pageSize: head.pageSize,
      reserve: await this.#reserve(head, places, layout.tailOffset),
    }
    return places
  }

  async pages({ slot, pieces, length }: PageBatch): Promise<void> {
    const { slots, target } = this.#options
    const { reserve } = this.#started()
    await this.#pool
      .start(async () => {
        await reserve.make(pieces)
        const atOnce = Math.min(PIECES_AT_ONCE, Math.ceil(pieces.length / 2))
        const result = await slots.engine.writePieces(target.file, pieces, slot, 0, atOnce)
        slots.give(slot)
        if (typeof result === 'number') return
        throw new IoError(-result.result, 'write', target.name, pieces[result.piece]?.offset ?? 0, length)
      })
      .catch((error: unknown) => {
        // An earlier write failed: this one was not begun.
        slots.give(slot)
        throw error
      })
  }

  share(file: FileBytes, place: number): Promise<boolean> {
    return file.shareWith(this.#options.target.file, place)
  }

  /** Reads a page back that was given before and is in its place. */
  async readBack(place: number, slot: number, length: number): Promise<void> {
    const { slots, target } = this.#options
    const result = await slots.engine.read(target.file, place, length, slot, 0)
    if (result !== length) throw new IoError(result < 0 ? -result : EIO, 'read', target.name, place, length)
  }

  async barrier(): Promise<void> {
    await this.#pool.idle()
  }

  async early(bytes: Uint8Array): Promise<void> {
    this.#early.push(bytes)
  }

  async pagesDone(): Promise<void> {
    const { slots, target, channels } = this.#options
    const { layout, source } = this.#started()
    this.#tail = new Appender(slots, target.file, target.name, layout.tailOffset, channels)
    await this.#tail.add(mappedTailStart(source.ramId, this.#early))
    this.#early = []
  }

  async tail(bytes: Uint8Array): Promise<void> {
    await this.#tail?.add(bytes)
  }

  async finish(): Promise<void> {
    const { target, front } = this.#options
    const { source, layout, places, pageSize, reserve } = this.#started()
    await this.#tail?.flush()
    await this.#pool.idle()
    if (source.blocks.every(({ usedLength }, index) => isEmpty(places[index]?.bitmap, usedLength / pageSize)))
      throw new FormatError(
        `${target.name} would have no page with data: it would be taken for a file whose bitmaps were never written`,
      )
    await reserve.giveBack(pageSize)
    const [first, ...entries] = mappedPieces(source, layout)
    if (first === undefined) throw new Error('a layout has a head')
    for (const { offset, bytes } of entries) await target.write(offset, bytes)
    for (const [index, { mapped }] of layout.blocks.entries())
      await this.#writeBitmap(mapped.bitmapOffset, places[index]?.bitmap ?? new Uint8Array())
    const beginning = joined(front, first.bytes)
    await target.write(this.#options.offset + PART_MARK.length, beginning.subarray(PART_MARK.length))
    await target.complete(beginning.subarray(0, PART_MARK.length))
  }

  /**
   * In the page cache nothing is gained by it.
   * @param end  of the pages in the file, bytes
   */
  async #reserve({ blocks }: ImageHead, places: readonly BlockPlace[], end: number): Promise<Reserve> {
    const { slots, target } = this.#options
    const facts = await slots.engine.stat(target.file)
    const able = typeof facts !== 'number' && facts.kind === 'file' && facts.direct
    if (able && facts.size < end) await target.growTo(end)
    const reserved = places.map(({ place, bitmap }, index) => {
      return { place, bitmap, length: blocks[index]?.length ?? 0 }
    })
    return new Reserve(slots.engine, target.file, reserved, able)
  }

  async abort(): Promise<void> {
    await this.#pool.settle()
    await this.#tail?.drop()
    await this.#options.target.abort()
  }

  async #writeBitmap(offset: number, bitmap: Uint8Array): Promise<void> {
    for (let at = 0; at < bitmap.length; at += STEP)
      await this.#options.target.write(offset + at, bitmap.subarray(at, at + STEP))
  }

  #started(): Begun {
    if (this.#begun === undefined) throw new Error('the sink has not begun')
    return this.#begun
  }
}

function isEmpty(bitmap: Uint8Array | undefined, pages: number): boolean {
  return bitmap === undefined || nextRun(bitmap, 0, pages, pages) === undefined
}

function joined(one: Uint8Array, other: Uint8Array): Uint8Array {
  const both = new Uint8Array(one.length + other.length)
  both.set(one)
  both.set(other, one.length)
  return both
}
