// SPDX-License-Identifier: Apache-2.0
// One client of the control socket: order of answers, dialects, flow control, its end.

import t, { type Test } from 'tap'
import { CommandError } from '../../../daemon/errors.js'
import { ControlClient, deferred, type Served, serve } from '../../helpers/control-plane.js'

async function served(t: Test, ...args: Parameters<typeof serve>): Promise<Served> {
  const served = await serve(...args)
  t.teardown(() => served.close())
  return served
}

async function ready(t: Test, path: string, enable: readonly string[] = []): Promise<ControlClient> {
  const client = await ControlClient.ready(path, enable)
  t.teardown(() => client.close())
  return client
}

async function open(t: Test, path: string): Promise<ControlClient> {
  const client = await ControlClient.open(path)
  t.teardown(() => client.close())
  return client
}

t.test('a client is greeted before it says anything', async (t) => {
  const { path } = await served(t)
  const client = await open(t, path)
  const greeting = await client.next()
  t.match(greeting, {
    QMP: { version: { qemu: { major: 10, minor: 0, micro: 13 } }, capabilities: ['oob'] },
    jsonrpc: '2.0',
    method: 'greeting',
  })
})

t.test('commands are refused until the capabilities are negotiated', async (t) => {
  const { path } = await served(t)
  const client = await open(t, path)
  await client.next()
  t.match(await client.call('query-version'), {
    error: {
      class: 'CommandNotFound',
      desc: "Expecting capabilities negotiation with 'qmp_capabilities'",
    },
  })
  t.same(await client.call('qmp_capabilities'), { return: {} })
  t.match(await client.call('query-version'), { return: { qemu: { major: 10 } } })
})

t.test('negotiating twice is refused', async (t) => {
  const { path } = await served(t)
  const client = await ready(t, path)
  t.match(await client.call('qmp_capabilities'), {
    error: {
      class: 'CommandNotFound',
      desc: 'Capabilities negotiation is already complete, command ignored',
    },
  })
})

t.test('an unknown capability is refused and negotiation may be tried again', async (t) => {
  const { path } = await served(t)
  const client = await open(t, path)
  await client.next()
  t.match(await client.call('qmp_capabilities', { enable: ['foo'] }), {
    error: { desc: "Parameter 'null' does not accept value 'foo'" },
  })
  t.same(await client.call('qmp_capabilities', { enable: [] }), { return: {} })
})

t.test('requests without a separator are answered in order', async (t) => {
  const { path } = await served(t)
  const client = await ready(t, path)
  client.send(
    '{"execute":"query-commands","id":1}{"execute":"nonsense","id":2}{"execute":"query-version","id":3}',
  )
  t.match(await client.next(), { id: 1, return: [] })
  t.match(await client.next(), { id: 2, error: { desc: 'The command nonsense has not been found' } })
  t.match(await client.next(), { id: 3, return: {} })
})

t.test('a slow command holds up later ones of its client only', async (t) => {
  const gate = deferred<never[]>()
  const { path } = await served(t, { 'query-jobs': () => gate.promise })
  const slow = await ready(t, path)
  const other = await ready(t, path)
  slow.send('{"execute":"query-jobs","id":"slow"}{"execute":"query-version","id":"behind"}')
  t.match(await other.call('query-version'), { return: {} })
  gate.resolve([])
  t.match(await slow.next(), { id: 'slow', return: [] })
  t.match(await slow.next(), { id: 'behind' })
})

t.test('a command that fails tells class and text of its error', async (t) => {
  const { path } = await served(t, {
    'query-jobs': () => {
      throw new CommandError("Block job 'x' not found", 'DeviceNotActive')
    },
    'query-block-jobs': () => Promise.reject(new CommandError('later')),
  })
  const client = await ready(t, path)
  t.same(await client.call('query-jobs'), {
    error: { class: 'DeviceNotActive', desc: "Block job 'x' not found" },
  })
  t.same(await client.call('query-block-jobs'), { error: { class: 'GenericError', desc: 'later' } })
})

t.test('a bug in a handler is an error reply and the session goes on', async (t) => {
  const { path } = await served(t, {
    'query-jobs': () => {
      throw new TypeError('oops')
    },
  })
  const client = await ready(t, path)
  t.match(await client.call('query-jobs'), { error: { class: 'GenericError' } })
  t.match(await client.call('query-version'), { return: {} })
})

t.test('out-of-band requests are refused until oob is enabled', async (t) => {
  const { path } = await served(t)
  const client = await ready(t, path)
  client.send('{"exec-oob":"query-version","id":1}')
  t.same(await client.next(), {
    id: 1,
    error: { class: 'GenericError', desc: "QMP input member 'exec-oob' is unexpected" },
  })
})

t.test('an out-of-band request is answered while an in-band one runs', async (t) => {
  const gate = deferred<never[]>()
  const { path } = await served(t, { 'query-jobs': () => gate.promise })
  const client = await ready(t, path, ['oob'])
  client.send('{"execute":"query-jobs","id":"in"}{"execute":"query-version","id":"queued"}')
  client.send('{"exec-oob":"query-chardev","id":"out"}')
  t.match(await client.next(), { id: 'out' })
  gate.resolve([])
  t.match(await client.next(), { id: 'in' })
  t.match(await client.next(), { id: 'queued' })
})

t.test('what a stuck command waits for can be asked out of band', async (t) => {
  const gate = deferred<undefined>()
  const { path } = await served(t, { 'object-del': () => gate.promise, 'query-jobs': () => [] })
  const client = await ready(t, path, ['oob'])
  client.send('{"execute":"object-del","arguments":{"id":"x"},"id":"in"}{"exec-oob":"query-jobs","id":"out"}')
  t.same(await client.next(), { id: 'out', return: [] })
  gate.resolve(undefined)
  t.match(await client.next(), { id: 'in' })
})

t.test('with oob no more than eight requests are taken while one runs', async (t) => {
  const gate = deferred<never[]>()
  const { path } = await served(t, { 'query-jobs': () => gate.promise })
  const client = await ready(t, path, ['oob'])
  const queued = Array.from({ length: 8 }, (_, index) => `{"execute":"query-version","id":${index}}`)
  client.send(`{"execute":"query-jobs","id":"in"}${queued.join('')}{"exec-oob":"query-chardev","id":"out"}`)
  gate.resolve([])
  const ids = []
  for (let count = 0; count < 10; count++) ids.push((await client.next()).id)
  t.same(ids, ['in', 0, 1, 2, 3, 4, 5, 6, 7, 'out'])
})

t.test('a client that closes its sending side gets every answer, then the end', async (t) => {
  const gate = deferred<never[]>()
  const { path } = await served(t, { 'query-jobs': () => gate.promise })
  const client = await ready(t, path)
  client.socket.end('{"execute":"query-jobs","id":1}{"execute":"query-version","id":2}{"execute":"query-ver')
  gate.resolve([])
  const ids = (await client.rest()).map((line) => (JSON.parse(line) as { id: unknown }).id)
  t.same(ids, [1, 2])
})

t.test('with oob a client that closes its sending side gets every answer too', async (t) => {
  const { path } = await served(t)
  const client = await open(t, path)
  await client.next()
  client.socket.end(
    '{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}{"execute":"query-version","id":1}{"execute":"query-version","id":2}',
  )
  t.equal((await client.rest()).length, 3)
})

t.test('the connection of a client that leaves in the middle of a request is forgotten', async (t) => {
  const { path, control } = await served(t)
  const client = await ready(t, path)
  const other = await ready(t, path)
  client.send('{"execute":"query-ver')
  client.close()
  while (control.clients('test') > 1) t.match(await other.call('query-version'), { return: {} })
  t.equal(control.clients('test'), 1)
})

t.test('a client that leaves while its command runs hurts nobody', async (t) => {
  const gate = deferred<never[]>()
  const { path, control } = await served(t, { 'query-jobs': () => gate.promise })
  const client = await ready(t, path)
  const other = await ready(t, path)
  client.send('{"execute":"query-jobs"}{"execute":"query-jobs"}')
  client.close()
  gate.resolve([])
  while (control.clients('test') > 1) t.match(await other.call('query-version'), { return: {} })
  t.equal(control.clients('test'), 1)
})

t.test('JSON-RPC requests run concurrently', async (t) => {
  const gate = deferred<never[]>()
  const { path } = await served(t, { 'query-jobs': () => gate.promise })
  const client = await open(t, path)
  await client.next()
  client.send(
    '{"jsonrpc":"2.0","id":1,"method":"query-jobs"}{"jsonrpc":"2.0","id":2,"method":"query-version"}',
  )
  t.match(await client.next(), { jsonrpc: '2.0', id: 2, result: { qemu: {} } })
  gate.resolve([])
  t.match(await client.next(), { jsonrpc: '2.0', id: 1, result: [] })
})

t.test('JSON-RPC errors carry their codes', async (t) => {
  const { path } = await served(t)
  const client = await open(t, path)
  await client.next()
  client.send('{"jsonrpc":"2.0","id":1,"method":"nonsense"}')
  t.match(await client.next(), { id: 1, error: { code: -32601 } })
  client.send('{"jsonrpc":"2.0","id":2,"method":"query-version","params":{"bogus":1}}')
  t.match(await client.next(), { id: 2, error: { code: -32602 } })
  client.send('{"jsonrpc": oops}')
  t.match(await client.next(), { id: null, error: { code: -32700 } })
})

t.test('five hundred clients are connected at once and each is answered', async (t) => {
  const { path, control } = await served(t)
  const clients = await Promise.all(Array.from({ length: 500 }, () => ControlClient.ready(path)))
  t.teardown(() => {
    for (const client of clients) client.close()
  })
  t.equal(control.clients('test'), 500)
  const answers = await Promise.all(clients.map((client) => client.call('query-version')))
  t.ok(answers.every((answer) => 'return' in answer))
})

t.test('a request of one mebibyte in small pieces is answered', async (t) => {
  const { path } = await served(t)
  const client = await ready(t, path)
  const id = 'x'.repeat(2 ** 20)
  const text = `{"execute":"query-version","id":"${id}"}`
  for (let at = 0; at < text.length; at += 10_007) client.send(text.slice(at, at + 10_007))
  t.match(await client.next(), { id })
})
