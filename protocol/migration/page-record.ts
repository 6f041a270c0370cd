// SPDX-License-Identifier: Apache-2.0
// Records of RAM sections, one at a time: for tools and tests, and for what the native page scanner hands back. The fast
// path is there. Source: ram_load_precopy() in QEMU 10.0, migration/ram.c.

import { FormatError } from '../format-error.js'
import { type Parsed, parsePrefix, type Reader } from './bytes.js'
import { hex, quoted } from './error-text.js'
import { RamFlag, readRamWord } from './ram-flags.js'
import { refusals } from './refusals.js'

/** What a page record is about. `offset` is that of the page in its block. */
interface Place {
  readonly block: string
  readonly offset: number
}

export type RamRecord =
  /** `data` is a view of the bytes that were parsed. */
  | ({ readonly kind: 'page'; readonly data: Uint8Array } & Place)
  | ({ readonly kind: 'zero' } & Place)
  /** To be applied with applyDelta(). A view of the bytes that were parsed. */
  | ({ readonly kind: 'xbzrle'; readonly delta: Uint8Array } & Place)
  | { readonly kind: 'sync' }
  | { readonly kind: 'eos' }

/** A page record may have these flags, with or without `continue`. */
const pageKinds: ReadonlyMap<number, 'page' | 'zero' | 'xbzrle'> = new Map([
  [RamFlag.page, 'page'],
  [RamFlag.zero, 'zero'],
  [RamFlag.xbzrle, 'xbzrle'],
])
const XBZRLE_ENCODING = 1

/**
 * Walks the records of one connection, over all sections of RAM: the block that records continue with is remembered from
 * one section to the next.
 */
export class RamRecords {
  readonly #usedLengths: ReadonlyMap<string, number>
  readonly #pageSize: number
  /** Changed only when a record was whole. */
  #current: string | undefined

  constructor(blocks: Iterable<{ readonly name: string; readonly usedLength: number }>, pageSize: number) {
    this.#usedLengths = new Map([...blocks].map(({ name, usedLength }) => [name, usedLength]))
    this.#pageSize = pageSize
  }

  /**
   * The record that begins at the first byte. After `eos` a footer follows, no record.
   * @throws FormatError also for records that can be known but are not handled, naming their capability
   */
  next(bytes: Uint8Array, origin = 0): Parsed<RamRecord> | undefined {
    const parsed = parsePrefix(bytes, origin, (reader) => this.#read(reader))
    if (parsed !== undefined && 'block' in parsed.value) this.#current = parsed.value.block
    return parsed
  }

  #read(reader: Reader): RamRecord {
    const { offset, flags } = readRamWord(reader, this.#pageSize, 'offset of a page')
    if (offset === 0 && flags === RamFlag.eos) return { kind: 'eos' }
    if (offset === 0 && flags === RamFlag.multifdFlush) return { kind: 'sync' }
    const kind = pageKinds.get(flags & ~RamFlag.continue)
    if (kind === undefined) throw refusalOf(reader, offset, flags)
    const place = this.#place(reader, offset, (flags & RamFlag.continue) !== 0)
    if (kind === 'page') return { kind, ...place, data: reader.take(this.#pageSize) }
    if (kind === 'xbzrle') return { kind, ...place, delta: readDelta(reader, this.#pageSize) }
    const fill = reader.u8()
    if (fill !== 0) throw reader.wrong(`fill of a zero page of ${quoted(place.block)}`, hex(fill), hex(0))
    return { kind, ...place }
  }

  #place(reader: Reader, offset: number, continues: boolean): Place {
    if (continues && this.#current === undefined)
      throw reader.wrong('first page record', 'no block', 'the name of its block')
    const block = continues ? (this.#current ?? '') : reader.name('RAM block of a page')
    const usedLength = this.#usedLengths.get(block)
    if (usedLength === undefined)
      throw reader.wrong('RAM block of a page', quoted(block), 'a block of the list')
    if (offset >= usedLength)
      throw reader.wrong(`page of ${quoted(block)}`, offset, `less than ${usedLength}`)
    return { block, offset }
  }
}

function readDelta(reader: Reader, pageSize: number): Uint8Array {
  const encoding = reader.u8()
  if (encoding !== XBZRLE_ENCODING)
    throw reader.wrong('encoding of an XBZRLE page', hex(encoding), hex(XBZRLE_ENCODING))
  const length = reader.u16()
  if (length > pageSize) throw reader.wrong('length of an XBZRLE page', length, `at most ${pageSize}`)
  return reader.take(length)
}

function refusalOf(reader: Reader, offset: number, flags: number): FormatError {
  const rest = flags & ~RamFlag.continue
  if (rest === RamFlag.compress) return new FormatError(refusals.compress)
  if ((rest & RamFlag.hook) !== 0) return new FormatError(refusals.rdma)
  if (rest === RamFlag.eos || rest === RamFlag.multifdFlush)
    return reader.wrong(
      `record with flags ${hex(flags)}`,
      `offset ${offset}`,
      'neither offset nor other flags',
    )
  if (rest === RamFlag.memSize)
    return reader.wrong('record of RAM', 'another list of blocks', 'pages: the list stands in START only')
  return reader.wrong('flags of a RAM record', hex(flags), 'one kind of record')
}
