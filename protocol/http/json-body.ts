// SPDX-License-Identifier: Apache-2.0
// JSON bodies of the images API: what a PATCH of an image wants, and tickets. Unknown fields are passed over, as the API
// has it; what is known must have its type.

import { quoted } from '../error-text.js'
import { parseNbdAddress } from '../nbd/uri.js'
import { badRequest } from './refusal.js'

export type PatchBody =
  | { readonly op: 'zero'; readonly offset: number; readonly size: number; readonly flush: boolean }
  | { readonly op: 'flush' }

/** A ticket: who knows its id may do so much with one image. */
export interface TicketSpec {
  readonly id: string
  /** Bytes that may be touched. */
  readonly size: number
  readonly ops: readonly TicketOp[]
  /** Seconds it may be unused. */
  readonly timeout: number
  readonly url: string
  /** Zeroing may deallocate. */
  readonly sparse: boolean
  /** The dirty bitmap of the image may be asked for. */
  readonly dirty: boolean
  /** Seconds a connection may make no progress; undefined: the server's default. */
  readonly inactivityTimeout: number | undefined
  /** As logs name it. */
  readonly transferId: string
  readonly filename: string | undefined
}

export type TicketOp = 'read' | 'write'

/** Characters of an id that logs may show: with the whole id its image could be used. */
const SHOWN = 18

type Json = Readonly<Record<string, unknown>>

/** @throws Refusal 400 */
export function parsePatch(text: string): PatchBody {
  const json = parseObject(text)
  switch (json.op) {
    case 'zero':
      return {
        op: 'zero',
        size: bytesIn(json, 'size'),
        offset: json.offset === undefined ? 0 : bytesIn(json, 'offset'),
        flush: booleanIn(json, 'flush', false),
      }
    case 'flush':
      return { op: 'flush' }
    default:
      throw badRequest('"op" is malformed: expected "zero" or "flush"')
  }
}

/**
 * @param id  as the URL names it
 * @throws Refusal 400
 */
export function parseTicket(text: string, id: string): TicketSpec {
  const json = parseObject(text)
  const uuid = stringIn(json, 'uuid')
  if (uuid === '' || uuid !== id) throw badRequest('"uuid" is malformed: expected the ticket id of the URL')
  const inactivity = json.inactivity_timeout
  return {
    id,
    size: bytesIn(json, 'size'),
    ops: opsIn(json.ops),
    timeout: bytesIn(json, 'timeout', 'a number of seconds'),
    url: urlIn(json),
    sparse: booleanIn(json, 'sparse', false),
    dirty: booleanIn(json, 'dirty', false),
    inactivityTimeout: inactivity === undefined ? undefined : secondsIn(json, 'inactivity_timeout'),
    transferId:
      json.transfer_id === undefined ? `(ticket ${id.slice(0, SHOWN)})` : stringIn(json, 'transfer_id'),
    filename: json.filename === undefined ? undefined : stringIn(json, 'filename'),
  }
}

/** @returns seconds. @throws Refusal 400 */
export function parseExtension(text: string): number {
  return bytesIn(parseObject(text), 'timeout', 'a number of seconds')
}

function parseObject(text: string): Json {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw badRequest('the body is malformed: expected JSON')
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw badRequest('the body is malformed: expected a JSON object')
  return value as Json
}

function bytesIn(json: Json, name: string, expected = 'a number of bytes'): number {
  const value = json[name]
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0)
    throw badRequest(
      `${quoted(name)} is ${value === undefined ? 'missing' : 'malformed'}: expected ${expected}`,
    )
  return value
}

/** More than none: a connection has to have some time. */
function secondsIn(json: Json, name: string): number {
  const seconds = bytesIn(json, name, 'a number of seconds')
  if (seconds === 0) throw badRequest(`${quoted(name)} is malformed: expected one second or more`)
  return seconds
}

function stringIn(json: Json, name: string): string {
  const value = json[name]
  if (typeof value !== 'string')
    throw badRequest(`${quoted(name)} is ${value === undefined ? 'missing' : 'malformed'}: expected a string`)
  return value
}

function booleanIn(json: Json, name: string, missing: boolean): boolean {
  const value = json[name] ?? missing
  if (typeof value !== 'boolean') throw badRequest(`${quoted(name)} is malformed: expected true or false`)
  return value
}

function opsIn(value: unknown): readonly TicketOp[] {
  if (!Array.isArray(value) || !value.every((op) => op === 'read' || op === 'write'))
    throw badRequest('"ops" is malformed: expected a list of "read" and "write"')
  return value
}

/** Schemes that can be opened. What the URL names is looked for when the ticket is first used. */
function urlIn(json: Json): string {
  const url = stringIn(json, 'url')
  if (/^file:\/\/\/[^\0]+$/.test(url)) return url
  // An address that asks for TLS names no credentials a ticket could bring.
  if (!/^nbd(\+unix)?:/.test(url))
    throw badRequest(
      '"url" is malformed: expected file:///PATH, nbd:unix:PATH or another address of an NBD export',
    )
  const address = parseNbdAddress(url)
  if (typeof address === 'string') throw badRequest(`"url" is malformed: ${address}`)
  return url
}

/** The path of a file URL, as it stands there: managers do not encode it. */
export function filePath(url: string): string {
  return url.slice('file://'.length)
}
