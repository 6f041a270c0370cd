// SPDX-License-Identifier: Apache-2.0
// Streams of the transmission phase, read message by message with the codecs, told in words, and written again.

import type { Agreed } from '../../../protocol/nbd/agreed.js'
import {
  DATA_HEAD_LENGTH,
  parseDataHead,
  parseError,
  parseHole,
  parseReplyHeader,
  parseStatus,
  type ReplyHeader,
} from '../../../protocol/nbd/chunk.js'
import { commandFlags, commands, nameOrNumber } from '../../../protocol/nbd/constants.js'
import { type NbdErrorName, nbdErrors } from '../../../protocol/nbd/error-number.js'
import {
  type ChunkStyle,
  dataHead,
  doneChunk,
  errorChunk,
  holeChunk,
  simpleReply,
  statusChunk,
} from '../../../protocol/nbd/reply.js'
import {
  formatRequest,
  parseRequest,
  payloadLength,
  type Request,
  requestHeaderLength,
} from '../../../protocol/nbd/request.js'

/** A message in words, and as the codecs write it. */
export interface Message {
  readonly says: string
  readonly again: Buffer
}

/** @throws where bytes are left that are no message */
export function readRequests(
  stream: Uint8Array,
  { replies }: Agreed,
): { messages: Message[]; requests: Request[] } {
  const messages: Message[] = []
  const requests: Request[] = []
  for (let at = 0; at < stream.length; ) {
    const request = parseRequest(stream, at, replies)
    if (request === undefined) throw new Error('half a request')
    const from = at + requestHeaderLength(replies)
    at = from + payloadLength(request, replies)
    const { command, flags, offset, length } = request
    const names = Object.entries(commandFlags).filter(([, bit]) => (flags & bit) !== 0)
    const says = [
      nameOrNumber(commands, command),
      `${offset}+${length}`,
      ...names.map(([name]) => name),
    ].join(' ')
    messages.push({
      says,
      again: Buffer.concat([formatRequest(request, replies), stream.subarray(from, at)]),
    })
    requests.push(request)
  }
  return { messages, requests }
}

/** @param requests  those that are answered: simple replies have data only after a READ */
export function readReplies(stream: Uint8Array, agreed: Agreed, requests: readonly Request[]): Message[] {
  const messages: Message[] = []
  let answered = 0
  for (let at = 0; at < stream.length; ) {
    const header = parseReplyHeader(stream, at, agreed)
    if (header === undefined) throw new Error('half a reply')
    const request = requests[answered]
    if (request === undefined || request.cookie !== header.cookie) throw new Error('a reply to nothing')
    const from = at + header.headerLength
    at = from + payloadOf(header, request)
    messages.push(message(header, stream.subarray(from, at), agreed.replies as ChunkStyle, request))
    if (header.kind === 'simple' || header.done) answered += 1
  }
  return messages
}

function payloadOf(header: ReplyHeader, request: Request): number {
  if (header.kind === 'chunk') return header.payloadLength
  return request.command === commands.READ && header.error === 0 ? request.length : 0
}

const errorName = (error: number) => nameOrNumber(nbdErrors, error) as NbdErrorName

function message(header: ReplyHeader, payload: Uint8Array, style: ChunkStyle, to: Request): Message {
  if (header.kind === 'simple') {
    const error = header.error === 0 ? undefined : errorName(header.error)
    return { says: `simple ${error ?? 'done'}`, again: Buffer.concat([simpleReply(to, error), payload]) }
  }
  const { type, done } = header
  const told = (says: string, ...parts: Uint8Array[]) => ({
    says: `${says}${done ? '' : ' …'}`,
    again: Buffer.concat(parts),
  })
  switch (type) {
    case 'NONE':
      return told('done', doneChunk(style, to))
    case 'OFFSET_DATA': {
      const offset = parseDataHead(payload)
      const data = payload.subarray(DATA_HEAD_LENGTH)
      return told(`data ${offset}+${data.length}`, dataHead(style, to, offset, data.length, done), data)
    }
    case 'OFFSET_HOLE': {
      const { offset, length } = parseHole(payload)
      return told(`hole ${offset}+${length}`, holeChunk(style, to, offset, length, done))
    }
    case 'BLOCK_STATUS':
    case 'BLOCK_STATUS_EXT': {
      const { contextId, extents } = parseStatus(type, payload)
      const list = extents.map(({ length, status }) => `${length}:${status}`).join(' ')
      return told(`status of ${contextId}: ${list}`, statusChunk(style, to, contextId, extents, done))
    }
    case 'ERROR':
    case 'ERROR_OFFSET': {
      const { error, text, offset } = parseError(type, payload)
      const where = offset === undefined ? '' : ` at ${offset}`
      return told(
        `${errorName(error)}${where}: ${text}`,
        errorChunk(style, to, errorName(error), text, done, offset),
      )
    }
    default:
      return type satisfies never
  }
}
