// SPDX-License-Identifier: Apache-2.0
// Persistent dirty bitmaps: the header extension, the directory, and the entries of bitmap tables.
// Source: docs/interop/qcow2 of QEMU, "Bitmaps extension" and "Bitmaps".

import { FormatError } from '../format-error.js'
import { getUint64, padded, setUint64, textOf, viewOf } from './bytes.js'

const FIXED = 24
const DIRTY_TRACKING = 1
const Flag = { inUse: 1, auto: 2, extraCompatible: 4 } as const

export interface BitmapsExtension {
  readonly count: number
  /** Bytes, and host offset, of the directory. */
  readonly directorySize: number
  readonly directoryOffset: number
}

export interface StoredBitmap {
  readonly name: string
  /** Host offset and entries of its table. */
  readonly tableOffset: number
  readonly tableSize: number
  /** It was not saved: its content must not be trusted. */
  readonly inUse: boolean
  /** It is to follow every write from the moment the image is opened. */
  readonly auto: boolean
  readonly granularityBits: number
  /** Kept as it is; without `extraCompatible` a bitmap that has some must not be used. */
  readonly extraCompatible: boolean
  readonly extra: Uint8Array
}

/** @throws FormatError */
export function parseBitmapsExtension(data: Uint8Array): BitmapsExtension {
  if (data.length !== 24) throw new FormatError('bitmaps_ext: Invalid extension length')
  const view = viewOf(data)
  if (view.getUint32(4) !== 0) throw new FormatError('bitmaps_ext: Reserved field is not zero')
  const count = view.getUint32(0)
  if (count === 0) throw new FormatError('bitmaps_ext: found bitmaps extension with zero bitmaps')
  if (count > 65535)
    throw new FormatError(`bitmaps_ext: image has ${count} bitmaps, exceeding the limit of 65535`)
  return { count, directorySize: getUint64(view, 8), directoryOffset: getUint64(view, 16) }
}

export function formatBitmapsExtension(extension: BitmapsExtension): Uint8Array {
  const data = new Uint8Array(24)
  const view = viewOf(data)
  view.setUint32(0, extension.count)
  setUint64(view, 8, extension.directorySize)
  setUint64(view, 16, extension.directoryOffset)
  return data
}

/** @throws FormatError when entries are malformed, or not as many as said */
export function parseBitmapDirectory(bytes: Uint8Array, count: number): StoredBitmap[] {
  const bitmaps: StoredBitmap[] = []
  let at = 0
  while (at + FIXED <= bytes.length) {
    const { bitmap, length } = parseEntry(bytes.subarray(at))
    bitmaps.push(bitmap)
    at += length
  }
  if (at !== bytes.length || bitmaps.length !== count) throw new FormatError('Invalid bitmap directory')
  return bitmaps
}

export function formatBitmapDirectory(bitmaps: readonly StoredBitmap[]): Uint8Array {
  const entries = bitmaps.map(formatEntry)
  const bytes = new Uint8Array(entries.reduce((sum, entry) => sum + entry.length, 0))
  let at = 0
  for (const entry of entries) {
    bytes.set(entry, at)
    at += entry.length
  }
  return bytes
}

/** Bytes of an entry of the directory. @param name  length of the name, bytes */
export function bitmapEntryLength(name: number, extra: number): number {
  return padded(FIXED + extra + name)
}

function parseEntry(bytes: Uint8Array): { bitmap: StoredBitmap; length: number } {
  const view = viewOf(bytes)
  const flags = view.getUint32(12)
  const nameSize = view.getUint16(18)
  const extraSize = view.getUint32(20)
  const length = bitmapEntryLength(nameSize, extraSize)
  if (length > bytes.length || nameSize === 0 || nameSize > 1023)
    throw new FormatError('Invalid bitmap directory')
  if (flags > 7 || view.getUint8(16) !== DIRTY_TRACKING)
    throw new FormatError('Invalid bitmap directory entry')
  const nameAt = FIXED + extraSize
  const bitmap: StoredBitmap = {
    name: textOf(bytes.subarray(nameAt, nameAt + nameSize)),
    tableOffset: getUint64(view, 0),
    tableSize: view.getUint32(8),
    inUse: (flags & Flag.inUse) !== 0,
    auto: (flags & Flag.auto) !== 0,
    granularityBits: view.getUint8(17),
    extraCompatible: (flags & Flag.extraCompatible) !== 0,
    extra: bytes.slice(FIXED, nameAt),
  }
  return { bitmap, length }
}

function formatEntry(bitmap: StoredBitmap): Uint8Array {
  const name = new TextEncoder().encode(bitmap.name)
  const bytes = new Uint8Array(bitmapEntryLength(name.length, bitmap.extra.length))
  const view = viewOf(bytes)
  setUint64(view, 0, bitmap.tableOffset)
  view.setUint32(8, bitmap.tableSize)
  const { inUse, auto, extraCompatible } = bitmap
  view.setUint32(
    12,
    (inUse ? Flag.inUse : 0) | (auto ? Flag.auto : 0) | (extraCompatible ? Flag.extraCompatible : 0),
  )
  view.setUint8(16, DIRTY_TRACKING)
  view.setUint8(17, bitmap.granularityBits)
  view.setUint16(18, name.length)
  view.setUint32(20, bitmap.extra.length)
  bytes.set(bitmap.extra, FIXED)
  bytes.set(name, FIXED + bitmap.extra.length)
  return bytes
}

/** Entry of a bitmap table: `offset` 0 with `ones` as every bit's value, else a cluster of bits. */
export function parseBitmapTableEntry(view: DataView, at: number): { offset: number; ones: boolean } {
  const value = getUint64(view, at)
  const low = view.getUint32(at + 4)
  const offset = value - (low & 0x1ff)
  if ((view.getUint32(at) & 0xff00_0000) !== 0 || (low & 0x1fe) !== 0 || (offset !== 0 && (low & 1) !== 0))
    throw new FormatError('Invalid bitmap table entry')
  return { offset, ones: offset === 0 && (low & 1) !== 0 }
}
