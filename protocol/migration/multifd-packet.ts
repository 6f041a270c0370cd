// SPDX-License-Identifier: Apache-2.0
// Packets of a multifd channel: a head of fixed length with the offsets of pages, then the pages.
// Source: MultiFDPacket_t in QEMU 10.0, migration/multifd.h, and multifd_recv_unfill_packet() of 7.2 and 10.0.
//
//   0 magic | 4 version | 8 flags | 12 pages allocated | 16 normal pages a | 20 size of data | 24 number
//   32 zero pages b | 36 unused | 64 block, NUL padded | 320 offsets: a normal, b zero, room for all | data
//
// Packets have no order but this: all packets in front of SYNC number k of every channel, and all records in front of
// sync point k of the main connection, come before everything behind those.

import { FormatError } from '../format-error.js'
import { nameBytes, type Parsed, parsePrefix, type Reader, textOf, Writer } from './bytes.js'
import { hex, hexDump, quoted, unexpected } from './error-text.js'
import { MULTIFD_VERSION, readMultifdMagic } from './multifd-hello.js'
import type { RamRecord } from './page-record.js'
import { CHANNEL_MAGIC } from './preamble.js'
import { refusals } from './refusals.js'

const Flag = { sync: 0x01, method: 0x3e, deviceState: 0x40 } as const
const FIXED_LENGTH = 320
const UNUSED = 28
const BLOCK_LENGTH = 256
/** Bytes of pages in a full packet. */
const FULL_PACKET = 512 * 1024

/** How the data of one packet is packed: bits 1 to 5 of the flags. One endless stream per channel. */
const methods = { none: 0x00, zlib: 0x02, zstd: 0x04, qpl: 0x08, uadk: 0x10, qatzip: 0x20 } as const
export type Method = keyof typeof methods

export interface Packet {
  /** A sync point of this channel stands behind the packet, pages or none. */
  readonly sync: boolean
  readonly method: Method
  /** Of one counter for all channels. Not unique in QEMU 7.2. */
  readonly number: number
  /** Empty when there are no pages. */
  readonly block: string
  /** Offsets in the block, multiples of the page size: of pages in the data, and of pages that are zero. */
  readonly normal: readonly number[]
  readonly zero: readonly number[]
  /** Bytes that follow the head. */
  readonly dataLength: number
}

/** Pages that a packet has room for. */
export function packetCapacity(pageSize: number): number {
  return FULL_PACKET / pageSize
}

/** Bytes of every head, 1344 for pages of 4096. */
export function packetHeadLength(pageSize: number): number {
  return FIXED_LENGTH + 8 * packetCapacity(pageSize)
}

/**
 * The head of a packet. Whether the block exists and is long enough, checkPacket() tells.
 * @throws FormatError
 */
export function parsePacket(bytes: Uint8Array, pageSize: number, origin = 0): Parsed<Packet> | undefined {
  return parsePrefix(bytes, origin, (reader) => readPacket(reader, pageSize))
}

export function formatPacket(packet: Packet, pageSize: number): Uint8Array {
  const { sync, method, number, block, normal, zero, dataLength } = packet
  const pages = [...normal, ...zero]
  const capacity = packetCapacity(pageSize)
  const writer = new Writer().u32(CHANNEL_MAGIC).u32(MULTIFD_VERSION)
  writer.u32((sync ? Flag.sync : 0) | methods[method])
  writer
    .u32(pages.length > 0 ? capacity : 0)
    .u32(normal.length)
    .u32(dataLength)
  writer.u64(number).u32(zero.length).raw(new Uint8Array(UNUSED))
  const name = pages.length > 0 ? nameBytes(block) : new Uint8Array()
  writer.raw(name).raw(new Uint8Array(BLOCK_LENGTH - name.length))
  for (const offset of pages) writer.u64(offset)
  return writer.raw(new Uint8Array(8 * (capacity - pages.length))).finish()
}

/**
 * @param usedLengths  of the blocks of the list, bytes
 * @throws FormatError unless all pages are within their block
 */
export function checkPacket(packet: Packet, usedLengths: ReadonlyMap<string, number>): void {
  const { block, normal, zero } = packet
  if (normal.length + zero.length === 0) return
  const usedLength = usedLengths.get(block)
  if (usedLength === undefined)
    throw unexpected('RAM block of a packet', quoted(block), 'a block of the list')
  for (const offset of [...normal, ...zero])
    if (offset >= usedLength)
      throw unexpected(`page of ${quoted(block)} in a packet`, offset, `less than ${usedLength}`)
}

/**
 * Whether the main connection is at a sync point behind this record.
 * @param syncRecord  of the START of RAM: passes are marked; else every end of a body is a sync point
 */
export function isSyncPoint({ kind }: RamRecord, syncRecord: boolean): boolean {
  return kind === 'sync' || (kind === 'eos' && !syncRecord)
}

function readPacket(reader: Reader, pageSize: number): Packet {
  const capacity = packetCapacity(pageSize)
  readMultifdMagic(reader, 'multifd packet')
  const { sync, method } = readFlags(reader)
  const allocated = reader.u32()
  if (allocated > capacity) throw reader.wrong('pages of a packet', allocated, `at most ${capacity}`)
  const normalCount = reader.u32()
  if (normalCount > allocated)
    throw reader.wrong('normal pages of a packet', normalCount, `at most ${allocated}`)
  const dataLength = readDataLength(reader, method, normalCount, pageSize)
  const number = reader.u64('number of a packet')
  const zeroCount = reader.u32()
  if (zeroCount > allocated - normalCount)
    throw reader.wrong('zero pages of a packet', zeroCount, `at most ${allocated - normalCount}`)
  reader.take(UNUSED)
  const name = reader.take(BLOCK_LENGTH)
  const block = normalCount + zeroCount > 0 ? blockOf(reader, name) : ''
  const normal = readOffsets(reader, normalCount, pageSize)
  const zero = readOffsets(reader, zeroCount, pageSize)
  reader.take(8 * (capacity - normalCount - zeroCount))
  return { sync, method, number, block, normal, zero, dataLength }
}

function readFlags(reader: Reader): { sync: boolean; method: Method } {
  const flags = reader.u32()
  if ((flags & Flag.deviceState) !== 0) throw new FormatError(refusals.deviceChannels)
  const names = Object.keys(methods) as Method[]
  const method = names.find((name) => methods[name] === (flags & Flag.method))
  if (method === undefined || flags >= Flag.deviceState)
    throw reader.wrong('flags of a packet', hex(flags), `SYNC and one of ${names.join(', ')}`)
  return { sync: (flags & Flag.sync) !== 0, method }
}

/** Without normal pages there is no data, whatever the field says: QEMU 7.2 leaves the packet's before standing there. */
function readDataLength(reader: Reader, method: Method, normalCount: number, pageSize: number): number {
  const size = reader.u32()
  if (normalCount === 0) return 0
  const plain = normalCount * pageSize
  if (method === 'none') {
    if (size !== plain) throw reader.wrong('size of the data of a packet', size, plain)
  } else if (size === 0 || size > 2 * FULL_PACKET)
    throw reader.wrong('size of the data of a packet', size, `1 to ${2 * FULL_PACKET}`)
  return size
}

function readOffsets(reader: Reader, count: number, pageSize: number): number[] {
  const offsets: number[] = []
  while (offsets.length < count) {
    const offset = reader.u64('page of a packet')
    if (offset % pageSize !== 0) throw reader.wrong('page of a packet', offset, `a multiple of ${pageSize}`)
    offsets.push(offset)
  }
  return offsets
}

function blockOf(reader: Reader, padded: Uint8Array): string {
  const end = padded.indexOf(0)
  const name = end > 0 ? textOf(padded.subarray(0, end)) : undefined
  if (name !== undefined) return name
  throw reader.wrong('RAM block of a packet', hexDump(padded), 'a name of 1 to 255 bytes')
}
