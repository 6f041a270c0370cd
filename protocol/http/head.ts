// SPDX-License-Identifier: Apache-2.0
// Heads of HTTP/1 requests: bytes in, a request or a refusal out. Bounded in everything: bytes of the request line, bytes
// and number of headers. What could be understood in two ways (two lengths, a folded line, a space before a colon) is refused.
// Source: RFC 9112, "Request Line", "Field Syntax", "Message Body Length"; RFC 9110, "Expect".

import { badRequest, Refusal } from './refusal.js'

export const headLimits = {
  /** Bytes of the request line, without its end. */
  line: 4096,
  /** Bytes of all headers. */
  headers: 65536,
  /** Number of headers. */
  count: 100,
} as const

/** Bytes of a head that nobody needs to wait for the end of. */
export const LONGEST_HEAD = headLimits.line + headLimits.headers + 4

export interface RequestHead {
  readonly method: string
  /** As it came. */
  readonly target: string
  /** Names in lower case; what came several times is joined by ', '. */
  readonly headers: ReadonlyMap<string, string>
  /** Bytes of the body that follows; undefined: none was announced. */
  readonly contentLength: number | undefined
  /** The body comes in chunks: how long it is shows only its end. */
  readonly chunked: boolean
  /** The client waits for an interim reply before it sends the body. */
  readonly expectsContinue: boolean
  /** The client may send another request on this connection. */
  readonly keepAlive: boolean
  /** HTTP/1.0 knows no chunks. */
  readonly minor: 0 | 1
}

const CR = 13
const LF = 10

/** @returns where the next request may begin: empty lines before one are passed over */
export function skipEmptyLines(bytes: Uint8Array, from: number, to: number): number {
  let at = from
  while (at < to && (bytes[at] === CR || bytes[at] === LF)) at++
  return at
}

/**
 * @param from    where the head begins
 * @param looked  up to here there is no end, as an earlier call found
 * @returns one past the empty line that ends the head; undefined while it is not there
 */
export function findHeadEnd(bytes: Uint8Array, from: number, to: number, looked = from): number | undefined {
  for (
    let at = bytes.indexOf(LF, Math.max(from, looked - 3));
    at >= 0 && at < to;
    at = bytes.indexOf(LF, at + 1)
  ) {
    const next = bytes[at + 1] === CR ? at + 2 : at + 1
    if (next < to && bytes[next] === LF) return next + 1
  }
  return undefined
}

/** A head that has not ended: @throws Refusal when it is too long already */
export function checkUnfinished(bytes: Uint8Array, from: number, to: number): void {
  const lineEnd = bytes.indexOf(LF, from)
  const line = lineEnd < 0 || lineEnd >= to ? to - from : lineEnd - from
  if (line > headLimits.line + 1) throw new Refusal(414, tooLongLine)
  if (to - from >= LONGEST_HEAD) throw new Refusal(431, tooLongHeaders)
}

const tooLongLine = `the request line is longer than ${headLimits.line} bytes`
const tooLongHeaders = `the headers are longer than ${headLimits.headers} bytes`

/**
 * @param head  a whole head in Latin-1, with or without its empty line
 * @throws Refusal
 */
export function parseHead(head: string): RequestHead {
  const lines = head.replace(/\r?\n\r?\n$/, '').split(/\r?\n/)
  const first = lines[0] ?? ''
  if (first.length > headLimits.line) throw new Refusal(414, tooLongLine)
  if (head.length - first.length > headLimits.headers) throw new Refusal(431, tooLongHeaders)
  if (lines.length - 1 > headLimits.count)
    throw new Refusal(431, `there are more than ${headLimits.count} headers`)
  const { method, target, minor } = parseLine(first)
  const headers = parseHeaders(lines)
  const encoding = headers.get('transfer-encoding')
  if (encoding !== undefined && encoding.toLowerCase() !== 'chunked')
    throw badRequest('the transfer-encoding is not understood: expected none or chunked')
  const contentLength = lengthIn(headers.get('content-length'))
  if (encoding !== undefined && contentLength !== undefined)
    throw badRequest('content-length and transfer-encoding exclude each other')
  return {
    ...{ method, target, headers, contentLength, minor },
    chunked: encoding !== undefined,
    expectsContinue: minor === 1 && headers.get('expect')?.toLowerCase() === '100-continue',
    keepAlive: keepsAlive(headers.get('connection'), minor),
  }
}

function parseLine(line: string): { method: string; target: string; minor: 0 | 1 } {
  const match = /^([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e\x80-\xff]+) HTTP\/(\d)\.(\d)$/.exec(line)
  if (match === null) throw badRequest('the request line is malformed: expected METHOD TARGET HTTP/1.1')
  const [, method = '', target = '', major, minor] = match
  if (major !== '1') throw new Refusal(505, `HTTP/${major}.${minor} is not spoken here: expected HTTP/1.1`)
  return { method, target, minor: minor === '0' ? 0 : 1 }
}

function parseHeaders(lines: readonly string[]): Map<string, string> {
  const headers = new Map<string, string>()
  for (let index = 1; index < lines.length; index++) {
    const match = /^([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\0\r\n]*)$/.exec(lines[index] as string)
    if (match === null) throw badRequest(`header ${index} is malformed: expected NAME: VALUE`)
    const name = (match[1] as string).toLowerCase()
    const value = (match[2] as string).trimEnd()
    const before = headers.get(name)
    headers.set(name, before === undefined ? value : `${before}, ${value}`)
  }
  return headers
}

/** The same length given twice is one length. */
function lengthIn(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const [value = '', ...more] = text.split(/[ \t]*,[ \t]*/)
  const length = Number(value)
  if (!/^\d{1,16}$/.test(value) || !Number.isSafeInteger(length) || more.some((other) => other !== value))
    throw badRequest('the content-length is malformed: expected a number of bytes')
  return length
}

function keepsAlive(connection: string | undefined, minor: 0 | 1): boolean {
  const tokens = connection?.toLowerCase().split(/[ \t]*,[ \t]*/) ?? []
  if (tokens.includes('close')) return false
  return minor === 1 || tokens.includes('keep-alive')
}
