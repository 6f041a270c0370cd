// SPDX-License-Identifier: Apache-2.0
// Walks the bodies of dirty-bitmap sections: they have no length, and whoever keeps them has to know where they end.
// Source: QEMU 10.0, migration/block-dirty-bitmap.c.
//
//   records until one with eos:
//     flags | [counted node] | [counted bitmap]
//     start      be32 granularity | u8 flags of the bitmap
//     bits       be64 first sector | be32 sectors | unless zeroes: be64 n | n bytes
//     complete   nothing

import { type Parsed, parsePrefix, type Reader } from './bytes.js'
import { hex, unexpected } from './error-text.js'

const Flag = {
  eos: 0x01,
  zeroes: 0x02,
  bitmap: 0x04,
  node: 0x08,
  start: 0x10,
  complete: 0x20,
  bits: 0x40,
} as const
const MORE_FLAGS = 0x80
const KNOWN = 0x7f
/** 1: enabled, 2: persistent. */
const KNOWN_BITMAP_FLAGS = 0x03
const MIN_GRANULARITY = 512
/** QEMU writes 1 KiB at a time and takes ten times that. */
const MAX_BITS = 10 * 1024
/** A stopped source sends bitmaps of 10 TiB at the finest granularity in less. */
const MAX_BODY = 64 * 2 ** 20

export interface DirtyBitmapBody {
  /** Nothing but its end. A source may write any number of such PARTs; leaving them out changes nothing. */
  readonly empty: boolean
}

/** @throws FormatError */
export function parseDirtyBitmapBody(bytes: Uint8Array, origin = 0): Parsed<DirtyBitmapBody> | undefined {
  return parsePrefix(bytes, origin, readDirtyBitmapBody)
}

/** parseDirtyBitmapBody() within a larger parser. */
export function readDirtyBitmapBody(reader: Reader): DirtyBitmapBody {
  const from = reader.used
  let empty = true
  for (;;) {
    const flags = readFlags(reader)
    if (flags !== Flag.eos) empty = false
    if ((flags & Flag.node) !== 0) reader.name('node of a dirty bitmap')
    if ((flags & Flag.bitmap) !== 0) reader.name('name of a dirty bitmap')
    skipRecord(reader, flags)
    if ((flags & Flag.eos) !== 0) return { empty }
    const length = reader.used - from
    if (length > MAX_BODY) throw unexpected('dirty-bitmap section', `${length} bytes`, `at most ${MAX_BODY}`)
  }
}

/** One byte, or two or four when the highest bits say so. QEMU 10.0 writes one. */
function readFlags(reader: Reader): number {
  const first = reader.u8()
  let flags = first & ~MORE_FLAGS
  if (first >= MORE_FLAGS) {
    const second = reader.u8()
    flags = (flags << 8) | (second & ~MORE_FLAGS)
    if (second >= MORE_FLAGS) flags = (flags << 16) | reader.u16()
  }
  if ((flags & ~KNOWN) !== 0)
    throw reader.wrong('flags of a dirty bitmap', hex(flags), `at most ${hex(KNOWN)}`)
  return flags
}

function skipRecord(reader: Reader, flags: number): void {
  switch (flags & (Flag.start | Flag.complete | Flag.bits)) {
    case 0:
    case Flag.complete:
      break
    case Flag.start:
      skipStart(reader)
      break
    case Flag.bits:
      skipBits(reader, (flags & Flag.zeroes) !== 0)
      break
    default:
      throw reader.wrong('flags of a dirty bitmap', hex(flags), 'one of start, bits and complete')
  }
}

function skipStart(reader: Reader): void {
  const granularity = reader.u32()
  if (granularity < MIN_GRANULARITY || !Number.isInteger(Math.log2(granularity)))
    throw reader.wrong('granularity of a dirty bitmap', granularity, `a power of two from ${MIN_GRANULARITY}`)
  const flags = reader.u8()
  if ((flags & ~KNOWN_BITMAP_FLAGS) !== 0)
    throw reader.wrong('start of a dirty bitmap', `flags ${hex(flags)}`, `at most ${hex(KNOWN_BITMAP_FLAGS)}`)
}

function skipBits(reader: Reader, zeroes: boolean): void {
  reader.u64('first sector of a dirty bitmap')
  reader.u32()
  if (zeroes) return
  const length = reader.u64('length of the bits of a dirty bitmap')
  if (length > MAX_BITS)
    throw reader.wrong('length of the bits of a dirty bitmap', length, `at most ${MAX_BITS}`)
  reader.take(length)
}
