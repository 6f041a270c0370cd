// SPDX-License-Identifier: Apache-2.0
// Headers of requests, and how many bytes of payload follow them. Which header a connection uses was agreed on: every
// request has the same length.
// Source: doc/proto.md, "Request message".
//
//   C: be32 magic | be16 flags | be16 command | be64 cookie | be64 offset | be32 length     compact, 28 bytes
//   C: be32 magic | be16 flags | be16 command | be64 cookie | be64 offset | be64 length     extended, 32 bytes

import { hex } from '../error-text.js'
import type { ReplyStyle } from './agreed.js'
import { cut, getUint64, setUint64, unexpected, viewOf } from './bytes.js'
import { commandFlags, commands, EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC } from './constants.js'

export interface Request {
  /** May be one that is not listed. */
  readonly command: number
  readonly flags: number
  /** Opaque: QEMU's clients send pointers. Only compared, and sent back in replies. */
  readonly cookie: bigint
  /** Bytes. Rounded above 2^53, where no export has bytes. */
  readonly offset: number
  /** The offset as it was sent, of an extended request: extended replies say it again. 0n of others. */
  readonly wireOffset: bigint
  /** Bytes of the export that are concerned, or of payload: see payloadLength(). Rounded above 2^53. */
  readonly length: number
}

/** What a client says of a request; the rest follows from it. */
export type RequestHead = Omit<Request, 'wireOffset'>

export function requestHeaderLength(replies: ReplyStyle): number {
  return replies === 'extended' ? 32 : 28
}

/**
 * @param at  where the header begins in `bytes`
 * @returns undefined while bytes are missing
 * @throws PeerError when it is no request: where the next one begins is not known then
 */
export function parseRequest(bytes: Uint8Array, at: number, replies: ReplyStyle): Request | undefined {
  const extended = replies === 'extended'
  if (bytes.length - at < requestHeaderLength(replies)) return undefined
  const view = viewOf(bytes)
  const magic = view.getUint32(at)
  const expected = extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC
  if (magic !== expected) throw unexpected('magic number of a request', hex(magic), hex(expected))
  return {
    command: view.getUint16(at + 6),
    flags: view.getUint16(at + 4),
    cookie: view.getBigUint64(at + 8),
    offset: getUint64(view, at + 16),
    wireOffset: extended ? view.getBigUint64(at + 16) : 0n,
    length: extended ? getUint64(view, at + 24) : view.getUint32(at + 24),
  }
}

/** @param request  offset and length are safe integers; length below 2^32 unless headers are extended */
export function formatRequest(request: RequestHead, replies: ReplyStyle): Uint8Array {
  const extended = replies === 'extended'
  const bytes = cut(requestHeaderLength(replies))
  const view = viewOf(bytes)
  view.setUint32(0, extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC)
  view.setUint16(4, request.flags)
  view.setUint16(6, request.command)
  view.setBigUint64(8, request.cookie)
  setUint64(view, 16, request.offset)
  if (extended) setUint64(view, 24, request.length)
  else view.setUint32(24, request.length)
  return bytes
}

/**
 * Bytes of payload that follow the header on the wire. A server takes them from there also when it refuses the request;
 * where they are too many for that, see checkRequest().
 * A WRITE always has one: with extended headers it has to set PAYLOAD_LEN, but QEMU's client (10.0.13) does not, and
 * QEMU's server takes that.
 */
export function payloadLength({ command, flags, length }: RequestPayload, replies: ReplyStyle): number {
  const follows =
    command === commands.WRITE || (replies === 'extended' && (flags & commandFlags.PAYLOAD_LEN) !== 0)
  return follows ? length : 0
}

type RequestPayload = Pick<Request, 'command' | 'flags' | 'length'>
