// SPDX-License-Identifier: Apache-2.0
// Which bytes of an image a request means: Range of GET and Content-Range of PUT, as the images API takes them.
// Source: RFC 9110, "Range Requests"; of its forms the API has one range that names its first byte.

import { badRequest, Refusal } from './refusal.js'

export interface ByteRange {
  readonly first: number
  /** The last byte; undefined: to the end. */
  readonly last: number | undefined
}

/** @throws Refusal 416 for what is no single range */
export function parseRange(text: string): ByteRange {
  const match = /^bytes=(\d{1,16})-(\d{1,16})?$/i.exec(text.trim())
  const first = numberIn(match?.[1])
  const last = match?.[2] === undefined ? undefined : numberIn(match[2])
  if (match === null || first === undefined || (match[2] !== undefined && last === undefined))
    throw new Refusal(416, 'the range is malformed: expected bytes=FIRST-LAST or bytes=FIRST-')
  if (last !== undefined && first > last)
    throw new Refusal(416, `the range begins at ${first}, behind its end at ${last}`)
  return { first, last }
}

/**
 * Where a PUT begins; how long it is says its body.
 * @throws Refusal 400
 */
export function parseContentRange(text: string): number {
  const match = /^bytes (\d{1,16})-(\d{1,16}|\*)\/(\d{1,16}|\*)$/i.exec(text.trim())
  const first = numberIn(match?.[1])
  const last = match?.[2] === '*' ? first : numberIn(match?.[2])
  const total = match?.[3] === '*' ? Number.POSITIVE_INFINITY : numberIn(match?.[3])
  if (first === undefined || last === undefined || total === undefined)
    throw badRequest('the content-range is malformed: expected bytes FIRST-LAST/*')
  if (first > last) throw badRequest(`the content-range begins at ${first}, behind its end at ${last}`)
  if (last >= total) throw badRequest(`the content-range ends at ${last}, beyond its total of ${total} bytes`)
  return first
}

function numberIn(text: string | undefined): number | undefined {
  const value = text === undefined ? Number.NaN : Number(text)
  return Number.isSafeInteger(value) ? value : undefined
}
