// SPDX-License-Identifier: Apache-2.0
// The file of checksums beside an image: what every page was when the image was written. Written by saves and conversions that
// are asked to, read by `memory verify`. Nothing here is QEMU's.
//
//   0 magic | 16 be32 version 1 | 20 be32 page size | 24 SHA-256 of the states | 56 be32 blocks
//   60 blocks: counted name | be64 length      | be32 CRC-32C of everything so far
//   digests of all blocks in that order: le32 CRC-32C of each page | be32 CRC-32C of all digests
//
// A page that is zero has the digest of zeroes, so a bitmap has nothing to add. The states are what comes early and what follows
// RAM, byte for byte: with them the file belongs to its image. They have the guest's clocks in them, so two saves of one guest
// differ there; a name, a length or a time of change would say less, and change when a file is copied or converted.
// The digests are little-endian as bitmaps are: as the machine has them in memory.

import { FormatError } from '../format-error.js'
import { checkNewBlock, MAX_BLOCKS } from './block-list.js'
import { type Parsed, parsePrefix, type Reader, Writer } from './bytes.js'
import { quoted } from './error-text.js'

export interface DigestBlock {
  readonly name: string
  /** Bytes, a multiple of the page size. */
  readonly length: number
}

export interface DigestHead {
  readonly pageSize: number
  /** 32 bytes. */
  readonly states: Uint8Array
  readonly blocks: readonly DigestBlock[]
}

/** CRC-32C of some bytes. */
export type Checksum = (bytes: Uint8Array) => number

export const DIGESTS_MAGIC = new TextEncoder().encode('BFerryDigests\0\0\0')
export const STATES_LENGTH = 32
/** Of the CRC behind the digests. */
export const DIGESTS_END = 4
const VERSION = 1
const DIGEST = 4
const MIN_PAGE = 1024
const MAX_PAGE = 65536

/** Name of the file that belongs to an image. */
export function digestsNameOf(image: string): string {
  return `${image}.digests`
}

export function formatDigestHead({ pageSize, states, blocks }: DigestHead, checksum: Checksum): Uint8Array {
  const writer = new Writer().raw(DIGESTS_MAGIC).u32(VERSION).u32(pageSize).raw(states).u32(blocks.length)
  for (const { name, length } of blocks) writer.name(name).u64(length)
  const bytes = writer.finish()
  return new Writer().raw(bytes).u32(checksum(bytes)).finish()
}

/** @throws FormatError */
export function parseDigestHead(bytes: Uint8Array, checksum: Checksum): Parsed<DigestHead> | undefined {
  return parsePrefix(bytes, 0, (reader) => {
    reader.constant(DIGESTS_MAGIC, 'magic number of a file of checksums')
    const version = reader.u32()
    if (version !== VERSION) throw reader.wrong('version of a file of checksums', version, VERSION)
    const pageSize = readPageSize(reader)
    const states = reader.take(STATES_LENGTH).slice()
    const blocks = readBlocks(reader, pageSize)
    const expected = checksum(bytes.subarray(0, reader.used))
    const found = reader.u32()
    if (found !== expected) throw reader.wrong('checksum of the head', found, expected)
    return { pageSize, states, blocks }
  })
}

/** Bytes of the digests of all blocks. */
export function digestsLengthOf({ pageSize, blocks }: Pick<DigestHead, 'pageSize' | 'blocks'>): number {
  return blocks.reduce((sum, { length }) => sum + (length / pageSize) * DIGEST, 0)
}

function readPageSize(reader: Reader): number {
  const size = reader.u32()
  if (size >= MIN_PAGE && size <= MAX_PAGE && Number.isInteger(Math.log2(size))) return size
  throw reader.wrong('page size of a file of checksums', size, `a power of two, ${MIN_PAGE} to ${MAX_PAGE}`)
}

function readBlocks(reader: Reader, pageSize: number): DigestBlock[] {
  const count = reader.u32()
  if (count > MAX_BLOCKS) throw reader.wrong('number of blocks', count, `at most ${MAX_BLOCKS}`)
  const blocks: DigestBlock[] = []
  const names = new Set<string>()
  let total = 0
  while (blocks.length < count) {
    const name = reader.name('name of a block')
    const length = reader.u64(`length of block ${quoted(name)}`)
    if (length === 0 || length % pageSize !== 0)
      throw reader.wrong(`length of block ${quoted(name)}`, length, `a multiple of ${pageSize}`)
    total += length
    if (!Number.isSafeInteger(total)) throw new FormatError('the blocks of a file of checksums are too long')
    checkNewBlock(names, name)
    names.add(name)
    blocks.push({ name, length })
  }
  return blocks
}
