// SPDX-License-Identifier: Apache-2.0
// What a server answers to an option: any number of replies of which the last is ACK or an error.
// Source: doc/proto.md, "Option reply types".
//
//   S: be64 magic | be32 option | be32 reply | be32 length | data

import { hex } from '../error-text.js'
import type { BlockSizes } from './block-sizes.js'
import {
  clipped,
  counted,
  Fields,
  packed,
  readable,
  u16,
  u32,
  u64,
  unexpected,
  utf8,
  viewOf,
} from './bytes.js'
import {
  infos,
  limits,
  nameOf,
  nameOrNumber,
  OPTION_ERROR,
  OPTION_REPLY_MAGIC,
  type OptionErrorName,
  optionErrors,
  optionReplies,
  options,
} from './constants.js'
import type { ExportHead } from './hello.js'

export const OPTION_REPLY_HEADER_LENGTH = 20

export interface OptionReplyHeader {
  /** The one that is answered. */
  readonly option: number
  /** May be one that is not listed. */
  readonly reply: number
  /** Bytes of data that follow, at most 64 KiB. */
  readonly length: number
}

export type ExportInfo =
  | ({ readonly kind: 'EXPORT' } & ExportHead)
  | { readonly kind: 'NAME'; readonly name: string }
  | { readonly kind: 'DESCRIPTION'; readonly text: string }
  | ({ readonly kind: 'BLOCK_SIZE' } & BlockSizes)
  /** To be ignored. */
  | { readonly kind: 'unknown'; readonly info: number }

export type OptionReply =
  | { readonly kind: 'ACK' }
  /** `description` may be empty. */
  | { readonly kind: 'SERVER'; readonly name: string; readonly description: string }
  | { readonly kind: 'INFO'; readonly info: ExportInfo }
  | { readonly kind: 'META_CONTEXT'; readonly id: number; readonly name: string }
  /** `error` is a number where the protocol has no name for it. `text` is for people, may be empty. */
  | { readonly kind: 'error'; readonly error: OptionErrorName | number; readonly text: string }

/**
 * @returns undefined while bytes are missing
 * @throws PeerError when it is none, or its data would be too long
 */
export function parseOptionReplyHeader(bytes: Uint8Array): OptionReplyHeader | undefined {
  if (bytes.length < OPTION_REPLY_HEADER_LENGTH) return undefined
  const view = viewOf(bytes)
  const magic = view.getBigUint64(0)
  if (magic !== OPTION_REPLY_MAGIC)
    throw unexpected('magic number of an option reply', hex(magic), hex(OPTION_REPLY_MAGIC))
  const option = view.getUint32(8)
  const length = view.getUint32(16)
  if (length > limits.optionData)
    throw unexpected(
      `reply to option ${nameOrNumber(options, option)}`,
      `${length} bytes`,
      `at most ${limits.optionData}`,
    )
  return { option, reply: view.getUint32(12), length }
}

/**
 * @param reply  number of its header
 * @param data   all of it
 * @throws PeerError for replies that are not listed, and data that does not belong to them
 */
export function parseOptionReply(reply: number, data: Uint8Array): OptionReply {
  if (reply >= OPTION_ERROR)
    return { kind: 'error', error: nameOf(optionErrors, reply) ?? reply, text: readable(data) }
  const kind = nameOf(optionReplies, reply)
  const fields = new Fields(data, `option reply ${kind}`)
  switch (kind) {
    case undefined:
      throw unexpected('option reply', reply, `1 to ${optionReplies.META_CONTEXT}, or an error`)
    case 'ACK':
      fields.end()
      return { kind }
    case 'SERVER': {
      const name = fields.counted('export name')
      return { kind, name, description: readable(fields.take(fields.left)) }
    }
    case 'INFO':
      return { kind, info: readInfo(fields) }
    case 'META_CONTEXT': {
      const id = fields.u32()
      return { kind, id, name: fields.text(fields.left, 'name') }
    }
    default:
      return kind satisfies never
  }
}

function readInfo(fields: Fields): ExportInfo {
  const number = fields.u16()
  const kind = nameOf(infos, number)
  switch (kind) {
    case undefined:
      return { kind: 'unknown', info: number }
    case 'EXPORT': {
      const size = fields.u64('size')
      const flags = fields.u16()
      fields.end()
      return { kind, size, flags }
    }
    case 'NAME':
      return { kind, name: fields.text(fields.left, 'export name') }
    case 'DESCRIPTION':
      return { kind, text: readable(fields.take(fields.left)) }
    case 'BLOCK_SIZE': {
      const sizes = { minimum: fields.u32(), preferred: fields.u32(), maximumPayload: fields.u32() }
      fields.end()
      return { kind, ...sizes }
    }
    default:
      return kind satisfies never
  }
}

/** @param option  the one that is answered */
export function formatOptionReply(option: number, reply: OptionReply): Uint8Array {
  const data = formatData(reply)
  return packed(u64(OPTION_REPLY_MAGIC), u32(option, numberOf(reply), data.length), data)
}

function numberOf(reply: OptionReply): number {
  if (reply.kind !== 'error') return optionReplies[reply.kind]
  return typeof reply.error === 'number' ? reply.error : optionErrors[reply.error]
}

function formatData(reply: OptionReply): Uint8Array {
  switch (reply.kind) {
    case 'ACK':
      return new Uint8Array()
    case 'SERVER':
      return packed(counted(reply.name), clipped(reply.description))
    case 'INFO':
      return formatInfo(reply.info)
    case 'META_CONTEXT':
      return packed(u32(reply.id), utf8(reply.name))
    case 'error':
      return clipped(reply.text)
    default:
      return reply satisfies never
  }
}

function formatInfo(info: ExportInfo): Uint8Array {
  switch (info.kind) {
    case 'EXPORT':
      return packed(u16(infos.EXPORT), u64(info.size), u16(info.flags))
    case 'NAME':
      return packed(u16(infos.NAME), utf8(info.name))
    case 'DESCRIPTION':
      return packed(u16(infos.DESCRIPTION), clipped(info.text))
    case 'BLOCK_SIZE':
      return packed(u16(infos.BLOCK_SIZE), u32(info.minimum, info.preferred, info.maximumPayload))
    case 'unknown':
      return u16(info.info)
    default:
      return info satisfies never
  }
}
