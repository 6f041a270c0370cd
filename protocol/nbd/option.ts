// SPDX-License-Identifier: Apache-2.0
// What a client asks during the handshake: a header, and data by the kind of option.
// Source: doc/proto.md, "Option types".
//
//   C: "IHAVEOPT" | be32 option | be32 length | data

import { hex } from '../error-text.js'
import { PeerError } from '../peer-error.js'
import { counted, Fields, packed, u16, u32, u64, unexpected, utf8, viewOf } from './bytes.js'
import { limits, nameOf, nameOrNumber, OPTION_MAGIC, options } from './constants.js'

export const OPTION_HEADER_LENGTH = 16

export interface OptionHeader {
  /** May be one that is not listed. */
  readonly option: number
  /** Bytes of data that follow, at most 64 KiB. */
  readonly length: number
}

export type OptionRequest =
  | { readonly kind: 'EXPORT_NAME'; readonly name: string }
  | { readonly kind: 'ABORT' | 'LIST' | 'STARTTLS' | 'STRUCTURED_REPLY' | 'EXTENDED_HEADERS' }
  /** `infos` are numbers: ones that are not listed are to be ignored. */
  | { readonly kind: 'INFO' | 'GO'; readonly name: string; readonly infos: readonly number[] }
  | {
      readonly kind: 'LIST_META_CONTEXT' | 'SET_META_CONTEXT'
      readonly name: string
      readonly queries: readonly string[]
    }
  | { readonly kind: 'unknown'; readonly option: number }

/** The data is what belongs to the option, and asks for more than is done. */
export class TooBig extends PeerError {}

/**
 * @returns undefined while bytes are missing
 * @throws PeerError when it is none, or its data would be too long: the connection is of no more use
 */
export function parseOptionHeader(bytes: Uint8Array): OptionHeader | undefined {
  if (bytes.length < OPTION_HEADER_LENGTH) return undefined
  const view = viewOf(bytes)
  const magic = view.getBigUint64(0)
  if (magic !== OPTION_MAGIC) throw unexpected('magic number of an option', hex(magic), hex(OPTION_MAGIC))
  const option = view.getUint32(8)
  const length = view.getUint32(12)
  if (length > limits.optionData)
    throw unexpected(
      `data of option ${nameOrNumber(options, option)}`,
      `${length} bytes`,
      `at most ${limits.optionData}`,
    )
  return { option, length }
}

/**
 * @param data  all of it
 * @throws PeerError when it is not what belongs to the option; the next option can be read all the same
 */
export function parseOption(option: number, data: Uint8Array): OptionRequest {
  const kind = nameOf(options, option)
  if (kind === undefined) return { kind: 'unknown', option }
  const fields = new Fields(data, `option ${kind}`)
  switch (kind) {
    case 'ABORT':
      // Data is not allowed, and servers are asked not to mind.
      return { kind }
    case 'LIST':
    case 'STARTTLS':
    case 'STRUCTURED_REPLY':
    case 'EXTENDED_HEADERS':
      fields.end()
      return { kind }
    case 'EXPORT_NAME':
      return { kind, name: fields.text(data.length, 'export name') }
    case 'INFO':
    case 'GO':
      return { kind, ...readInfos(fields, kind) }
    case 'LIST_META_CONTEXT':
    case 'SET_META_CONTEXT':
      return { kind, ...readQueries(fields, kind) }
    default:
      return kind satisfies never
  }
}

function readInfos(fields: Fields, kind: string): { name: string; infos: number[] } {
  const name = fields.counted('export name')
  const count = fields.u16()
  if (count > limits.infoRequests)
    throw new TooBig(
      `option ${kind}: found ${count} information requests, expected at most ${limits.infoRequests}`,
    )
  const infos = Array.from({ length: count }, () => fields.u16())
  fields.end()
  return { name, infos }
}

function readQueries(fields: Fields, kind: string): { name: string; queries: string[] } {
  const name = fields.counted('export name')
  const count = fields.u32()
  if (count > limits.queries)
    throw new TooBig(`option ${kind}: found ${count} queries, expected at most ${limits.queries}`)
  const queries = Array.from({ length: count }, () => fields.counted('query'))
  fields.end()
  return { name, queries }
}

export function formatOption(request: OptionRequest): Uint8Array {
  const data = formatData(request)
  const option = request.kind === 'unknown' ? request.option : options[request.kind]
  return packed(u64(OPTION_MAGIC), u32(option, data.length), data)
}

function formatData(request: OptionRequest): Uint8Array {
  switch (request.kind) {
    case 'EXPORT_NAME':
      return utf8(request.name)
    case 'INFO':
    case 'GO':
      return packed(counted(request.name), u16(request.infos.length, ...request.infos))
    case 'LIST_META_CONTEXT':
    case 'SET_META_CONTEXT':
      return packed(counted(request.name), u32(request.queries.length), ...request.queries.map(counted))
    case 'ABORT':
    case 'LIST':
    case 'STARTTLS':
    case 'STRUCTURED_REPLY':
    case 'EXTENDED_HEADERS':
    case 'unknown':
      return new Uint8Array()
    default:
      return request satisfies never
  }
}
