// SPDX-License-Identifier: Apache-2.0
// Replies as a server writes them. Data of a READ is not here: it follows what dataHead() gives, from where it lies.
// Source: doc/proto.md, "Simple reply message", "Structured reply chunk message", "Structured reply types".
//
//   S: be32 magic | be32 error | be64 cookie | data                                              simple, 16 bytes
//   S: be32 magic | be16 flags | be16 type | be64 cookie | be32 length | payload                 structured, 20 bytes
//   S: be32 magic | be16 flags | be16 type | be64 cookie | be64 offset | be64 length | payload   extended, 32 bytes

import type { ReplyStyle } from './agreed.js'
import { clipped, cut, packed, setUint64, u16, u32, u64, viewOf } from './bytes.js'
import {
  CHUNK_DONE,
  CHUNK_MAGIC,
  chunkTypes,
  EXTENDED_CHUNK_MAGIC,
  limits,
  SIMPLE_REPLY_MAGIC,
} from './constants.js'
import { type NbdErrorName, nbdErrors } from './error-number.js'
import type { Request } from './request.js'

export const SIMPLE_REPLY_LENGTH = 16

/** Replies in chunks. */
export type ChunkStyle = Exclude<ReplyStyle, 'simple'>

/** The request that is answered. */
export type ReplyTo = Pick<Request, 'cookie' | 'wireOffset'>

/** A range with one status, counted from the end of the one before. */
export interface StatusExtent {
  /** Bytes, not 0. */
  readonly length: number
  /** What it says depends on the context: bits of allocationState, dirtyState, or a number. */
  readonly status: number
}

export function chunkHeaderLength(style: ChunkStyle): number {
  return style === 'extended' ? 32 : 20
}

/** @param error  undefined: done; after a READ its data follows then */
export function simpleReply({ cookie }: ReplyTo, error?: NbdErrorName): Uint8Array {
  const bytes = cut(SIMPLE_REPLY_LENGTH)
  const view = viewOf(bytes)
  view.setUint32(0, SIMPLE_REPLY_MAGIC)
  view.setUint32(4, error === undefined ? 0 : nbdErrors[error])
  view.setBigUint64(8, cookie)
  return bytes
}

/**
 * A chunk's header, and room behind it for the beginning of its payload. One allocation: every READ comes by here.
 * @param length  of the payload, bytes
 * @param done    no other chunk of this reply follows
 * @param room    bytes
 */
function chunkHead(
  style: ChunkStyle,
  to: ReplyTo,
  type: number,
  length: number,
  done: boolean,
  room: number,
): Uint8Array {
  const extended = style === 'extended'
  const bytes = cut(chunkHeaderLength(style) + room)
  const view = viewOf(bytes)
  view.setUint32(0, extended ? EXTENDED_CHUNK_MAGIC : CHUNK_MAGIC)
  view.setUint16(4, done ? CHUNK_DONE : 0)
  view.setUint16(6, type)
  view.setBigUint64(8, to.cookie)
  if (extended) {
    view.setBigUint64(16, to.wireOffset)
    setUint64(view, 24, length)
  } else view.setUint32(16, length)
  return bytes
}

function chunk(style: ChunkStyle, to: ReplyTo, type: number, payload: Uint8Array, done: boolean): Uint8Array {
  const bytes = chunkHead(style, to, type, payload.length, done, payload.length)
  bytes.set(payload, chunkHeaderLength(style))
  return bytes
}

/** Ends a reply; alone it says that the request was done. */
export function doneChunk(style: ChunkStyle, to: ReplyTo): Uint8Array {
  return chunkHead(style, to, chunkTypes.NONE, 0, true, 0)
}

/**
 * What stands in front of data in a chunk.
 * @param length  of the data, bytes, not 0
 * @param done    only where the data is there already: afterwards there is no place for an error
 */
export function dataHead(
  style: ChunkStyle,
  to: ReplyTo,
  offset: number,
  length: number,
  done: boolean,
): Uint8Array {
  const bytes = chunkHead(style, to, chunkTypes.OFFSET_DATA, 8 + length, done, 8)
  setUint64(viewOf(bytes), chunkHeaderLength(style), offset)
  return bytes
}

/** @param length  bytes that read as zeroes, 1 to 2^32 - 1 */
export function holeChunk(
  style: ChunkStyle,
  to: ReplyTo,
  offset: number,
  length: number,
  done: boolean,
): Uint8Array {
  const bytes = chunkHead(style, to, chunkTypes.OFFSET_HOLE, 12, done, 12)
  const view = viewOf(bytes)
  const at = chunkHeaderLength(style)
  setUint64(view, at, offset)
  view.setUint32(at + 8, length)
  return bytes
}

/** Longest extent of 32 bits that keeps an end aligned to whatever a minimum block may be. */
const LONGEST = 2 ** 32 - limits.minimumBlock

/**
 * @param extents  from the request's offset on, at least one; after REQ_ONE one that ends with the request. An extent that is
 *   too long for 32 bits is cut and is the last then, and more extents than a chunk may have are left out: the client asks
 *   on from there
 */
export function statusChunk(
  style: ChunkStyle,
  to: ReplyTo,
  contextId: number,
  extents: readonly StatusExtent[],
  done: boolean,
): Uint8Array {
  const told = extents.slice(0, limits.extents)
  if (style === 'extended') {
    const payload = extendedStatus(contextId, told)
    return chunk(style, to, chunkTypes.BLOCK_STATUS_EXT, payload, done)
  }
  const long = told.findIndex(({ length }) => length > LONGEST)
  const payload = compactStatus(contextId, long < 0 ? told : told.slice(0, long + 1))
  return chunk(style, to, chunkTypes.BLOCK_STATUS, payload, done)
}

function compactStatus(contextId: number, extents: readonly StatusExtent[]): Uint8Array {
  const payload = new Uint8Array(4 + 8 * extents.length)
  const view = viewOf(payload)
  view.setUint32(0, contextId)
  for (const [index, { length, status }] of extents.entries()) {
    view.setUint32(4 + 8 * index, Math.min(length, LONGEST))
    view.setUint32(8 + 8 * index, status)
  }
  return payload
}

function extendedStatus(contextId: number, extents: readonly StatusExtent[]): Uint8Array {
  const payload = new Uint8Array(8 + 16 * extents.length)
  const view = viewOf(payload)
  view.setUint32(0, contextId)
  view.setUint32(4, extents.length)
  for (const [index, { length, status }] of extents.entries()) {
    setUint64(view, 8 + 16 * index, length)
    setUint64(view, 16 + 16 * index, status)
  }
  return payload
}

/**
 * @param text    for people; its first 4096 bytes are sent
 * @param offset  where in the export the error was; undefined: it concerns the whole request
 */
export function errorChunk(
  style: ChunkStyle,
  to: ReplyTo,
  error: NbdErrorName,
  text: string,
  done: boolean,
  offset?: number,
): Uint8Array {
  const message = clipped(text)
  const head = packed(u32(nbdErrors[error]), u16(message.length), message)
  if (offset === undefined) return chunk(style, to, chunkTypes.ERROR, head, done)
  return chunk(style, to, chunkTypes.ERROR_OFFSET, packed(head, u64(offset)), done)
}

/**
 * The whole answer to a request that came to nothing, in any style.
 * @param text  for people, sent where there is a place for it
 */
export function errorReply(replies: ReplyStyle, to: ReplyTo, error: NbdErrorName, text: string): Uint8Array {
  return replies === 'simple' ? simpleReply(to, error) : errorChunk(replies, to, error, text, true)
}

/** The whole answer to a request that was done and has nothing to tell: any but READ and BLOCK_STATUS. */
export function doneReply(replies: ReplyStyle, to: ReplyTo): Uint8Array {
  return replies === 'extended' ? doneChunk(replies, to) : simpleReply(to)
}
