// SPDX-License-Identifier: Apache-2.0
// Replies as a client reads them: the header, what length it may have, and the payloads that are not data.
// Rule: before a header is taken its payload is known to be of a bearable length.
// Source: doc/proto.md, "Structured reply types".

import { hex } from '../error-text.js'
import type { Agreed, ReplyStyle } from './agreed.js'
import { Fields, getUint64, readable, unexpected, viewOf } from './bytes.js'
import {
  CHUNK_DONE,
  CHUNK_ERROR,
  CHUNK_MAGIC,
  chunkTypes,
  EXTENDED_CHUNK_MAGIC,
  limits,
  nameOf,
  SIMPLE_REPLY_MAGIC,
} from './constants.js'
import { chunkHeaderLength, SIMPLE_REPLY_LENGTH, type StatusExtent } from './reply.js'

/** `ERROR` is any error whose type is not known, too. */
export type ChunkType = keyof typeof chunkTypes

/** `headerLength`: bytes it took. */
export type ReplyHeader =
  | {
      readonly kind: 'simple'
      readonly headerLength: number
      readonly cookie: bigint
      /** 0: done. After a READ as many bytes of data follow as it asked for. */
      readonly error: number
    }
  | {
      readonly kind: 'chunk'
      readonly headerLength: number
      readonly cookie: bigint
      readonly type: ChunkType
      /** No other chunk of this reply follows. */
      readonly done: boolean
      /** Bytes that follow. Of OFFSET_DATA the first 8 are not data, see DATA_HEAD_LENGTH. */
      readonly payloadLength: number
      /** Of the request, as it was sent; undefined where headers are not extended. */
      readonly wireOffset: bigint | undefined
    }

type ChunkHeader = Extract<ReplyHeader, { kind: 'chunk' }>

/** Bytes of payload in front of the data of OFFSET_DATA: its offset. */
export const DATA_HEAD_LENGTH = 8
/** Longest payload of an error: text, offset, and room for what an unknown one has. */
const LONGEST_ERROR = limits.optionData

/**
 * @param at  where the header begins in `bytes`
 * @returns undefined while bytes are missing
 * @throws PeerError when it is no reply that was agreed on, or its payload cannot have the length it says
 */
export function parseReplyHeader(
  bytes: Uint8Array,
  at: number,
  { replies, blockSizes }: Pick<Agreed, 'replies' | 'blockSizes'>,
): ReplyHeader | undefined {
  const there = bytes.length - at
  if (there < 4) return undefined
  const view = viewOf(bytes)
  const magic = view.getUint32(at)
  if (magic === SIMPLE_REPLY_MAGIC && replies !== 'extended') {
    if (there < SIMPLE_REPLY_LENGTH) return undefined
    const [error, cookie] = [view.getUint32(at + 4), view.getBigUint64(at + 8)]
    return { kind: 'simple', headerLength: SIMPLE_REPLY_LENGTH, cookie, error }
  }
  if (replies === 'simple') throw unexpected('magic number of a reply', hex(magic), hex(SIMPLE_REPLY_MAGIC))
  const extended = replies === 'extended'
  if (magic !== (extended ? EXTENDED_CHUNK_MAGIC : CHUNK_MAGIC))
    throw unexpected('magic number of a reply', hex(magic), magicsOf(replies))
  const headerLength = chunkHeaderLength(replies)
  if (there < headerLength) return undefined
  const header: ChunkHeader = {
    kind: 'chunk',
    headerLength,
    cookie: view.getBigUint64(at + 8),
    type: typeOf(view.getUint16(at + 6)),
    done: (view.getUint16(at + 4) & CHUNK_DONE) !== 0,
    payloadLength: extended ? getUint64(view, at + 24) : view.getUint32(at + 16),
    wireOffset: extended ? view.getBigUint64(at + 16) : undefined,
  }
  checkHeader(header, replies, blockSizes.maximumPayload)
  return header
}

function magicsOf(replies: ReplyStyle): string {
  return replies === 'extended'
    ? hex(EXTENDED_CHUNK_MAGIC)
    : `${hex(CHUNK_MAGIC)} or ${hex(SIMPLE_REPLY_MAGIC)}`
}

function typeOf(type: number): ChunkType {
  const known = nameOf(chunkTypes, type)
  if (known !== undefined) return known
  if (type >= CHUNK_ERROR) return 'ERROR'
  throw unexpected('type of a chunk', type, Object.keys(chunkTypes).join(', '))
}

function checkHeader({ type, done, payloadLength }: ChunkHeader, replies: ReplyStyle, most: number): void {
  const wrongStatus = replies === 'extended' ? 'BLOCK_STATUS' : 'BLOCK_STATUS_EXT'
  if (type === wrongStatus) throw unexpected('type of a chunk', type, `none with ${replies} replies`)
  const expected = misfit(type, payloadLength, most)
  if (expected !== undefined) throw unexpected(`chunk ${type}`, `${payloadLength} bytes of payload`, expected)
  if (type === 'NONE' && !done) throw unexpected('chunk NONE', 'flag DONE not set', 'it set')
}

/** @returns undefined, or what the length should have been */
function misfit(type: ChunkType, length: number, most: number): string | undefined {
  switch (type) {
    case 'NONE':
      return length === 0 ? undefined : '0'
    case 'OFFSET_DATA':
      return length > DATA_HEAD_LENGTH && length <= DATA_HEAD_LENGTH + most ? undefined : `9 to ${8 + most}`
    case 'OFFSET_HOLE':
      return length === 12 ? undefined : '12'
    case 'BLOCK_STATUS':
      return areExtents(length - 4, 8) ? undefined : `4 and 8 for each of up to ${limits.extents} extents`
    case 'BLOCK_STATUS_EXT':
      return areExtents(length - 8, 16) ? undefined : `8 and 16 for each of up to ${limits.extents} extents`
    case 'ERROR':
      return length >= 6 && length <= LONGEST_ERROR ? undefined : `6 to ${LONGEST_ERROR}`
    case 'ERROR_OFFSET':
      return length >= 14 && length <= LONGEST_ERROR ? undefined : `14 to ${LONGEST_ERROR}`
    default:
      return type satisfies never
  }
}

function areExtents(length: number, each: number): boolean {
  return length > 0 && length % each === 0 && length / each <= limits.extents
}

/**
 * Where the data of OFFSET_DATA belongs.
 * @param payload  its first DATA_HEAD_LENGTH bytes or more
 * @throws PeerError above 2^53
 */
export function parseDataHead(payload: Uint8Array): number {
  return new Fields(payload, 'chunk OFFSET_DATA').u64('offset')
}

/**
 * @param payload  of OFFSET_HOLE, all of it
 * @throws PeerError
 */
export function parseHole(payload: Uint8Array): { readonly offset: number; readonly length: number } {
  const fields = new Fields(payload, 'chunk OFFSET_HOLE')
  const offset = fields.u64('offset')
  const length = fields.u32()
  fields.end()
  if (length === 0) throw unexpected('length of a hole', 0, 'at least 1')
  return { offset, length }
}

export interface Status {
  readonly contextId: number
  /** From the request's offset on, at least one. */
  readonly extents: readonly StatusExtent[]
}

/**
 * @param payload  of BLOCK_STATUS or BLOCK_STATUS_EXT, all of it; of a length that the header was let pass with
 * @throws PeerError
 */
export function parseStatus(type: 'BLOCK_STATUS' | 'BLOCK_STATUS_EXT', payload: Uint8Array): Status {
  const fields = new Fields(payload, `chunk ${type}`)
  const contextId = fields.u32()
  const wide = type === 'BLOCK_STATUS_EXT'
  const count = wide ? fields.u32() : fields.left / 8
  if (wide && count !== fields.left / 16)
    throw unexpected(`chunk ${type}`, `${fields.left / 16} extents`, `${count}, as it says`)
  const extents: StatusExtent[] = []
  while (fields.left > 0) {
    const length = wide ? fields.u64('length') : fields.u32()
    if (length === 0) throw unexpected('length of an extent', 0, 'at least 1')
    extents.push({ length, status: wide ? fields.u64('status') : fields.u32() })
  }
  return { contextId, extents }
}

export interface ReplyError {
  /** As sent, not 0; see errnoOf(). */
  readonly error: number
  /** For people; may be empty. */
  readonly text: string
  /** Where in the export it was; undefined: not said. */
  readonly offset: number | undefined
}

/**
 * @param payload  of ERROR or ERROR_OFFSET, all of it
 * @throws PeerError
 */
export function parseError(type: 'ERROR' | 'ERROR_OFFSET', payload: Uint8Array): ReplyError {
  const fields = new Fields(payload, `chunk ${type}`)
  const error = fields.u32()
  const length = fields.u16()
  const text = readable(fields.take(length))
  if (error === 0) throw unexpected(`error of chunk ${type}`, 0, 'one that is not 0')
  // What follows in a type that is not known is not looked at.
  return { error, text, offset: type === 'ERROR_OFFSET' ? fields.u64('offset') : undefined }
}
