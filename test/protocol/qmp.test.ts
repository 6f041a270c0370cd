// SPDX-License-Identifier: Apache-2.0
// QMP envelopes: which requests are refused with which text, and what replies look like.

import t from 'tap'
import { JsonStream } from '../../protocol/json-stream.js'
import { toText } from '../../protocol/json-text.js'
import type { JsonValue } from '../../protocol/json-value.js'
import { event, failure, greeting, parseRequest, success, timestamp } from '../../protocol/qmp.js'

const value = (text: string): JsonValue => {
  const [item] = new JsonStream().push(Buffer.from(`${text} `))
  if (item?.kind !== 'value') throw new Error(`not JSON: ${text}`)
  return item.value
}

const refused = [
  ['{"execute": "query-version", "foo": 1}', "QMP input member 'foo' is unexpected"],
  ['{"execute": 7}', "QMP input member 'execute' must be a string"],
  ['{"execute": null}', "QMP input member 'execute' must be a string"],
  ['{"execute": "a", "exec-oob": "a"}', "QMP input member 'exec-oob' is unexpected"],
  ['{"execute": "a", "arguments": []}', "QMP input member 'arguments' must be an object"],
  ['{"execute": "a", "arguments": null}', "QMP input member 'arguments' must be an object"],
  ['{"execute": "a", "arguments": "x"}', "QMP input member 'arguments' must be an object"],
  ['{}', "QMP input lacks member 'execute'"],
  ['{"arguments": {}}', "QMP input lacks member 'execute'"],
  ['[]', 'QMP input must be a JSON object'],
  ['42', 'QMP input must be a JSON object'],
  ['"string"', 'QMP input must be a JSON object'],
  ['null', 'QMP input must be a JSON object'],
  ['1.5', 'QMP input must be a JSON object'],
  ['[{"execute": "query-version"}]', 'QMP input must be a JSON object'],
] as const
for (const [text, desc] of refused) {
  t.test(`refused: ${text}`, (t) => {
    t.same(parseRequest(value(text), { oob: false }), { kind: 'error', errorClass: 'GenericError', desc })
    t.end()
  })
}

const refusedWithOob = [
  ['{"exec-oob": 5}', "QMP input member 'exec-oob' must be a string"],
  ['{"exec-oob": "a", "execute": "a"}', "QMP input member 'execute' clashes with 'exec-oob'"],
  ['{"execute": "a", "exec-oob": "a"}', "QMP input member 'execute' clashes with 'exec-oob'"],
  ['{"exec-oob": "a", "arguments": 3}', "QMP input member 'arguments' must be an object"],
] as const
for (const [text, desc] of refusedWithOob) {
  t.test(`refused with oob enabled: ${text}`, (t) => {
    t.match(parseRequest(value(text), { oob: true }), { kind: 'error', desc })
    t.end()
  })
}

for (const id of ['null', '0', '""', '9007199254740993', '{"a": [1.5]}', 'false']) {
  t.test(`an id is echoed exactly, also with a refusal: ${id}`, (t) => {
    const refusal = parseRequest(value(`{"foo": 1, "id": ${id}}`), { oob: false })
    t.equal(toText(refusal.id), id)
    const request = parseRequest(value(`{"execute": "x", "id": ${id}}`), { oob: false })
    t.equal(toText(success(undefined, request.id)), `{"return": {}, "id": ${id}}`)
    t.end()
  })
}

t.test('a request without id has none', (t) => {
  const request = parseRequest(value('{"execute": "query-jobs"}'), { oob: false })
  t.notOk('id' in request)
  t.equal(toText(success([], request.id)), '{"return": []}')
  t.end()
})

t.test('exec-oob asks for out-of-band execution', (t) => {
  t.match(parseRequest(value('{"exec-oob": "x", "arguments": {"a": 1}}'), { oob: true }), {
    kind: 'request',
    command: 'x',
    oob: true,
    arguments: { a: 1 },
  })
  t.end()
})

t.test('an error puts its id first', (t) => {
  t.equal(
    toText(failure('GenericError', 'no', 3)),
    '{"id": 3, "error": {"class": "GenericError", "desc": "no"}}',
  )
  t.equal(toText(failure('GenericError', 'no')), '{"error": {"class": "GenericError", "desc": "no"}}')
  t.end()
})

t.test('the greeting serves both dialects', (t) => {
  const version = { qemu: { major: 10, minor: 0, micro: 0 }, package: 'blockferry' }
  t.equal(
    toText(greeting(version, ['oob'])),
    '{"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 0}, "package": "blockferry"}, ' +
      '"capabilities": ["oob"]}, "jsonrpc": "2.0", "method": "greeting"}',
  )
  t.end()
})

t.test('an event has a time, a name, and data where it has fields', (t) => {
  const at = timestamp(1_700_000_000_123.456)
  t.same(at, { seconds: 1_700_000_000, microseconds: 123_456 })
  t.equal(
    toText(event('STOP', undefined, at)),
    '{"timestamp": {"seconds": 1700000000, "microseconds": 123456}, "event": "STOP"}',
  )
  t.end()
})
