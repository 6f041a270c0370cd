// SPDX-License-Identifier: Apache-2.0
// The list of RAM blocks in the START section of RAM. It is complete before the first page, so that everything about a
// file's layout is known then. Source: ram_save_setup() in QEMU 10.0, migration/ram.c.
//
//   be64 total | memSize
//   until the lengths add up to the total:
//     counted name | be64 used length | [be64 host page size] | [be64 address] | [mapped-ram header]
//   [be64 multifdFlush] be64 eos
//
// A mapped-ram list is not contiguous: the next entry lies behind the pages of the one before. It is read entry by entry,
// see mapped-list.ts.

import { type Parsed, parsePrefix, type Reader, Writer } from './bytes.js'
import { type Configuration, hasCapability, pageSizeOf } from './configuration.js'
import { hex, quoted, unexpected } from './error-text.js'
import { type MappedHeader, readMappedHeader, writeMappedHeader } from './mapped-header.js'
import { RamFlag, readRamWord } from './ram-flags.js'

export interface RamBlock {
  /** For example "pc.ram", "/rom@etc/acpi/tables". */
  readonly name: string
  /** Bytes in use, a multiple of the page size, > 0. */
  readonly usedLength: number
  /** Bytes; only with capability postcopy-ram, and only of blocks on huge pages. */
  readonly hostPageSize?: number
  /** Guest-physical, 0 for what is not mapped; only with capability x-ignore-shared. */
  readonly address?: number
  /** Only with capability mapped-ram. */
  readonly mapped?: MappedHeader
}

/** What entries consist of. The same for all of a list. */
export interface BlockFields {
  readonly pageSize: number
  readonly addresses: boolean
  readonly mapped: boolean
  /** Blocks on huge pages have a host page size. Which ones they are nothing says: see readHostPageSize(). */
  readonly hostPageSizes: boolean
}

export interface RamStart {
  /** Sum of all used lengths. */
  readonly total: number
  readonly blocks: readonly RamBlock[]
  /**
   * A sync point stands behind the list: the source has multifd and marks one per pass. Without it, and with multifd,
   * every EOS is one (machine types before 8.1).
   */
  readonly syncRecord: boolean
}

/** Machines have some dozens, each NIC and each DIMM one or two. */
export const MAX_BLOCKS = 4096

/** @param postcopyAdvised  see advisesPostcopyRam() */
export function blockFields(configuration: Configuration, postcopyAdvised: boolean): BlockFields {
  return {
    pageSize: pageSizeOf(configuration),
    addresses: hasCapability(configuration, 'x-ignore-shared'),
    mapped: hasCapability(configuration, 'mapped-ram'),
    hostPageSizes: postcopyAdvised,
  }
}

/**
 * The body of START of RAM, to its EOS.
 * @param fields  not of a mapped-ram file
 * @throws FormatError
 */
export function parseRamStart(
  bytes: Uint8Array,
  fields: BlockFields,
  origin = 0,
): Parsed<RamStart> | undefined {
  return parsePrefix(bytes, origin, (reader) => {
    const total = readMemSize(reader, fields.pageSize)
    const blocks = readBlocks(reader, total, fields)
    return { total, blocks, syncRecord: readEndOfStart(reader, fields.pageSize) }
  })
}

export function formatRamStart(blocks: readonly RamBlock[], syncRecord: boolean): Uint8Array {
  const writer = new Writer().raw(formatMemSize(totalOf(blocks)))
  for (const block of blocks) writer.raw(formatBlock(block))
  if (syncRecord) writer.u64(RamFlag.multifdFlush)
  return writer.u64(RamFlag.eos).finish()
}

/** The word in front of the list: the total of all blocks, bytes. */
export function readMemSize(reader: Reader, pageSize: number): number {
  const { offset, flags } = readRamWord(reader, pageSize, 'total of the RAM blocks')
  if (flags !== RamFlag.memSize)
    throw reader.wrong('flags of the first record of RAM', hex(flags), hex(RamFlag.memSize))
  if (offset === 0) throw reader.wrong('total of the RAM blocks', 0, `at least ${pageSize}`)
  return offset
}

export function formatMemSize(total: number): Uint8Array {
  return new Writer().u64(total + RamFlag.memSize).finish()
}

/**
 * One entry.
 * @param left  bytes of the total that are not listed yet; the entry's own are among them
 */
export function readBlock(reader: Reader, fields: BlockFields, left: number): RamBlock {
  const name = reader.name('name of a RAM block')
  const usedLength = reader.u64(`length of RAM block ${quoted(name)}`)
  if (usedLength === 0 || usedLength % fields.pageSize !== 0)
    throw reader.wrong(`length of RAM block ${quoted(name)}`, usedLength, `a multiple of ${fields.pageSize}`)
  if (usedLength > left)
    throw reader.wrong(
      `length of RAM block ${quoted(name)}`,
      usedLength,
      `at most ${left}, to keep to the total`,
    )
  const hostPageSize = readHostPageSize(reader, fields, left - usedLength)
  const address = fields.addresses ? reader.u64(`address of RAM block ${quoted(name)}`) : undefined
  const mapped = fields.mapped ? readMappedHeader(reader) : undefined
  return {
    name,
    usedLength,
    ...(hostPageSize !== undefined && { hostPageSize }),
    ...(address !== undefined && { address }),
    ...(mapped !== undefined && { mapped }),
  }
}

export function formatBlock({ name, usedLength, hostPageSize, address, mapped }: RamBlock): Uint8Array {
  const writer = new Writer().name(name).u64(usedLength)
  if (hostPageSize !== undefined) writer.u64(hostPageSize)
  if (address !== undefined) writer.u64(address)
  if (mapped !== undefined) writeMappedHeader(writer, mapped)
  return writer.finish()
}

export function totalOf(blocks: readonly RamBlock[]): number {
  return blocks.reduce((sum, { usedLength }) => sum + usedLength, 0)
}

/** @throws FormatError when the name is there already, or the list has become too long */
export function checkNewBlock(names: ReadonlySet<string>, name: string): void {
  if (names.has(name)) throw unexpected('list of RAM blocks', `${quoted(name)} twice`, 'each name once')
  if (names.size >= MAX_BLOCKS)
    throw unexpected('list of RAM blocks', `more than ${MAX_BLOCKS}`, `at most ${MAX_BLOCKS}`)
}

function readBlocks(reader: Reader, total: number, fields: BlockFields): RamBlock[] {
  const blocks: RamBlock[] = []
  const names = new Set<string>()
  for (let left = total; left > 0; ) {
    const block = readBlock(reader, fields, left)
    checkNewBlock(names, block.name)
    names.add(block.name)
    blocks.push(block)
    left -= block.usedLength
  }
  return blocks
}

/**
 * Only the source knows which of its blocks are on huge pages, but what follows tells: behind an entry comes the next
 * name, whose length is not 0, or behind the last a word that has flags alone; a page size begins with a byte 0 and is
 * larger than any flags, and so is an address but for 0.
 */
function readHostPageSize(reader: Reader, fields: BlockFields, leftBehind: number): number | undefined {
  if (!fields.hostPageSizes) return undefined
  const next = fields.addresses ? 8 : 0
  const allFlags = 0x3ff
  const absent =
    leftBehind > 0
      ? reader.peek(next) !== 0
      : reader.peek64(next) <= allFlags && (next === 0 || reader.peek64(next) > 0)
  if (absent) return undefined
  const size = reader.u64('host page size of a RAM block')
  if (size > fields.pageSize && Number.isInteger(Math.log2(size))) return size
  throw reader.wrong('host page size of a RAM block', size, `a power of two above ${fields.pageSize}`)
}

function readEndOfStart(reader: Reader, pageSize: number): boolean {
  const first = readFlags(reader, pageSize)
  if (first === RamFlag.eos) return false
  if (first !== RamFlag.multifdFlush)
    throw reader.wrong(
      'record behind the RAM blocks',
      hex(first),
      `${hex(RamFlag.multifdFlush)} or ${hex(RamFlag.eos)}`,
    )
  const second = readFlags(reader, pageSize)
  if (second !== RamFlag.eos)
    throw reader.wrong('record behind the sync point', hex(second), hex(RamFlag.eos))
  return true
}

/** The whole word when it has more than flags, which then is none of those expected. */
function readFlags(reader: Reader, pageSize: number): number {
  const { offset, flags } = readRamWord(reader, pageSize, 'record behind the RAM blocks')
  return offset + flags
}
