// SPDX-License-Identifier: Apache-2.0
// Events: who gets them, in which order, and what happens to those that do not read.

import t from 'tap'
import { DEFAULT_OUTBOX_LIMITS } from '../../../daemon/control/outbox.js'
import { ControlClient, serve } from '../../helpers/control-plane.js'

t.test('events go to every client that finished negotiation and to no other', async (t) => {
  const { path, control, close } = await serve()
  t.teardown(close)
  const [ready, negotiating, rpc] = await Promise.all([
    ControlClient.ready(path),
    ControlClient.open(path),
    ControlClient.open(path),
  ])
  await negotiating.next()
  await rpc.next()
  rpc.send('{"jsonrpc":"2.0","id":1,"method":"query-version"}')
  await rpc.next()
  control.events.emit('JOB_STATUS_CHANGE', { id: 'j', status: 'created' })
  t.match(await ready.next(), { event: 'JOB_STATUS_CHANGE', data: { id: 'j', status: 'created' } })
  t.match(await rpc.next(), { jsonrpc: '2.0', method: 'JOB_STATUS_CHANGE' })
  t.same(await negotiating.call('qmp_capabilities'), { return: {} })
  for (const client of [ready, negotiating, rpc]) client.close()
})

t.test('events a command causes come before its reply', async (t) => {
  const served = await serve({
    'query-jobs': () => {
      served.control.events.emit('JOB_STATUS_CHANGE', { id: 'j', status: 'created' })
      served.control.events.emit('JOB_STATUS_CHANGE', { id: 'j', status: 'running' })
      return []
    },
  })
  t.teardown(served.close)
  const client = await ControlClient.ready(served.path)
  client.send('{"execute":"query-jobs"}')
  t.match(await client.next(), { data: { status: 'created' } })
  t.match(await client.next(), { data: { status: 'running' } })
  t.match(await client.next(), { return: [] })
  client.close()
})

t.test('a client that did not read is told how many events it lost, and loses no other', async (t) => {
  const { path, control, close } = await serve({}, { ...DEFAULT_OUTBOX_LIMITS, events: 100 })
  t.teardown(close)
  const slow = await ControlClient.ready(path)
  const quick = await ControlClient.ready(path)
  slow.socket.pause()
  const total = 50_000
  for (let count = 0; count < total; count += 100) {
    for (let one = 0; one < 100; one++)
      control.events.emit('JOB_STATUS_CHANGE', { id: `job${count + one}`, status: 'running' })
    for (let one = 0; one < 100; one++) await quick.next()
  }
  slow.socket.resume()
  let heard = 0
  let lost = 0
  while (heard + lost < total) {
    const message = (await slow.next()) as { event: string; data: { count: number } }
    if (message.event === 'x-events-lost') lost += message.data.count
    else heard++
  }
  t.ok(lost > 0)
  t.equal(heard + lost, total)
  control.events.emit('JOB_STATUS_CHANGE', { id: 'after', status: 'running' })
  t.match(await slow.next(), { data: { id: 'after' } })
  slow.close()
  quick.close()
})

t.test('a client that never reads is dropped and others are not', async (t) => {
  const { path, control, close } = await serve({}, { ...DEFAULT_OUTBOX_LIMITS, events: 100, stallMs: 50 })
  t.teardown(close)
  const dead = await ControlClient.ready(path)
  const quick = await ControlClient.ready(path)
  dead.socket.pause()
  while (control.clients('test') === 2) {
    for (let one = 0; one < 100; one++)
      control.events.emit('JOB_STATUS_CHANGE', { id: 'j', status: 'running' })
    for (let one = 0; one < 100; one++) await quick.next()
  }
  t.match(await quick.call('query-version'), { return: {} })
  dead.close()
  quick.close()
})

t.test('requests of a client that does not read its replies wait, and are all answered later', async (t) => {
  let answered = 0
  const { path, close } = await serve({
    'query-jobs': () => {
      answered++
      return []
    },
  })
  t.teardown(close)
  const slow = await ControlClient.ready(path)
  const other = await ControlClient.ready(path)
  slow.socket.pause()
  const total = 1000
  const id = 'x'.repeat(16 * 1024)
  for (let count = 0; count < total; count++) slow.send(`{"execute":"query-jobs","id":"${count} ${id}"}`)
  let before = -1
  while (answered !== before) {
    before = answered
    for (let round = 0; round < 50; round++) await other.call('query-version')
  }
  t.ok(answered < total)
  slow.socket.resume()
  for (let count = 0; count < total; count++)
    t.ok(String((await slow.next()).id).startsWith(`${count} `), { skip: false, diagnostic: false })
  slow.close()
  other.close()
})
