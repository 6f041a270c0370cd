// SPDX-License-Identifier: Apache-2.0
// Memory that a stream leaves out because it lies in files (capability x-ignore-shared): when the end of RAM has come, and so
// the guest stands still, the files are read and their pages go to the same sink. Blocks can get other names on the way.

import { pageBits, pageDigests } from '../../native/page-scanner.js'
import { FormatError } from '../../protocol/format-error.js'
import { quoted } from '../../protocol/migration/error-text.js'
import { nextRun, setPage } from '../../protocol/migration/mapped-bitmap.js'
import { CommandError } from '../errors.js'
import { TaskPool } from '../iothread/copy/task-pool.js'
import type { TransferContext } from './context.js'
import { FileBytes } from './file-bytes.js'
import type { BlockPlace, ImageHead, MemorySink, PageBatch } from './image.js'
import type { Rename, SharedRam } from './messages.js'

/** Slots being read and written at once. */
const AT_ONCE = 8

export interface SharedRamOptions {
  readonly sink: MemorySink
  readonly shared: readonly SharedRam[]
  readonly renames: readonly Rename[]
  readonly context: TransferContext
}

/** A sink in front of the real one. */
export class SharedRamSink implements MemorySink {
  readonly #options: SharedRamOptions
  #copyFiles: () => Promise<void> = async () => {}

  constructor(options: SharedRamOptions) {
    this.#options = options
  }

  async begin(head: ImageHead): Promise<readonly BlockPlace[]> {
    const { sink, renames } = this.#options
    const files = await this.#open(head)
    for (const { from } of renames)
      if (!head.blocks.some(({ name }) => name === from))
        throw new CommandError(`there is no block of RAM called ${quoted(from)} to be renamed`)
    const blocks = head.blocks.map(({ name, length }) => ({ name: renamed(name, renames), length }))
    if (new Set(blocks.map(({ name }) => name)).size < blocks.length)
      throw new CommandError('two blocks of RAM would have the same name')
    const places = await sink.begin({ ...head, blocks })
    this.#copyFiles = () => this.#copyAll(head, files, places)
    return places
  }

  pages(batch: PageBatch): Promise<void> {
    return this.#options.sink.pages(batch)
  }
  barrier(): Promise<void> {
    return this.#options.sink.barrier()
  }
  early(bytes: Uint8Array): Promise<void> {
    return this.#options.sink.early(bytes)
  }
  async pagesDone(): Promise<void> {
    await this.#copyFiles()
    await this.#options.sink.pagesDone()
  }
  tail(bytes: Uint8Array): Promise<void> {
    return this.#options.sink.tail(bytes)
  }
  finish(): Promise<void> {
    return this.#options.sink.finish()
  }
  async abort(): Promise<void> {
    await this.#options.sink.abort()
  }

  async #open({ blocks }: ImageHead): Promise<Map<string, FileBytes>> {
    const { shared, context } = this.#options
    const files = new Map<string, FileBytes>()
    try {
      for (const { block, file } of shared) {
        const length = blocks.find(({ name }) => name === block)?.length
        if (length === undefined)
          throw new CommandError(`the stream has no block of RAM called ${quoted(block)}`)
        // The guest's memory is in the page cache: past it, all that is dirty would have to be written first.
        const opened = await FileBytes.open(context.slots, file, false, context.fdTaken)
        files.set(block, opened)
        if (opened.length !== length)
          throw new FormatError(
            `${opened.name} has ${opened.length} bytes, block ${quoted(block)} has ${length}`,
          )
      }
      return files
    } catch (error) {
      for (const file of files.values()) await file.close()
      throw error
    }
  }

  async #copyAll(
    head: ImageHead,
    files: Map<string, FileBytes>,
    places: readonly BlockPlace[],
  ): Promise<void> {
    try {
      for (const [index, { name }] of head.blocks.entries()) {
        const [file, place] = [files.get(name), places[index]]
        if (file === undefined || place === undefined) continue
        if (!(await this.#share(file, place, head.pageSize))) await this.#copy(file, place, head.pageSize)
      }
    } finally {
      for (const file of files.values()) await file.close()
    }
  }

  /** Where the file system can, the storage of the file becomes the image's too. Nobody looks whether its pages are zero then. */
  async #share(file: FileBytes, { place, bitmap, digests }: BlockPlace, pageSize: number): Promise<boolean> {
    const { sink, context } = this.#options
    if (digests !== undefined || !((await sink.share?.(file, place)) ?? false)) return false
    for await (const { offset, length } of file.data(pageSize, context.slots.size)) {
      for (let at = offset; at < offset + length; at += pageSize) setPage(bitmap, at / pageSize)
      context.tally.shared(length / pageSize, length / pageSize)
    }
    return true
  }

  async #copy(file: FileBytes, place: BlockPlace, pageSize: number): Promise<void> {
    const { context } = this.#options
    const pool = new TaskPool(AT_ONCE)
    try {
      for await (const { offset, length } of file.data(pageSize, context.slots.size)) {
        await context.pausePoint()
        const slot = await context.slots.take('gather')
        await pool
          .start(() => this.#copyPart(file, place, pageSize, slot, offset, length))
          .catch((error: unknown) => {
            context.slots.give(slot)
            throw error
          })
      }
    } finally {
      await pool.settle()
    }
    await pool.idle()
  }

  async #copyPart(
    file: FileBytes,
    { place, bitmap, digests }: BlockPlace,
    pageSize: number,
    slot: number,
    offset: number,
    length: number,
  ): Promise<void> {
    const { sink, context } = this.#options
    const { slots, tally, pace } = context
    try {
      await pace.pay(length)
      await file.readPieces([{ offset, length }], slot, 1)
    } catch (error) {
      slots.give(slot)
      throw error
    }
    const there = pageBits(slots.engine, slot, 0, length, pageSize)
    const bytes = slots.bytes(slot)
    const pieces = []
    let filled = 0
    for (let run = nextRun(there, 0, length / pageSize, length / pageSize); run !== undefined; ) {
      const [from, size] = [run.page * pageSize, run.count * pageSize]
      if (from > filled) bytes.copyWithin(filled, from, from + size)
      if (digests !== undefined)
        pageDigests(
          slots.engine,
          { slot, offset: filled, length: size },
          pageSize,
          digests,
          (offset + from) / pageSize,
        )
      pieces.push({ offset: place + offset + from, length: size })
      for (let page = run.page; page < run.page + run.count; page++) setPage(bitmap, offset / pageSize + page)
      filled += size
      run = nextRun(there, run.page + run.count, length / pageSize, length / pageSize)
    }
    tally.shared(length / pageSize, filled / pageSize)
    if (filled === 0) slots.give(slot)
    else await sink.pages({ slot, pieces, length: filled })
  }
}

function renamed(name: string, renames: readonly Rename[]): string {
  return renames.find(({ from }) => from === name)?.to ?? name
}
