// SPDX-License-Identifier: Apache-2.0
// JSON text: layout, escapes, numbers, and that reading gives back what was written.

import { equal, match } from 'node:assert/strict'
import fc from 'fast-check'
import t from 'tap'
import { JsonStream } from '../../protocol/json-stream.js'
import { toText } from '../../protocol/json-text.js'
import { JsonDouble, type JsonValue } from '../../protocol/json-value.js'
import { holds } from '../helpers/property.js'

const read = (text: string): JsonValue | undefined => {
  const [item] = new JsonStream().push(Buffer.from(`${text} `, 'latin1'))
  return item?.kind === 'value' ? item.value : undefined
}

t.test('values are laid out on one line with blanks after separators', (t) => {
  t.equal(
    toText({ a: 1, b: [true, null, 'x'], c: {}, d: [] }),
    '{"a": 1, "b": [true, null, "x"], "c": {}, "d": []}',
  )
  t.end()
})

t.test('undefined members are left out', (t) => {
  t.equal(toText({ a: undefined, b: 1, c: undefined }), '{"b": 1}')
  t.end()
})

const strings = [
  { name: 'short escapes', text: '\b\f\n\r\t"\\', out: '"\\b\\f\\n\\r\\t\\"\\\\"' },
  { name: 'no escape for a slash', text: '/', out: '"/"' },
  { name: 'controls and DEL', text: '\u0000\u001b\u007f', out: '"\\u0000\\u001B\\u007F"' },
  { name: 'upper-case hex beyond ASCII', text: 'aéz', out: '"a\\u00E9z"' },
  { name: 'surrogate pairs', text: '😀', out: '"\\uD83D\\uDE00"' },
  { name: 'half a pair is replaced', text: 'a\ud83d', out: '"a\\uFFFD"' },
  { name: 'the other half too', text: '\ude00b', out: '"\\uFFFDb"' },
]
for (const { name, text, out } of strings) {
  t.test(`strings: ${name}`, (t) => {
    t.equal(toText(text), out)
    t.end()
  })
}

const doubles = [
  { value: 0.1, out: '0.10000000000000001' },
  { value: 1, out: '1' },
  { value: 1000, out: '1000' },
  { value: 2 ** 64, out: '1.8446744073709552e+19' },
  { value: 1e100, out: '1e+100' },
  { value: 1e-5, out: '1.0000000000000001e-05' },
  { value: 0.0001, out: '0.0001' },
  { value: 1e16, out: '10000000000000000' },
  { value: 1e17, out: '1e+17' },
  { value: 5e-324, out: '4.9406564584124654e-324' },
  { value: -0, out: '-0' },
  { value: -2.5, out: '-2.5' },
]
for (const { value, out } of doubles) {
  t.test(`a double is written like C's %.17g: ${out}`, (t) => {
    t.equal(toText(new JsonDouble(value)), out)
    t.end()
  })
}

t.test('plain numbers: integers get digits, others 17 digits', (t) => {
  t.equal(toText([0, -0, 12, 2 ** 53, 0.5]), '[0, 0, 12, 9007199254740992, 0.5]')
  t.equal(toText(18446744073709551615n), '18446744073709551615')
  t.end()
})

for (const value of [Number.NaN, Number.POSITIVE_INFINITY, undefined, () => 1]) {
  t.test(`what JSON cannot say is refused: ${String(value)}`, (t) => {
    t.throws(() => toText([value]), TypeError)
    t.end()
  })
}

t.test('text of any value is JSON and reads back as the same value', (t) => {
  const values = fc.letrec((tie) => ({
    value: fc.oneof(
      { maxDepth: 4 },
      fc.constant(null),
      fc.boolean(),
      fc.maxSafeInteger(),
      fc.bigInt({ min: 2n ** 53n, max: 2n ** 64n - 1n }),
      fc.bigInt({ min: -(2n ** 63n), max: -(2n ** 53n) }),
      // Not -0.0: its text is -0, an integer.
      fc.double({ noNaN: true, noDefaultInfinity: true }).map((value) => new JsonDouble(value + 0)),
      fc.string({ unit: 'binary' }).filter((text) => !hasNoncharacter(text)),
      fc.array(tie('value')),
      fc.dictionary(fc.string(), tie('value'), { noNullPrototype: false }),
    ),
  })).value
  const property = fc.property(values, (value) => {
    const text = toText(value)
    JSON.parse(text)
    match(text, /^[ -~]*$/)
    equal(toText(read(text)), text)
  })
  holds(t, property, 500)
  t.end()
})

/** The stream refuses them, as the reference daemon does. */
function hasNoncharacter(text: string): boolean {
  return [...text].some((character) => {
    const code = character.codePointAt(0) ?? 0
    return (code & 0xfffe) === 0xfffe || (code >= 0xfdd0 && code <= 0xfdef)
  })
}
