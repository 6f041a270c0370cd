// SPDX-License-Identifier: Apache-2.0
// What a lane has to know of HTTP: how the head of a request looks beside the two numbers of its range, and the head of its
// reply. Taken from a request that was answered, so that what is the same to the byte means the same. Pure.

export interface LanePlan {
  readonly writes: boolean
  /** Bytes of each request. */
  readonly each: number
  readonly head: readonly [Uint8Array, Uint8Array, Uint8Array]
  readonly reply: readonly [Uint8Array, Uint8Array, Uint8Array]
  readonly dateAt: number
}

const NUMBER = '(0|[1-9]\\d{0,15})'
const RANGE = new RegExp(`\\r\\nrange:[ \\t]*bytes=${NUMBER}-${NUMBER}[ \\t]*\\r\\n`, 'id')
const CONTENT_RANGE = new RegExp(
  `\\r\\ncontent-range:[ \\t]*bytes ${NUMBER}-${NUMBER}/\\*[ \\t]*\\r\\n`,
  'id',
)
const REPLY_RANGE = /\r\ncontent-range: bytes (\d+)-(\d+)\/\d+\r\n/d
const DATE = '\r\ndate: '

/**
 * @param request  head of a GET with a range, or of a PUT with a content range
 * @param reply    head of its reply
 * @returns undefined where the range is not written as a lane expects it
 */
export function planLane(writes: boolean, request: string, reply: string): LanePlan | undefined {
  const asked = cut(request, writes ? CONTENT_RANGE : RANGE)
  const told = writes ? ([reply, '', ''] as const) : cut(reply, REPLY_RANGE)?.parts
  const dateAt = reply.indexOf(DATE) + DATE.length
  if (asked === undefined || told === undefined || dateAt < DATE.length) return undefined
  const each = asked.last - asked.first + 1
  return { writes, each, head: bytesOf(asked.parts), reply: bytesOf(told), dateAt }
}

/** Around the two numbers that a pattern names. */
function cut(text: string, pattern: RegExp) {
  const match = pattern.exec(text)
  const [, from, to] = match?.indices ?? []
  if (match === null || from === undefined || to === undefined) return undefined
  const parts = [text.slice(0, from[0]), text.slice(from[1], to[0]), text.slice(to[1])] as const
  return { first: Number(match[1]), last: Number(match[2]), parts }
}

function bytesOf([one, two, three]: readonly [string, string, string]) {
  const latin1 = (text: string): Uint8Array => Buffer.from(text, 'latin1')
  return [latin1(one), latin1(two), latin1(three)] as const
}
