// SPDX-License-Identifier: Apache-2.0
// Which pages of two images differ. Two mapped-ram files are compared byte for byte; where one is a stream, whose pages come in
// any order and more than once, both are compared by their checksums (CRC-32C of each page).
// A page that is not there counts as zero. Blocks belong together by name; what only one has counts as compared with zeroes.

import { pageBits, pageDifferences } from '../../../native/page-scanner.js'
import { FormatError } from '../../../protocol/format-error.js'
import { countPages, nextRun, setPage } from '../../../protocol/migration/mapped-bitmap.js'
import type { MappedBlock } from '../../../protocol/migration/mapped-layout.js'
import { TaskPool } from '../../iothread/copy/task-pool.js'
import type { TransferContext } from '../context.js'
import { freshDigests } from '../digest-file.js'
import type { FileBytes } from '../file-bytes.js'
import type { BlockPlace } from '../image.js'
import type { Slots } from '../slots.js'
import type { Inspection, Meter } from './inspection.js'
import { differences } from './verify.js'

/** Pairs of slots at once. */
const AT_ONCE = 8

export interface ChangedBlock {
  readonly name: string
  /** Bytes of the longer one. */
  readonly length: number
  /** Bytes in each; undefined: it has no such block. */
  readonly lengths: readonly [number | undefined, number | undefined]
  /** Bit n: page n differs. */
  readonly bits: Uint8Array
}

export interface Changes {
  readonly method: 'content' | 'checksums'
  readonly pageSize: number
  readonly blocks: readonly ChangedBlock[]
}

/** One block of one image. */
interface Side {
  readonly length: number
  readonly file: FileBytes
  readonly bitmap: Uint8Array
  /** Of a mapped-ram file. */
  readonly mapped: MappedBlock | undefined
  readonly digests: BlockPlace['digests']
}

/** @throws FormatError when they cannot be compared; IoError, Cancelled */
export async function changesBetween(
  one: Inspection,
  other: Inspection,
  context: TransferContext,
  meter: Meter,
): Promise<Changes> {
  const mapped = [one, other].every(({ front }) => front.image?.layout === 'mapped-ram')
  for (const inspection of [one, other]) await readWhole(inspection, !mapped)
  const pageSize = one.head?.pageSize ?? 0
  if (pageSize !== other.head?.pageSize)
    throw new FormatError(`pages have ${pageSize} bytes in the one and ${other.head?.pageSize} in the other`)
  const blocks: ChangedBlock[] = []
  if (mapped)
    for (const [, sides] of pairs(one, other))
      for (const side of sides) meter.expect(bytesSet(side, pageSize))
  for (const [name, [first, second]] of pairs(one, other)) {
    const length = Math.max(first?.length ?? 0, second?.length ?? 0)
    const bits = new Uint8Array(Math.ceil(length / pageSize / 8))
    const block = { name, length, lengths: [first?.length, second?.length], bits } as const
    if (mapped) await compareContent(block, [first, second], pageSize, context, meter)
    else compareDigests(block, [first, second], pageSize)
    blocks.push(block)
  }
  return { method: mapped ? 'content' : 'checksums', pageSize, blocks }
}

async function readWhole(inspection: Inspection, digests: boolean): Promise<void> {
  await inspection.read(digests)
  const { problem, changed, file } = inspection
  if (problem !== undefined) throw new FormatError(problem)
  if (digests && changed > 0)
    throw new FormatError(
      `${changed} pages of ${file.name} came as changes to what was sent before (XBZRLE): convert it to mapped-ram first`,
    )
}

/** Blocks of both by name, in the order of the first. */
function pairs(one: Inspection, other: Inspection): Map<string, [Side | undefined, Side | undefined]> {
  const all = new Map<string, [Side | undefined, Side | undefined]>()
  for (const [name, side] of sidesOf(one)) all.set(name, [side, undefined])
  for (const [name, side] of sidesOf(other)) all.set(name, [all.get(name)?.[0], side])
  return all
}

function sidesOf({ head, places, ends, file }: Inspection): [string, Side][] {
  return (head?.blocks ?? []).map(({ name, length }, index) => {
    const { bitmap = new Uint8Array(), digests } = places[index] ?? {}
    return [name, { length, file, bitmap, digests, mapped: ends?.shape?.layout.blocks[index] }]
  })
}

function bytesSet(side: Side | undefined, pageSize: number): number {
  return side === undefined ? 0 : countPages(side.bitmap, side.length / pageSize) * pageSize
}

type Sides = readonly [Side | undefined, Side | undefined]

function compareDigests({ bits, length }: ChangedBlock, sides: Sides, pageSize: number): void {
  const [one, other] = sides.map((side) => {
    if (side?.digests !== undefined && side.length === length) return side.digests
    const digests = freshDigests(length, pageSize)
    digests.set(side?.digests ?? [])
    return digests
  })
  if (one === undefined || other === undefined) throw new RangeError('two sides')
  for (const page of differences(one, other)) setPage(bits, page)
}

async function compareContent(
  { bits, length }: ChangedBlock,
  sides: Sides,
  pageSize: number,
  context: TransferContext,
  meter: Meter,
): Promise<void> {
  const { slots, pausePoint } = context
  const pool = new TaskPool(AT_ONCE)
  try {
    for (let at = 0; at < length; at += slots.size) {
      const window = { offset: at, length: Math.min(slots.size, length - at) }
      const there = sides.flatMap((side) =>
        side !== undefined && hasPages(side, window, pageSize) ? [side] : [],
      )
      if (there.length === 0) continue
      await pausePoint()
      await pool.start(async () => {
        const found = await compareWindow(there, window, pageSize, slots)
        for (let page = nextRun(found, 0, window.length / pageSize, 1)?.page; page !== undefined; ) {
          setPage(bits, at / pageSize + page)
          page = nextRun(found, page + 1, window.length / pageSize, 1)?.page
        }
        for (const side of there) meter.read(bytesSetIn(side, window, pageSize))
      })
    }
  } finally {
    await pool.settle()
  }
  await pool.idle()
}

interface Window {
  /** In the block, bytes. */
  readonly offset: number
  readonly length: number
}

/** @returns bits of the pages that differ; of one side alone those that are not zero */
async function compareWindow(
  sides: readonly Side[],
  window: Window,
  pageSize: number,
  slots: Slots,
): Promise<Uint8Array> {
  const taken: number[] = []
  try {
    for (const side of sides) {
      const slot = await slots.take('gather')
      taken.push(slot)
      await load(side, window, pageSize, slot, slots)
    }
    const [one, other] = taken
    if (one === undefined) return new Uint8Array()
    if (other === undefined) return pageBits(slots.engine, one, 0, window.length, pageSize)
    return pageDifferences(slots.engine, one, other, window.length, pageSize)
  } finally {
    for (const slot of taken) slots.give(slot)
  }
}

/** Reads a window in one piece; what lies at the places of pages that are not there means nothing. */
async function load(
  { file, bitmap, mapped, length }: Side,
  window: Window,
  pageSize: number,
  slot: number,
  slots: Slots,
): Promise<void> {
  const there = Math.max(0, Math.min(window.length, length - window.offset))
  const from = (mapped?.mapped.pagesOffset ?? 0) + window.offset
  await file.readPieces([{ offset: from, length: there }], slot, 1)
  const bytes = slots.bytes(slot)
  const [first, end] = [window.offset / pageSize, (window.offset + there) / pageSize]
  let filled = first
  for (
    let run = nextRun(bitmap, first, end, end);
    run !== undefined;
    run = nextRun(bitmap, filled, end, end)
  ) {
    bytes.fill(0, (filled - first) * pageSize, (run.page - first) * pageSize)
    filled = run.page + run.count
  }
  bytes.fill(0, (filled - first) * pageSize, window.length)
}

function hasPages({ bitmap, length }: Side, window: Window, pageSize: number): boolean {
  const end = Math.min(length, window.offset + window.length) / pageSize
  return nextRun(bitmap, window.offset / pageSize, end, 1) !== undefined
}

function bytesSetIn({ bitmap, length }: Side, window: Window, pageSize: number): number {
  const end = Math.min(length, window.offset + window.length) / pageSize
  let pages = 0
  let from = window.offset / pageSize
  for (let run = nextRun(bitmap, from, end, end); run !== undefined; run = nextRun(bitmap, from, end, end)) {
    pages += run.count
    from = run.page + run.count
  }
  return pages * pageSize
}
