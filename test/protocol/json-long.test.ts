// SPDX-License-Identifier: Apache-2.0
// Long strings and numbers take other ways through the reader and the writer than short ones.

import t from 'tap'
import { JsonStream } from '../../protocol/json-stream.js'
import { toText } from '../../protocol/json-text.js'
import { JsonDouble } from '../../protocol/json-value.js'

const read = (text: string) => new JsonStream().push(Buffer.from(`${text} `, 'latin1'))

const strings = [
  { name: 'ASCII', text: 'x'.repeat(9000) },
  { name: 'two bytes each', text: 'é'.repeat(9000) },
  { name: 'four bytes each', text: '😀'.repeat(9000) },
  { name: 'a byte order mark first', text: `\ufeff${'x'.repeat(9000)}` },
  { name: 'escapes between long runs', text: `${'x'.repeat(5000)}\n${'é'.repeat(5000)}"` },
  { name: 'nothing but escapes', text: '\n'.repeat(9000) },
  { name: 'a character of four bytes at every border', text: `${'x'.repeat(4095)}😀\n${'y'.repeat(1023)}😀` },
]
for (const { name, text } of strings) {
  t.test(`long strings are read and written: ${name}`, (t) => {
    t.same(read(toText(text)), [{ kind: 'value', value: text }], 'escaped')
    const raw = text.replace(/[\n"]/g, (it) => (it === '\n' ? '\\n' : '\\"'))
    t.same(new JsonStream().push(Buffer.from(`"${raw}" `)), [{ kind: 'value', value: text }], 'as UTF-8')
    t.end()
  })
}

const badStrings = [
  { name: 'a lone byte', bytes: '\x80', desc: 'invalid UTF-8 sequence in string' },
  { name: 'a noncharacter', bytes: '\xef\xbf\xbe', desc: 'invalid UTF-8 sequence in string' },
  {
    name: 'a noncharacter of four bytes',
    bytes: '\xf0\x9f\xbf\xbf',
    desc: 'invalid UTF-8 sequence in string',
  },
  { name: 'a surrogate', bytes: '\xed\xa0\x80', desc: 'invalid UTF-8 sequence in string' },
  { name: 'a bad escape', bytes: '\\x', desc: 'invalid escape sequence in string' },
]
for (const { name, bytes, desc } of badStrings) {
  t.test(`a long string is refused for ${name}`, (t) => {
    const text = `"${'x'.repeat(6000)}${bytes}${'x'.repeat(6000)}"`
    t.same(read(text), [{ kind: 'error', desc: `JSON parse error, ${desc}` }])
    t.end()
  })
}

t.test('C0 80 in a long string is U+0000', (t) => {
  t.same(read(`"${'x'.repeat(6000)}\xc0\x80"`), [{ kind: 'value', value: `${'x'.repeat(6000)}\0` }])
  t.end()
})

t.test('a number of more than 4096 bytes is refused, where the reference daemon reads it', (t) => {
  const [item] = read(`0.${'1'.repeat(4095)}`)
  t.same(item, { kind: 'error', desc: 'JSON parse error, number out of range' })
  const [longest] = read(`0.${'1'.repeat(4094)}`)
  t.ok(longest?.kind === 'value' && longest.value instanceof JsonDouble)
  t.end()
})
