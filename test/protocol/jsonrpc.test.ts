// SPDX-License-Identifier: Apache-2.0
// JSON-RPC 2.0: every kind of message and the answer the specification asks for.

import t from 'tap'
import { JsonStream } from '../../protocol/json-stream.js'
import { toText } from '../../protocol/json-text.js'
import { createRpc, notification, parseFailure } from '../../protocol/jsonrpc.js'
import { validateArguments } from '../../protocol/schema/validate.js'

/** A command the storage refused. */
class Refused extends Error {
  readonly errorClass = 'DeviceNotActive'
}

const bugs: unknown[] = []
const calls: string[] = []

const rpc = createRpc(
  async (command, args) => {
    calls.push(command)
    switch (command) {
      case 'query-jobs':
        return []
      case 'qom-get':
        return null
      case 'quit':
        return undefined
      case 'job-cancel':
        throw new Refused("Block job 'x' not found")
      case 'job-pause':
        throw new TypeError('a bug')
      default:
        return validateArguments('blockdev-del', args)
    }
  },
  (error) => bugs.push(error),
)

async function answer(text: string): Promise<string | undefined> {
  const [item] = new JsonStream().push(Buffer.from(`${text} `))
  if (item?.kind !== 'value') throw new Error(`not JSON: ${text}`)
  const reply = await rpc.handle(item.value, undefined)
  return reply && toText(reply)
}

const invalid = (id: string): string =>
  `{"jsonrpc": "2.0", "id": ${id}, "error": {"code": -32600, "message": "Invalid Request"}}`
const jobs = (id: string): string => `{"jsonrpc": "2.0", "id": ${id}, "result": []}`
const error = (id: string, code: number, message: string, name: string): string =>
  `{"jsonrpc": "2.0", "id": ${id}, "error": {"code": ${code}, "message": ${JSON.stringify(message)}, ` +
  `"data": {"class": "${name}"}}}`
const request = (more: string): string => `{"jsonrpc": "2.0", "method": "query-jobs"${more}}`

const cases: readonly { name: string; text: string; reply: string | undefined }[] = [
  { name: 'a request', text: request(', "id": 1'), reply: jobs('1') },
  { name: 'a text id', text: request(', "id": "a"'), reply: jobs('"a"') },
  { name: 'a null id', text: request(', "id": null'), reply: jobs('null') },
  {
    name: 'an id beyond doubles',
    text: request(', "id": 18446744073709551615'),
    reply: jobs('18446744073709551615'),
  },
  { name: 'an id with a fraction', text: request(', "id": 1.5'), reply: jobs('1.5') },
  { name: 'a notification', text: request(''), reply: undefined },
  { name: 'named parameters', text: request(', "params": {}, "id": 1'), reply: jobs('1') },
  {
    name: 'positional parameters',
    text: request(', "params": [], "id": 1'),
    reply: error(
      '1',
      -32602,
      'query-jobs takes its parameters by name: params must be an object',
      'GenericError',
    ),
  },
  { name: 'params of another type', text: request(', "params": 1, "id": 1'), reply: invalid('1') },
  { name: 'params null', text: request(', "params": null, "id": 1'), reply: invalid('1') },
  { name: 'an id of another type', text: request(', "id": true'), reply: invalid('null') },
  { name: 'an object id', text: request(', "id": {}'), reply: invalid('null') },
  {
    name: 'another version',
    text: '{"jsonrpc": "1.0", "method": "query-jobs", "id": 1}',
    reply: invalid('1'),
  },
  { name: 'no version', text: '{"method": "query-jobs", "id": 1}', reply: invalid('1') },
  {
    name: 'a method that is no string',
    text: '{"jsonrpc": "2.0", "method": 1, "id": 1}',
    reply: invalid('1'),
  },
  { name: 'no method', text: '{"jsonrpc": "2.0", "id": 1}', reply: invalid('1') },
  { name: 'an answer', text: '{"jsonrpc": "2.0", "id": 1, "result": 1}', reply: invalid('1') },
  { name: 'null', text: 'null', reply: invalid('null') },
  { name: 'a number', text: '5', reply: invalid('null') },
  { name: 'an empty batch', text: '[]', reply: invalid('null') },
  { name: 'a batch of null', text: '[null]', reply: `[${invalid('null')}]` },
  { name: 'a batch of one', text: `[${request(', "id": 1')}]`, reply: `[${jobs('1')}]` },
  {
    name: 'a mixed batch',
    text: `[${request(', "id": 1')}, ${request('')}, 1, ${request(', "id": 2')}, []]`,
    reply: `[${jobs('1')}, ${invalid('null')}, ${jobs('2')}, ${invalid('null')}]`,
  },
  { name: 'a batch of notifications', text: `[${request('')}, ${request('')}]`, reply: undefined },
  {
    name: 'an unknown method',
    text: '{"jsonrpc": "2.0", "method": "nonsense", "id": 1}',
    reply: error('1', -32601, 'The command nonsense has not been found', 'CommandNotFound'),
  },
  {
    name: 'an unknown method without id',
    text: '{"jsonrpc": "2.0", "method": "nonsense"}',
    reply: undefined,
  },
  {
    name: 'a method named like a part of Object.prototype',
    text: '{"jsonrpc": "2.0", "method": "toString", "id": 1}',
    reply: error('1', -32601, 'The command toString has not been found', 'CommandNotFound'),
  },
  {
    name: 'wrong arguments',
    text: '{"jsonrpc": "2.0", "method": "blockdev-del", "params": {"node-name": 3}, "id": 1}',
    reply: error('1', -32602, "Invalid parameter type for 'node-name', expected: string", 'GenericError'),
  },
  {
    name: 'a command that fails',
    text: '{"jsonrpc": "2.0", "method": "job-cancel", "params": {"id": "x"}, "id": 1}',
    reply: error('1', -32000, "Block job 'x' not found", 'DeviceNotActive'),
  },
  {
    name: 'a command that returns nothing',
    text: '{"jsonrpc": "2.0", "method": "quit", "id": 1}',
    reply: '{"jsonrpc": "2.0", "id": 1, "result": {}}',
  },
  {
    name: 'a command that returns null',
    text: '{"jsonrpc": "2.0", "method": "qom-get", "id": 1}',
    reply: '{"jsonrpc": "2.0", "id": 1, "result": null}',
  },
  { name: 'a failing notification', text: '{"jsonrpc": "2.0", "method": "job-cancel"}', reply: undefined },
]
for (const { name, text, reply } of cases) {
  t.test(name, async (t) => {
    t.equal(await answer(text), reply)
  })
}

t.test('a bug is an internal error and is told to us', async (t) => {
  t.equal(
    await answer('{"jsonrpc": "2.0", "method": "job-pause", "id": 1}'),
    '{"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": "Internal error"}}',
  )
  t.match(bugs, [{ message: 'a bug' }])
})

t.test('a notification is executed', async (t) => {
  calls.length = 0
  await answer(request(''))
  t.same(calls, ['query-jobs'])
})

t.test('input that is no JSON is answered with id null', (t) => {
  t.equal(
    toText(parseFailure('JSON parse error, expecting value')),
    '{"jsonrpc": "2.0", "id": null, "error": {"code": -32700, "message": "JSON parse error, expecting value"}}',
  )
  t.end()
})

t.test('an event is a notification of its name', (t) => {
  t.equal(
    toText(notification('BLOCK_JOB_PENDING', { id: 'a' }, { seconds: 1, microseconds: 2 })),
    '{"jsonrpc": "2.0", "method": "BLOCK_JOB_PENDING", ' +
      '"params": {"timestamp": {"seconds": 1, "microseconds": 2}, "data": {"id": "a"}}}',
  )
  t.end()
})
