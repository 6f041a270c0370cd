// SPDX-License-Identifier: Apache-2.0
// The word that begins every record of a RAM section: an offset with flags below the page size.
// The native page scanner has the same values. Source: RAM_SAVE_FLAG_* in QEMU 10.0, migration/ram.c.

import type { Reader } from './bytes.js'

export const RamFlag = {
  /** Extinct. */
  full: 0x001,
  /** [block], then a byte 0: the page is all zero. */
  zero: 0x002,
  /** In START: the offset is the total of all blocks, their list follows. */
  memSize: 0x004,
  /** [block], then the page. */
  page: 0x008,
  /** The body ends; the footer follows. */
  eos: 0x010,
  /** With zero, page and xbzrle: no block is named, it is that of the record before, whatever section that was in. */
  continue: 0x020,
  /** [block], a byte 1, be16 length, then a delta to the page as it was sent last. */
  xbzrle: 0x040,
  /** RDMA only. */
  hook: 0x080,
  /** QEMU <= 9.0 with capability compress. */
  compress: 0x100,
  /** A sync point of multifd. */
  multifdFlush: 0x200,
} as const

export interface RamWord {
  /** Bytes into the block, a multiple of the page size; with memSize the total. */
  readonly offset: number
  readonly flags: number
}

/** @param pageSize  bytes, a power of two, >= 1024 */
export function readRamWord(reader: Reader, pageSize: number, thing: string): RamWord {
  const word = reader.u64(thing)
  const flags = word % pageSize
  return { offset: word - flags, flags }
}
