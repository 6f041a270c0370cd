// SPDX-License-Identifier: Apache-2.0
// Scanners of memory streams, and the zero test, over the addon; they work on slots of an engine. Used by daemon/memory.
// What they promise stands in stream-types.ts; this file only converts.

import { addon, type NativeScanner } from './binding.js'
import { nativeOf } from './engine.js'
import type {
  ApartResult,
  ChannelScanner,
  PageScanner,
  ScanCounts,
  ScanMode,
  ScannedBlock,
  ScanResult,
  ScanStop,
} from './stream-types.js'
import type { IoEngine, Range, SlotRange } from './types.js'

/** Same order as ScanStop in src/scanner.h. */
const stops: readonly ScanStop[] = ['input', 'full', 'order', 'end', 'sync', 'delta', 'bad']
const STOPS = 8

/**
 * Page records of a migration stream.
 * @param pageSize  a power of two, 1024 bytes to a slot
 * @param blocks    in the order in which their pages are to be sent; those that come first are found soonest
 * @throws RangeError  when a block is not made of pages, or has no memory for them
 */
export function createPageScanner(
  engine: IoEngine,
  pageSize: number,
  blocks: readonly ScannedBlock[],
  mode: ScanMode,
): PageScanner {
  return new Scanner(engine, false, pageSize, blocks, mode)
}

/**
 * Packets of one multifd channel; how they are compressed is found out. The compression is one stream, so each channel needs
 * a scanner of its own.
 * @throws RangeError  as above
 */
export function createChannelScanner(
  engine: IoEngine,
  pageSize: number,
  blocks: readonly ScannedBlock[],
  mode: ScanMode,
): ChannelScanner {
  return new Scanner(engine, true, pageSize, blocks, mode)
}

/**
 * Which pages of a slot hold anything: bit n (of byte n / 8, from the lowest) is set when page n is not all zero.
 * @param length  bytes, a multiple of the page size
 * @throws RangeError  when that is no range of pages of a slot that is taken
 */
export function pageBits(
  engine: IoEngine,
  slot: number,
  offset: number,
  length: number,
  pageSize: number,
): Uint8Array {
  const bits = addon.pageBits(nativeOf(engine), slot, offset, length, pageSize)
  if (bits === undefined)
    throw new RangeError(`no pages of ${pageSize} bytes at ${offset}+${length} of slot ${slot}`)
  return bits
}

/**
 * CRC-32C of each page of a part of a slot, as in the digests of blocks.
 * @param first  where that of the first page goes
 * @throws RangeError  when that is no range of pages of a slot that is taken, or `digests` has no room
 */
export function pageDigests(
  engine: IoEngine,
  { slot, offset, length }: SlotRange,
  pageSize: number,
  digests: Uint32Array,
  first: number,
): void {
  if (!addon.pageDigests(nativeOf(engine), slot, offset, length, pageSize, digests, first))
    throw new RangeError(`no pages of ${pageSize} bytes at ${offset}+${length} of slot ${slot}, or no room`)
}

/**
 * Which pages at the start of two slots differ, bits as of pageBits().
 * @throws RangeError  when those are no ranges of pages of slots that are taken
 */
export function pageDifferences(
  engine: IoEngine,
  slot: number,
  other: number,
  length: number,
  pageSize: number,
): Uint8Array {
  const bits = addon.pageDifferences(nativeOf(engine), slot, other, length, pageSize)
  if (bits === undefined)
    throw new RangeError(`no ${length} bytes of pages of ${pageSize} in slots ${slot} and ${other}`)
  return bits
}

/**
 * CRC-32C, as in the digests of blocks.
 * @param byTable  without the processor's instruction
 * @param before   that of what comes before, 0 at the start
 */
export function crc32c(bytes: Uint8Array, byTable = false, before = 0): number {
  return addon.crc32c(bytes, byTable, before)
}

class Scanner implements ChannelScanner {
  readonly #native: NativeScanner
  /** `[place, length, …]` of what is gathered. */
  readonly #pieces: Float64Array

  constructor(
    engine: IoEngine,
    ofChannel: boolean,
    pageSize: number,
    blocks: readonly ScannedBlock[],
    mode: ScanMode,
  ) {
    const list = blocks.flatMap(({ name, length, place, bitmap, digests }) => [
      name,
      length,
      place,
      bitmap,
      digests,
    ])
    this.#pieces = new Float64Array(mode === 'gather' ? 2 * Math.ceil(engine.slotSize / pageSize) : 0)
    this.#native = new addon.Scanner(
      nativeOf(engine),
      ofChannel,
      pageSize,
      list,
      mode === 'gather',
      this.#pieces,
    )
  }

  gatherInto(slot: number): void {
    if (!this.#native.gatherInto(slot)) throw new RangeError(`nothing can be gathered in slot ${slot} now`)
  }

  scan(slot: number, offset: number, length: number): ScanResult {
    const result = this.#native.scan(slot, offset, length)
    const stop = stops[result % STOPS]
    if (stop === undefined) throw new RangeError(`${offset}+${length} is no part of slot ${slot}`)
    return { taken: Math.floor(result / STOPS), stop }
  }

  scanApart(slot: number, offset: number, length: number, heads: Uint8Array, from: number): ApartResult {
    const result = this.#native.scanApart(slot, offset, length, heads, from)
    if (result === undefined)
      throw new RangeError(`${offset}+${length} is no part of slot ${slot}, or no heads`)
    const [taken, headsTaken, stop] = result
    return { taken, headsTaken, stop: stops[stop] ?? 'bad' }
  }

  inPlace(): boolean {
    return this.#native.inPlace()
  }

  take(): { pieces: Range[]; length: number } {
    const [count, length] = this.#native.take()
    const pieces: Range[] = []
    for (let at = 0; at < count * 2; at += 2) {
      pieces.push({ offset: this.#pieces[at] ?? 0, length: this.#pieces[at + 1] ?? 0 })
    }
    return { pieces, length }
  }

  delta(): { block: number; offset: number; bytes: Uint8Array } {
    const [block, offset, bytes] = this.#native.delta()
    return { block, offset, bytes }
  }

  problem(): string {
    return this.#native.problem()
  }

  counts(): ScanCounts {
    const [zero, normal, delta, foundZero, walks] = this.#native.counts()
    return { zero, normal, delta, foundZero, walks }
  }

  seen(block: number): boolean {
    return this.#native.seen(block)
  }

  within(): boolean {
    return this.#native.within()
  }

  get syncs(): number {
    return this.#native.syncs()
  }
}
