// SPDX-License-Identifier: Apache-2.0
// The header of one RAM block in a mapped-ram file: where its bitmap and its pages lie. Big-endian, packed.
// Source: struct MappedRamHeader in QEMU 10.0, migration/ram.c, and docs/devel/migration/mapped-ram.rst.
//
//   0 version 1 | 4 page size | 12 bitmap offset | 20 pages offset | 28

import type { Reader, Writer } from './bytes.js'

export const MAPPED_HEADER_LENGTH = 28
const VERSION = 1

/** Offsets are those of the file, whatever stands in front of the stream in it. */
export interface MappedHeader {
  readonly pageSize: number
  readonly bitmapOffset: number
  readonly pagesOffset: number
}

/**
 * @throws FormatError for other versions. QEMU 10.0 would load version 0, but never wrote it. Values are not compared
 *   with anything else: mapped-check.ts does that.
 */
export function readMappedHeader(reader: Reader): MappedHeader {
  const version = reader.u32()
  if (version !== VERSION) throw reader.wrong('version of a mapped-ram header', version, VERSION)
  return {
    pageSize: reader.u64('page size of a mapped-ram header'),
    bitmapOffset: reader.u64('bitmap offset of a mapped-ram header'),
    pagesOffset: reader.u64('pages offset of a mapped-ram header'),
  }
}

export function writeMappedHeader(writer: Writer, header: MappedHeader): void {
  writer.u32(VERSION).u64(header.pageSize).u64(header.bitmapOffset).u64(header.pagesOffset)
}

/** Bytes of the bitmap of a block: one bit per page, whole words of 64 bits. */
export function bitmapLengthOf(usedLength: number, pageSize: number): number {
  return Math.ceil(usedLength / pageSize / 64) * 8
}
