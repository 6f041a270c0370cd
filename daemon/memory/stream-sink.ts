// SPDX-License-Identifier: Apache-2.0
// Sink: a migration stream, to a QEMU that comes in or to a file. Pages go out in whatever order they come.

import type { Range } from '../../native/types.js'
import { formatRamStart } from '../../protocol/migration/block-list.js'
import { nameBytes, Writer } from '../../protocol/migration/bytes.js'
import { RamFlag } from '../../protocol/migration/ram-flags.js'
import { formatEmptyRam, formatRamEos, formatStreamHead } from '../../protocol/migration/ram-frame.js'
import { formatFooter, formatHead } from '../../protocol/migration/section.js'
import { TaskPool } from '../iothread/copy/task-pool.js'
import type { BlockPlace, FilePages, ImageHead, MemorySink, PageBatch } from './image.js'
import { placesInLine } from './null-sink.js'
import { SentPages } from './sent-pages.js'
import type { Slots } from './slots.js'
import type { StreamWriter } from './stream-writer.js'

export interface StreamSinkOptions {
  readonly slots: Slots
  readonly writer: StreamWriter
  /** Records for all pages that are zero: for memory that is not fresh. */
  readonly zeroPages: boolean
}

/** Batches that go out at once: enough that the next is there when one is out. */
const BATCHES = 4

interface Begun {
  readonly head: ImageHead
  readonly places: readonly BlockPlace[]
  readonly sent: SentPages
}

export class StreamSink implements MemorySink {
  readonly #options: StreamSinkOptions
  #begun: Begun | undefined
  #inPart = false
  /** Runs of two batches may mix: each begins with the name of its block. */
  readonly #pool = new TaskPool(BATCHES)
  #early: Uint8Array[] = []
  readonly filePages: MemorySink['filePages']

  constructor(options: StreamSinkOptions) {
    this.#options = options
    const { writer } = options
    const send = writer.filePages?.bind(writer)
    this.filePages = send && ((pages) => this.#pool.start(() => this.#sendFile(pages, send)))
  }

  async begin(head: ImageHead): Promise<readonly BlockPlace[]> {
    const places = placesInLine(head)
    this.#begun = { head, places, sent: new SentPages(head, places) }
    const { writer } = this.#options
    await writer.bytes(formatStreamHead(head.configuration, head.section))
    const blocks = head.blocks.map(({ name, length }) => ({ name, usedLength: length }))
    await writer.bytes(formatRamStart(blocks, false))
    await writer.bytes(formatFooter(head.section))
    return places
  }

  async pages(batch: PageBatch): Promise<void> {
    const { slots } = this.#options
    await this.#pool
      .start(() => this.#send(batch).finally(() => slots.give(batch.slot)))
      .catch((error: unknown) => {
        // An earlier batch failed: this one was not begun.
        slots.give(batch.slot)
        throw error
      })
  }

  async barrier(): Promise<void> {
    await this.#pool.idle()
  }

  /** Sections cannot stand within a section: they come when the pages are over. */
  async early(bytes: Uint8Array): Promise<void> {
    if (this.#inPart) this.#early.push(bytes)
    else await this.#options.writer.bytes(bytes)
  }

  async pagesDone(): Promise<void> {
    const { head, sent } = this.#started()
    const { writer, zeroPages } = this.#options
    await this.#pool.idle()
    for (const bytes of sent.zeroRecords(zeroPages)) {
      await this.#openPart(head)
      await writer.bytes(bytes)
    }
    if (this.#inPart) await writer.bytes(formatRamEos(head.section))
    for (const bytes of this.#early.splice(0)) await writer.bytes(bytes)
    await writer.bytes(formatEmptyRam('end', head.section))
  }

  tail(bytes: Uint8Array): Promise<void> {
    return this.#options.writer.bytes(bytes)
  }

  finish(): Promise<void> {
    return this.#options.writer.flush()
  }

  async abort(): Promise<void> {
    await this.#options.writer.drop()
    await this.#pool.settle()
  }

  async #send({ slot, pieces }: PageBatch): Promise<void> {
    const { head } = this.#started()
    const { writer } = this.#options
    const requests = [this.#openPart(head)]
    let slotOffset = 0
    for (const { ranges, first, length } of this.#runs(pieces)) {
      requests.push(writer.pages({ slot, slotOffset, ranges, first }, head.pageSize))
      slotOffset += length
    }
    await allOver(requests)
  }

  /** Each with what stands before its first page. */
  #runs(pieces: readonly Range[]): (BlockRun & { readonly first: Uint8Array })[] {
    const { head, places, sent } = this.#started()
    return runsOf(pieces, places, head).map((run) => {
      sent.add(run)
      const name = head.blocks[run.block]?.name ?? ''
      return { ...run, first: pageStart(run.ranges[0]?.offset ?? 0, RamFlag.page, name) }
    })
  }

  async #sendFile(
    { file, pieces, shift }: FilePages,
    send: NonNullable<StreamWriter['filePages']>,
  ): Promise<void> {
    const { head, places } = this.#started()
    await allOver([
      this.#openPart(head),
      ...this.#runs(pieces).map(({ block, ranges, first }) =>
        send({ file, offset: (places[block]?.place ?? 0) + shift, ranges, first }, head.pageSize),
      ),
    ])
  }

  async #openPart(head: ImageHead): Promise<void> {
    if (this.#inPart) return
    this.#inPart = true
    await this.#options.writer.bytes(formatHead({ kind: 'part', id: head.section }))
  }

  #started(): Begun {
    if (this.#begun === undefined) throw new Error('the sink has not begun')
    return this.#begun
  }
}

/** Waits for all, also when one fails: they use a slot. @throws what the first threw that failed */
async function allOver(requests: readonly Promise<void>[]): Promise<void> {
  await Promise.allSettled(requests)
  await Promise.all(requests)
}

/** Pieces of one block that follow each other in a slot. */
export interface BlockRun {
  readonly block: number
  /** In the block. */
  readonly ranges: readonly Range[]
  /** Bytes: the sum of the ranges. */
  readonly length: number
}

/** Pieces of a batch by the block they lie in. */
export function runsOf(
  pieces: readonly Range[],
  places: readonly BlockPlace[],
  { blocks }: ImageHead,
): BlockRun[] {
  const runs: { block: number; ranges: Range[]; length: number }[] = []
  for (const { offset, length } of pieces) {
    const block = places.findIndex(
      ({ place }, index) => offset >= place && offset < place + (blocks[index]?.length ?? 0),
    )
    const range = { offset: offset - (places[block]?.place ?? 0), length }
    const last = runs.at(-1)
    if (last?.block === block) {
      last.ranges.push(range)
      last.length += length
    } else runs.push({ block, ranges: [range], length })
  }
  return runs
}

function pageStart(offset: number, flag: number, name: string): Uint8Array {
  const bytes = nameBytes(name)
  return new Writer()
    .u64(offset + flag)
    .u8(bytes.length)
    .raw(bytes)
    .finish()
}
