// SPDX-License-Identifier: Apache-2.0
// Source: a mapped-ram file. Everything about its shape is checked before the first byte goes to the sink: a loader that is
// given a damaged one may crash. Then the pages that are set are read, several slots at once.

import { pageDigests } from '../../native/page-scanner.js'
import type { Range } from '../../native/types.js'
import { FormatError } from '../../protocol/format-error.js'
import { blockFields } from '../../protocol/migration/block-list.js'
import { type Parsed, parsePrefix } from '../../protocol/migration/bytes.js'
import {
  type Configuration,
  hasCapability,
  pageSizeOf,
  parseConfiguration,
  withoutCapability,
} from '../../protocol/migration/configuration.js'
import { countPages, nextRun } from '../../protocol/migration/mapped-bitmap.js'
import type { MappedHeader } from '../../protocol/migration/mapped-header.js'
import type { MappedLayout } from '../../protocol/migration/mapped-layout.js'
import { MappedList } from '../../protocol/migration/mapped-list.js'
import { Outline, type Step } from '../../protocol/migration/outline.js'
import { parsePreamble } from '../../protocol/migration/preamble.js'
import { RamFlag, readRamWord } from '../../protocol/migration/ram-flags.js'
import { refusals } from '../../protocol/migration/refusals.js'
import { TaskPool } from '../iothread/copy/task-pool.js'
import type { Tally } from './context.js'
import type { FileBytes } from './file-bytes.js'
import { type BlockPlace, checkEarly, checkTotal, type ImageHead, type MemorySink } from './image.js'
import { Input } from './input.js'
import { namedAs } from './named.js'
import type { Pace } from './pace.js'
import type { Slots } from './slots.js'
import { tailOfFile } from './tail-check.js'
import type { WaitMeter } from './wait-meter.js'

export interface MappedSourceOptions {
  readonly slots: Slots
  readonly file: FileBytes
  /** Where the image begins in the file, bytes. */
  readonly base: number
  /** Slots being read and written at once. */
  readonly atOnce: number
  readonly pace: Pace
  readonly signal: AbortSignal
  readonly pausePoint: () => Promise<void>
  readonly meter: WaitMeter
  readonly tally: Pick<Tally, 'begun' | 'pagesDone'>
  /** Told of pages that were read, bytes. */
  readonly read: (bytes: number) => void
}

/** For errors. */
const STATES = 'the states of devices'
/** Pages that go out at once straight from a file, bytes: some packets of multifd. */
const FROM_FILE = 2 * 2 ** 20
/** Pieces of one slot under way at once. */
const PIECES_AT_ONCE = 8

/** Everything about a file but its pages. */
export interface Shape {
  readonly head: ImageHead
  readonly layout: MappedLayout
  readonly bitmaps: readonly Uint8Array[]
  /** Sections and commands between the pages and the end of RAM. */
  readonly early: readonly Uint8Array[]
  /** Where the device states begin in the file, and where the image ends; bytes. */
  readonly boundary: number
  readonly end: number
}

export class MappedSource {
  readonly #options: MappedSourceOptions
  #shape: Promise<Shape> | undefined

  constructor(options: MappedSourceOptions) {
    this.#options = options
  }

  /** Everything but the pages, which is read once. @throws FormatError when a loader could not go by it; IoError */
  shape(): Promise<Shape> {
    this.#shape ??= this.#read()
    return this.#shape
  }

  async run(sink: MemorySink): Promise<void> {
    const { tally } = this.#options
    const shape = await this.shape()
    tally.begun(shape.head)
    const places = await sink.begin(shape.head)
    for (const bytes of shape.early) await sink.early(bytes)
    await this.#copyPages(shape, places, sink)
    await sink.pagesDone()
    tally.pagesDone()
    const { boundary, end } = shape
    await this.#readFrom(boundary, async (input) => {
      for (let left = end - boundary; left > 0; ) {
        const { length } = (await input.chunk()) ?? raise(input.cutShort(STATES))
        const bytes = await input.bytes(Math.min(left, length), STATES)
        await sink.tail(bytes)
        left -= bytes.length
      }
    })
  }

  async #read(): Promise<Shape> {
    const { base, file } = this.#options
    const outline = new Outline()
    let at = base
    const next = async <T>(
      parse: (bytes: Uint8Array, origin: number) => Parsed<T> | undefined,
      what: string,
    ) => {
      const { value, length } = await file.parse(at, parse, what)
      at += length
      return value
    }
    await next(parsePreamble, 'its magic number')
    const configuration = await next(parseConfiguration, 'its configuration')
    if (!hasCapability(configuration, 'mapped-ram'))
      throw new FormatError(`${file.name} is no mapped-ram file`)
    const step = await next((bytes, origin) => outline.next(bytes, origin), 'the start of RAM')
    if (step.kind !== 'ram') throw new FormatError(`${file.name} does not begin with RAM`)
    const layout = await this.#readList(configuration, at)
    const blocks = layout.blocks.map(({ name, usedLength }) => ({ name, length: usedLength }))
    checkTotal(file.name, blocks)
    const bitmaps = await this.#readBitmaps(layout)
    const walked = await this.#readFrom(layout.tailOffset, (input) => this.#walk(input, outline))
    const head: ImageHead = {
      configuration: withoutCapability(configuration, 'mapped-ram'),
      pageSize: pageSizeOf(configuration),
      section: step.id,
      blocks,
      syncPerWalk: false,
    }
    return { head, layout, bitmaps, ...walked }
  }

  async #readList(configuration: Configuration, at: number): Promise<MappedLayout> {
    const { base, file } = this.#options
    const place = { base, at, fileLength: file.length }
    const begin = (bytes: Uint8Array) => {
      const value = MappedList.begin(bytes, blockFields(configuration, false), place)
      return value === undefined ? undefined : { value, length: 0 }
    }
    const what = 'the list of RAM blocks'
    const { value: list } = await file.parse(at, begin, what)
    for (let next = list.next; next !== undefined; next = list.next)
      await file.parse(next, (bytes) => list.add(bytes), what)
    return namedAs(file.name, () => list.finish())
  }

  async #readBitmaps(layout: MappedLayout): Promise<Uint8Array[]> {
    const { file } = this.#options
    const bitmaps: Uint8Array[] = []
    let set = 0
    for (const { mapped, bitmapLength, usedLength } of layout.blocks) {
      const bitmap = await file.bytes(mapped.bitmapOffset, bitmapLength)
      set += countPages(bitmap, usedLength / mapped.pageSize)
      bitmaps.push(bitmap)
    }
    if (set === 0) throw new FormatError(`${file.name} has no page: its bitmaps were never written`)
    return bitmaps
  }

  /** What follows the pages, to the end of RAM; the rest is checked. */
  async #walk(input: Input, outline: Outline): Promise<Pick<Shape, 'early' | 'boundary' | 'end'>> {
    const early: Uint8Array[] = []
    let kept = 0
    for (let within = true; ; ) {
      if (within) {
        await input.parse(endOfBody, 'the end of a section of memory')
        await input.parse((bytes, origin) => outline.ramFooter(bytes, origin), 'the footer of a section')
      }
      const step = await input.parse((bytes, origin) => outline.next(bytes, origin), 'a section')
      if (step.kind === 'boundary') {
        if (!step.ramEnded) throw new FormatError(`${input.name}: ${refusals.unfinishedMapped}`)
        break
      }
      within = step.kind === 'ram'
      const bytes = namedAs(input.name, () => keptOf(step))
      if (bytes === undefined) continue
      kept += bytes.length
      checkEarly(input.name, kept)
      early.push(bytes)
    }
    const boundary = input.position
    const tail = await tailOfFile(this.#options.file)
    let end = boundary
    for (let chunk = await input.chunk(); chunk !== undefined; chunk = await input.chunk()) {
      const bytes = await input.bytes(chunk.length, STATES)
      const length = tail.add(bytes)
      end += length
      if (length < bytes.length) break
    }
    tail.check()
    return { early, boundary, end }
  }

  async #copyPages(
    { layout, bitmaps }: Shape,
    places: readonly BlockPlace[],
    sink: MemorySink,
  ): Promise<void> {
    const { slots, file, pace, atOnce, pausePoint } = this.#options
    // Whoever can take pages of the cache as they are saves two copies of them.
    const filePages = file.inCache ? sink.filePages : undefined
    const room = () => pace.piece(filePages === undefined ? slots.size : FROM_FILE)
    const pool = new TaskPool(atOnce)
    try {
      for (const [index, { mapped, usedLength }] of layout.blocks.entries()) {
        const from = bitmaps[index]
        const to = places[index]
        if (from === undefined || to === undefined) throw new RangeError(`block ${index}`)
        to.bitmap.set(from.subarray(0, to.bitmap.length))
        for (const ranges of batches(from, usedLength, mapped.pageSize, room)) {
          await pausePoint()
          if (filePages !== undefined) {
            await pool.start(() => this.#sendBatch(ranges, mapped, to, filePages))
            continue
          }
          const slot = await slots.take('gather')
          await pool
            .start(() => this.#copyBatch(slot, ranges, mapped, to, sink))
            .catch((error: unknown) => {
              slots.give(slot)
              throw error
            })
        }
      }
    } finally {
      await pool.settle()
    }
    await pool.idle()
  }

  async #copyBatch(
    slot: number,
    ranges: readonly Range[],
    { pageSize, pagesOffset }: MappedHeader,
    to: BlockPlace,
    sink: MemorySink,
  ): Promise<void> {
    const { slots, file, pace, read } = this.#options
    const length = lengthOf(ranges)
    try {
      await pace.pay(length)
      await file.readPieces(ranges.map(moved(pagesOffset)), slot, PIECES_AT_ONCE)
    } catch (error) {
      slots.give(slot)
      throw error
    }
    read(length)
    if (to.digests !== undefined) digest(slots, slot, ranges, pageSize, to.digests)
    await sink.pages({ slot, pieces: ranges.map(moved(to.place)), length })
  }

  async #sendBatch(
    ranges: readonly Range[],
    { pagesOffset }: MappedHeader,
    { place }: BlockPlace,
    filePages: NonNullable<MemorySink['filePages']>,
  ): Promise<void> {
    const { file, pace, read } = this.#options
    const length = lengthOf(ranges)
    await pace.pay(length)
    await filePages({ file, pieces: ranges.map(moved(place)), shift: pagesOffset - place })
    read(length)
  }

  async #readFrom<T>(offset: number, work: (input: Input) => Promise<T>): Promise<T> {
    const { slots, file, pace, signal, meter, pausePoint } = this.#options
    const input = new Input({
      ...{ slots, pace, signal, meter, pausePoint, depth: 2, share: slots.forReceivers },
      receive: file.receive(offset),
      origin: offset,
      name: file.name,
    })
    try {
      return await work(input)
    } finally {
      input.close()
    }
  }
}

/** A body of RAM in which no page can be. */
function endOfBody(bytes: Uint8Array, origin: number): Parsed<void> | undefined {
  return parsePrefix(bytes, origin, (reader) => {
    const { flags } = readRamWord(reader, 4096, 'record of a section of memory')
    if (flags !== RamFlag.eos) throw reader.wrong('record of a section of memory', flags, RamFlag.eos)
  })
}

/** A copy of what is kept in front of the end of RAM; undefined: it is left out. */
function keptOf(step: Exclude<Step, { kind: 'boundary' }>): Uint8Array | undefined {
  switch (step.kind) {
    case 'command':
      if (step.fate.kind === 'refuse') throw new FormatError(step.fate.reason)
      return step.fate.kind === 'keep' ? step.bytes.slice() : undefined
    case 'section':
      return step.empty ? undefined : step.bytes.slice()
    case 'refuse':
      throw new FormatError(step.reason)
    case 'ram':
      return undefined
    default:
      return step satisfies never
  }
}

function raise(error: Error): never {
  throw error
}

/**
 * Runs of pages that are set. Ranges are in the block.
 * @param room  of a batch, bytes; asked anew for each; less than a page means one
 */
function* batches(
  bitmap: Uint8Array,
  length: number,
  pageSize: number,
  room: () => number,
): Generator<Range[]> {
  const pages = length / pageSize
  const roomInPages = () => Math.max(1, Math.floor(room() / pageSize))
  let most = roomInPages()
  let batch: Range[] = []
  let filled = 0
  for (let run = nextRun(bitmap, 0, pages, most); run !== undefined; ) {
    batch.push({ offset: run.page * pageSize, length: run.count * pageSize })
    filled += run.count
    if (filled === most) {
      yield batch
      batch = []
      filled = 0
      most = roomInPages()
    }
    run = nextRun(bitmap, run.page + run.count, pages, most - filled)
  }
  if (filled > 0) yield batch
}

/** @param ranges  in the block; they lie one behind the other in the slot */
function digest(
  { engine }: Slots,
  slot: number,
  ranges: readonly Range[],
  pageSize: number,
  digests: Uint32Array,
): void {
  let at = 0
  for (const { offset, length } of ranges) {
    pageDigests(engine, { slot, offset: at, length }, pageSize, digests, offset / pageSize)
    at += length
  }
}

function lengthOf(ranges: readonly Range[]): number {
  return ranges.reduce((sum, { length }) => sum + length, 0)
}

function moved(by: number): (range: Range) => Range {
  return ({ offset, length }) => ({ offset: offset + by, length })
}
