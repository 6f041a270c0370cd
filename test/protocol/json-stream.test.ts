// SPDX-License-Identifier: Apache-2.0
// The JSON stream against the recorded answers of the reference daemon, and by its own invariants.

import { deepEqual } from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import t from 'tap'
import { type JsonItem, JsonStream } from '../../protocol/json-stream.js'
import { toText } from '../../protocol/json-text.js'
import { JsonDouble, type JsonObject, type JsonValue } from '../../protocol/json-value.js'
import { commandNotFound, failure, parseRequest } from '../../protocol/qmp.js'
import { holds } from '../helpers/property.js'
import { answerOf, caseEnd, endId, type RecordedCase } from '../tools/json-answers.js'
import { jsonCases } from '../tools/json-cases.js'

const fixture = fileURLToPath(new URL('../../../test/protocol/json-answers.json', import.meta.url))
const recorded = JSON.parse(readFileSync(fixture, 'utf8')) as RecordedCase[]

const latin1 = (text: string): Uint8Array => Buffer.from(text, 'latin1')

/** What a server that knows no command says to these bytes. */
function answers(input: string): string[] {
  const out: string[] = []
  for (const item of new JsonStream().push(latin1(input + caseEnd))) {
    const reply = item.kind === 'error' ? failure('GenericError', item.desc) : replyTo(item.value)
    // Through text, as recorded answers went: a double without fraction comes back as an integer.
    const heard = value(toText(reply)) as JsonObject
    if (heard.id !== endId) out.push(answerOf(heard))
  }
  return out
}

function replyTo(value: JsonValue): object {
  const request = parseRequest(value, { oob: false })
  if (request.kind === 'error') return failure(request.errorClass, request.desc, request.id)
  return failure('CommandNotFound', commandNotFound(request.command), request.id)
}

function describe(items: readonly JsonItem[]): string[] {
  return items.map((item) => (item.kind === 'error' ? item.desc : toText(item.value)))
}

const value = (text: string): JsonValue => {
  const [item] = new JsonStream().push(latin1(`${text} `))
  if (item?.kind !== 'value') throw new Error(`no value: ${item?.desc}`)
  return item.value
}

/** Which of several unexpected members is named has no fixed order. */
const unnamed = (told: readonly string[]): string =>
  toText(told.map((one) => one.replace(/member '.*' is unexpected/, 'member is unexpected')))

t.test('every recorded input gets the recorded answers', (t) => {
  const differing = recorded.filter(({ input, answers: told }) => unnamed(answers(input)) !== unnamed(told))
  for (const { input, answers: told } of differing.slice(0, 20)) t.same(answers(input), told, toText(input))
  t.equal(differing.length, 0, `${recorded.length} inputs`)
  t.end()
})

t.test('the recorded inputs are those of the case list', (t) => {
  t.same(
    recorded.map(({ input }) => input),
    jsonCases(),
  )
  t.end()
})

t.test('how bytes are split changes no item', (t) => {
  const inputs = fc.constantFrom(...recorded.map(({ input }) => input + caseEnd))
  const property = fc.property(
    fc.array(inputs, { minLength: 1, maxLength: 3 }),
    fc.array(fc.nat(12)),
    (parts, cuts) => {
      const bytes = latin1(parts.join(''))
      const stream = new JsonStream({ size: 60 })
      const items: JsonItem[] = []
      let at = 0
      for (const cut of cuts) {
        items.push(...stream.push(bytes.subarray(at, at + cut)))
        at += cut
      }
      items.push(...stream.push(bytes.subarray(at)), ...stream.end())
      const whole = new JsonStream({ size: 60 })
      deepEqual(describe(items), describe([...whole.push(bytes), ...whole.end()]))
    },
  )
  holds(t, property, 400)
  t.end()
})

t.test('random bytes never break the stream', (t) => {
  const property = fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => {
    const stream = new JsonStream()
    stream.push(bytes)
    stream.push(latin1('\xff'))
    deepEqual(describe(stream.push(latin1('{"id": 1}'))), ['{"id": 1}'])
  })
  holds(t, property, 300)
  t.end()
})

const limitCases = [
  { name: 'a string as long as the limit', limits: { size: 10 }, input: '"12345678" 1 ', items: ['size', 1] },
  {
    name: 'a string just below the limit',
    limits: { size: 10 },
    input: '"1234567" 1 ',
    items: ['"1234567"', 1],
  },
  {
    name: 'a string beyond the limit',
    limits: { size: 10 },
    input: '"1234567890" 1 ',
    items: ['size', "stray '\" 1 '"],
  },
  {
    name: 'tokens that exceed the limit together',
    limits: { size: 10 },
    input: '["abc","def"]',
    items: ['size', 'value'],
  },
  { name: 'as many tokens as the limit', limits: { tokens: 5 }, input: '[1,2]', items: ['[1, 2]'] },
  { name: 'one token more', limits: { tokens: 5 }, input: '[1,2,3]', items: ['count', 'value'] },
  { name: 'nesting at the limit', limits: { nesting: 2 }, input: '[[]]', items: ['[[]]'] },
  {
    name: 'nesting beyond the limit',
    limits: { nesting: 2 },
    input: '[[[]]]',
    items: ['depth', 'value', 'value', 'value'],
  },
] as const

const limitTexts: Readonly<Record<string, string>> = {
  size: 'JSON token size limit exceeded',
  count: 'JSON token count limit exceeded',
  depth: 'JSON nesting depth limit exceeded',
  value: 'JSON parse error, expecting value',
}

for (const { name, limits, input, items } of limitCases) {
  t.test(`limits: ${name}`, (t) => {
    const stream = new JsonStream(limits)
    const told = describe([...stream.push(latin1(input)), ...stream.end()])
    t.same(
      told.slice(0, items.length),
      items.map((item) => limitTexts[item] ?? expand(item)),
    )
    t.end()
  })
}

function expand(item: string | number): string {
  return String(item).startsWith('stray') ? `JSON parse error, ${item}` : String(item)
}

t.test('a bare scalar at the end of the input is a value', (t) => {
  const stream = new JsonStream()
  t.same(stream.push(latin1('12')), [])
  t.same(stream.end(), [{ kind: 'value', value: 12 }])
  t.end()
})

const unfinished = [
  { input: '{"a":', desc: 'JSON parse error, premature EOI' },
  { input: '[1', desc: 'JSON parse error, premature EOI' },
  { input: '"abc', desc: `JSON parse error, stray '"abc'` },
  { input: '{x', desc: "JSON parse error, invalid keyword 'x'" },
]
for (const { input, desc } of unfinished) {
  t.test(`unfinished input at the end is an error: ${input}`, (t) => {
    const stream = new JsonStream()
    stream.push(latin1(input))
    t.same(stream.end().at(-1), { kind: 'error', desc })
    t.same(stream.end(), [], 'told once')
    t.end()
  })
}

t.test('integers are exact to 64 bits, others are doubles', (t) => {
  t.equal(value('9007199254740991'), Number.MAX_SAFE_INTEGER)
  t.equal(value('9007199254740993'), 9007199254740993n)
  t.equal(value('-9223372036854775808'), -9223372036854775808n)
  t.equal(value('18446744073709551615'), 18446744073709551615n)
  t.ok(value('18446744073709551616') instanceof JsonDouble)
  t.ok(value('-9223372036854775809') instanceof JsonDouble)
  t.ok(value('1.0') instanceof JsonDouble)
  t.ok(Object.is(value('-0'), 0))
  t.end()
})

t.test('a number too large for a double is refused, where the reference daemon echoes "inf"', (t) => {
  t.same(new JsonStream().push(latin1('[1e400]')), [
    { kind: 'error', desc: 'JSON parse error, number out of range' },
  ])
  t.end()
})

t.test(
  'error texts repeat at most 1024 bytes of a bad token, where the reference daemon repeats all',
  (t) => {
    const [item] = new JsonStream().push(latin1(`${'x'.repeat(5000)} `))
    t.same(item, { kind: 'error', desc: `JSON parse error, invalid keyword '${'x'.repeat(1024)}'` })
    t.end()
  },
)

t.test('members named like parts of Object.prototype are ordinary', (t) => {
  const object = value('{"__proto__": {"polluted": true}, "toString": 1}') as JsonObject
  t.same(Object.keys(object), ['__proto__', 'toString'])
  t.equal(Object.getPrototypeOf(object), null)
  t.equal((Object.prototype as Record<string, unknown>).polluted, undefined)
  t.end()
})
