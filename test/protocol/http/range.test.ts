// SPDX-License-Identifier: Apache-2.0
// Range and Content-Range: what is understood, what is refused, and that anything else is one of the two.

import fc from 'fast-check'
import t from 'tap'
import { type ByteRange, parseContentRange, parseRange } from '../../../protocol/http/range.js'
import { Refusal } from '../../../protocol/http/refusal.js'
import { holds } from '../../helpers/property.js'

function outcome<T>(parse: (text: string) => T, text: string): T | number {
  try {
    return parse(text)
  } catch (error) {
    if (error instanceof Refusal) return error.status
    throw error
  }
}

const ranges: readonly { text: string; is: ByteRange | number }[] = [
  { text: 'bytes=0-0', is: { first: 0, last: 0 } },
  { text: 'bytes=5-9', is: { first: 5, last: 9 } },
  { text: 'bytes=5-', is: { first: 5, last: undefined } },
  { text: 'bytes=-5', is: 416 },
  { text: 'bytes=9-5', is: 416 },
  { text: 'bytes=0-1,3-4', is: 416 },
  { text: 'bytes=', is: 416 },
  { text: 'bytes=a-b', is: 416 },
  { text: 'bytes=1 - 2', is: 416 },
  { text: 'lines=0-1', is: 416 },
  { text: 'bytes=0-9007199254740992', is: 416 },
]
for (const { text, is } of ranges)
  t.test(`range ${text}`, async (t) => t.strictSame(outcome(parseRange, text), is))

const contentRanges: readonly { text: string; is: number }[] = [
  { text: 'bytes 7-9/*', is: 7 },
  { text: 'bytes 7-*/*', is: 7 },
  { text: 'bytes 7-9/10', is: 7 },
  { text: 'bytes 7-9/9', is: 400 },
  { text: 'bytes 9-7/*', is: 400 },
  { text: 'bytes */10', is: 400 },
  { text: 'bytes=7-9/*', is: 400 },
  { text: 'bytes 7-9', is: 400 },
  { text: 'bytes 7-9/x', is: 400 },
  { text: 'bytes -9/*', is: 400 },
  { text: 'bytes 99999999999999999-*/*', is: 400 },
  { text: '', is: 400 },
]
for (const { text, is } of contentRanges)
  t.test(`content-range ${text}`, async (t) => t.equal(outcome(parseContentRange, text), is))

const scraps = fc.array(
  fc.oneof(
    fc.constantFrom('bytes', '=', ' ', '-', '/', '*', ',', 'e', '+', '0x', '.', '٣'),
    fc.bigInt({ min: 0n, max: 1n << 70n }).map(String),
    fc.string({ maxLength: 4 }),
  ),
  { maxLength: 10 },
)

t.test('any range is one inside what can be counted, or refused', async (t) => {
  holds(
    t,
    fc.property(scraps, (parts) => {
      const found = outcome(parseRange, parts.join(''))
      if (typeof found === 'number') return found === 416
      const { first, last = first } = found
      return Number.isSafeInteger(first) && Number.isSafeInteger(last) && first <= last
    }),
    5000,
  )
})

t.test('any content-range has a first byte, or is refused', async (t) => {
  holds(
    t,
    fc.property(scraps, (parts) => {
      const text = parts.join('')
      try {
        const first = parseContentRange(text)
        return Number.isSafeInteger(first) && first >= 0 && /^bytes \d/i.test(text.trim())
      } catch (error) {
        return error instanceof Refusal && error.status === 400
      }
    }),
    5000,
  )
})

t.test('what is formatted is parsed again', async (t) => {
  const position = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER - 1 })
  holds(
    t,
    fc.property(position, position, (one, other) => {
      const [first, last] = [Math.min(one, other), Math.max(one, other)]
      const range = parseRange(`bytes=${first}-${last}`)
      const start = parseContentRange(`bytes ${first}-${last}/${last + 1}`)
      return range.first === first && range.last === last && start === first
    }),
    1000,
  )
})
