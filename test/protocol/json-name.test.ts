// SPDX-License-Identifier: Apache-2.0
// Names that are options: what they say, and what is wrong with those that say nothing.

import t from 'tap'
import { isJsonName, parseJsonName } from '../../protocol/json-name.js'

const names = [
  { name: 'nested', text: '{"driver":"raw","file":{"driver":"file"}}' },
  { name: 'dotted', text: '{"driver":"raw","file.driver":"file"}' },
  { name: 'both, the object first', text: '{"file":{},"file.driver":"file","driver":"raw"}' },
  { name: 'both, the object last', text: '{"driver":"raw","file.driver":"file","file":{}}' },
  { name: 'single quotes', text: "{'driver':'raw','file.driver':'file'}" },
]
for (const { name, text } of names)
  t.test(`options are the same: ${name}`, async (t) => {
    t.same(parseJsonName(`json:${text}`), { driver: 'raw', file: { driver: 'file' } })
  })

t.test('dotted keys that are numbers make lists, and values keep their types', async (t) => {
  const text = '{"a.0.b":"x","a.1.b":null,"c":{"d.e":1},"f":"1","g":[2]}'
  t.same(parseJsonName(`json:${text}`), {
    a: [{ b: 'x' }, { b: null }],
    c: { d: { e: 1 } },
    f: '1',
    g: [2],
  })
})

t.test('members of every object are ordinary ones', async (t) => {
  const options = parseJsonName('json:{"__proto__.a":1,"constructor":{"b":2}}')
  t.same(Object.entries(options), [
    ['__proto__', { a: 1 }],
    ['constructor', { b: 2 }],
  ])
  t.equal(Object.hasOwn(Object.prototype, 'a'), false)
})

t.test('no mixture of dotted keys and objects reaches what all objects have', async (t) => {
  for (const key of ['file.__proto__.b', '__proto__.b', 'file.constructor.prototype.b']) {
    parseJsonName(`json:{"file.a":1,"file":{"c":{}},"${key}":2,"file.d":3}`)
    t.equal(Object.hasOwn(Object.prototype, 'b'), false, key)
  }
})

const bad = [
  { text: '', message: 'Could not parse the JSON options: Expecting a JSON value' },
  { text: '{', message: 'Could not parse the JSON options: JSON parse error, premature EOI' },
  { text: '{} {}', message: 'Could not parse the JSON options: Expecting at most one JSON value' },
  { text: '[1]', message: 'Invalid JSON object given' },
  { text: '"a"', message: 'Invalid JSON object given' },
  { text: '{"a":1,"a.b":2}', message: "Invalid parameter 'a.b'" },
  { text: '{"a.0":1,"a.b":2}', message: "Parameters 'a.*' used inconsistently" },
  { text: '{"a.b":2,"a":1}', message: "Invalid parameter 'a'" },
  { text: '{"0":1}', message: 'Invalid JSON object given' },
  { text: '{"a.1":1}', message: "Parameter 'a.0' missing" },
]
for (const { text, message } of bad)
  t.test(`refused: json:${text}`, async (t) => {
    t.throws(() => parseJsonName(`json:${text}`), { name: 'ArgumentError', message })
  })

t.test('only the small letters are the mark', async (t) => {
  t.equal(isJsonName('json:{}'), true)
  for (const name of ['JSON:{}', './json:{}', '{}', 'json']) t.equal(isJsonName(name), false, name)
})
