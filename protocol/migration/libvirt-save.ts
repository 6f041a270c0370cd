// SPDX-License-Identifier: Apache-2.0
// The header that libvirt puts in front of a guest's memory: how to start it, as XML, and what kind of data follows.
// Source: struct _virQEMUSaveHeader in libvirt 11.3, src/qemu/qemu_saveimage.h.
//
//   0 magic | 16 version | 20 length of area | 24 was running | 28 format | 32 cookie offset | 36 unused | 92 area | data
//   area:  XML, NUL | cookie, NUL | zeroes, room for a longer XML
//
// Integers have the byte order of the host that wrote the image. Nothing is aligned.

import { concat, type Parsed, parsePrefix, type Reader, textOf } from './bytes.js'
import { hexDump, quoted, unexpected } from './error-text.js'

export const SAVE_HEADER_LENGTH = 92
const MAGIC_LENGTH = 16
/** `part`: the save did not end; libvirt writes the header again when it does. */
const magics = { save: 'LibvirtQemudSave', part: 'LibvirtQemudPart' } as const
const VERSION = 2
const FORMAT_AT = 28
/** libvirt makes areas of 64 KiB beyond the XML. */
const MAX_AREA = 64 * 2 ** 20

/** By number. `raw` is a plain stream, `sparse` a mapped-ram file, the others a plain stream through that program. */
const formats = ['raw', 'gzip', 'bzip2', 'xz', 'lzop', 'zstd', 'sparse'] as const
export type SaveFormat = (typeof formats)[number]

export interface SaveHeader {
  readonly byteOrder: 'little' | 'big'
  /** The image was finished. */
  readonly complete: boolean
  readonly version: number
  /** Bytes behind the header: XML, cookie, padding. */
  readonly areaLength: number
  /** To be resumed after it was restored. */
  readonly wasRunning: boolean
  readonly format: SaveFormat
  /** In the area; 0: there is none. */
  readonly cookieOffset: number
}

export interface SaveImage {
  readonly header: SaveHeader
  readonly xml: string
  /** An XML fragment, as libvirt has it. */
  readonly cookie: string | undefined
}

/** Whether a file begins like a save image, finished or not. */
export function isSaveImage(bytes: Uint8Array): boolean {
  const magic = textOf(bytes.subarray(0, MAGIC_LENGTH))
  return magic === magics.save || magic === magics.part
}

/** Where the data begins: the base of a mapped-ram file. */
export function dataOffsetOf({ areaLength }: SaveHeader): number {
  return SAVE_HEADER_LENGTH + areaLength
}

/** @throws FormatError */
export function parseSaveHeader(bytes: Uint8Array): Parsed<SaveHeader> | undefined {
  return parsePrefix(bytes, 0, readHeader)
}

/**
 * Header and area.
 * @throws FormatError
 */
export function parseSaveImage(bytes: Uint8Array): Parsed<SaveImage> | undefined {
  return parsePrefix(bytes, 0, (reader) => {
    const header = readHeader(reader)
    const area = reader.take(header.areaLength)
    const { cookieOffset } = header
    const xml = stringAt(area, 0, cookieOffset > 0 ? cookieOffset : area.length, 'XML of the save image')
    const cookie =
      cookieOffset > 0 ? stringAt(area, cookieOffset, area.length, 'cookie of the save image') : undefined
    return { header, xml, cookie }
  })
}

/**
 * Header and area. The lengths of the header are kept, so that data behind it stays where it is.
 * @throws FormatError when XML and cookie do not fit the header's lengths
 */
export function formatSaveImage({ header, xml, cookie }: SaveImage): Uint8Array {
  const area = new Uint8Array(header.areaLength)
  const strings = [xml, ...(cookie === undefined ? [] : [cookie])].map((text) =>
    new TextEncoder().encode(text),
  )
  const places = [0, header.cookieOffset]
  for (const [index, string] of strings.entries()) {
    const from = places[index] ?? 0
    const to = index + 1 < strings.length ? (places[index + 1] ?? 0) : area.length
    if (string.length >= to - from)
      throw unexpected(
        'save image',
        `${string.length} bytes of text`,
        `less than ${to - from} for it and a NUL`,
      )
    area.set(string, from)
  }
  return concat([formatHeader(header), area])
}

/**
 * The same header and area for data of another format: everything else stays byte for byte.
 * @param image  at least the header
 */
export function withFormat(image: Uint8Array, { byteOrder }: SaveHeader, format: SaveFormat): Uint8Array {
  const changed = new Uint8Array(image)
  new DataView(changed.buffer).setUint32(FORMAT_AT, formats.indexOf(format), byteOrder === 'little')
  return changed
}

function readHeader(reader: Reader): SaveHeader {
  const start = new TextEncoder().encode('LibvirtQemud')
  reader.constant(start, 'magic number of a save image')
  const end = textOf(reader.take(MAGIC_LENGTH - start.length)) ?? ''
  const complete = end === magics.save.slice(start.length)
  if (!complete && end !== magics.part.slice(start.length))
    throw reader.wrong('magic number of a save image', quoted(end), '"Save" or "Part"')
  const fields = reader.take(SAVE_HEADER_LENGTH - MAGIC_LENGTH)
  const view = new DataView(fields.buffer, fields.byteOffset, fields.byteLength)
  const little = view.getUint32(0, true) <= VERSION
  const [version = 0, areaLength = 0, wasRunning = 0, format = 0, cookieOffset = 0] = [0, 4, 8, 12, 16].map(
    (at) => view.getUint32(at, little),
  )
  if (version < 1 || version > VERSION)
    throw unexpected('version of the save image', hexDump(fields.subarray(0, 4)), VERSION)
  if (areaLength < 1 || areaLength > MAX_AREA)
    throw unexpected('length of the XML of the save image', areaLength, `1 to ${MAX_AREA}`)
  if (wasRunning > 1) throw unexpected('state of the guest in the save image', wasRunning, '0 or 1')
  const name = formats[format]
  if (name === undefined) throw unexpected('format of the save image', format, `0 to ${formats.length - 1}`)
  if (cookieOffset >= areaLength)
    throw unexpected('cookie offset of the save image', cookieOffset, `less than ${areaLength}`)
  const byteOrder = little ? 'little' : 'big'
  return {
    byteOrder,
    complete,
    version,
    areaLength,
    wasRunning: wasRunning === 1,
    format: name,
    cookieOffset,
  }
}

function formatHeader(header: SaveHeader): Uint8Array {
  const bytes = new Uint8Array(SAVE_HEADER_LENGTH)
  bytes.set(new TextEncoder().encode(header.complete ? magics.save : magics.part))
  const view = new DataView(bytes.buffer)
  const values = [
    header.version,
    header.areaLength,
    header.wasRunning ? 1 : 0,
    formats.indexOf(header.format),
    header.cookieOffset,
  ]
  for (const [index, value] of values.entries())
    view.setUint32(MAGIC_LENGTH + 4 * index, value, header.byteOrder === 'little')
  return bytes
}

/** A string with its NUL somewhere in a part of the area. */
function stringAt(area: Uint8Array, from: number, to: number, thing: string): string {
  const bytes = area.subarray(from, to)
  const end = bytes.indexOf(0)
  const text = end < 0 ? undefined : textOf(bytes.subarray(0, end))
  if (text !== undefined) return text
  throw unexpected(
    thing,
    end < 0 ? 'no NUL' : hexDump(bytes.subarray(0, end)),
    'text in UTF-8 with a NUL behind it',
  )
}
