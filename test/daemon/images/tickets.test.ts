// SPDX-License-Identifier: Apache-2.0
// The ticket service: what managers add, see, extend and remove, and what that means for clients.

import { readFileSync } from 'node:fs'
import { Agent } from 'node:http'
import t from 'tap'
import { RawConnection, request } from '../../helpers/images/http-client.js'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { fill, MiB, Scratch } from '../../helpers/scratch.js'

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
const daemon = await ImagesDaemon.start(scratch)
t.teardown(() => daemon[Symbol.asyncDispose]())
fill(scratch.file('data'), 4 * MiB)
fill(scratch.file('other'), 4 * MiB, 99)

const show = async (id: string) => JSON.parse((await daemon.tickets('GET', id)).text)

t.test('a ticket is shown as it was given, with what was done', async (t) => {
  await daemon.ticket('shown', 'data', 2 * MiB, { ops: ['read'], filename: 'f', inactivity_timeout: 30 })
  t.match(await show('shown'), {
    ...{
      active: false,
      canceled: false,
      connections: 0,
      idle_time: 0,
      inactivity_timeout: 30,
      ops: ['read'],
    },
    ...{
      size: 2 * MiB,
      sparse: true,
      dirty: false,
      timeout: 300,
      uuid: 'shown',
      transfer_id: '(ticket shown)',
    },
    ...{ filename: 'f', transferred: 0, url: `file://${scratch.file('data')}` },
  })
  await daemon.images('GET', 'shown', { range: 'bytes=0-99' })
  await daemon.images('GET', 'shown', { range: 'bytes=50-149' })
  await daemon.images('GET', 'shown', { range: 'bytes=1000-1000' })
  t.equal((await show('shown')).transferred, 151)
  await daemon.ticket('both', 'data', MiB, { ops: ['read', 'write'] })
  t.notHas(await show('both'), { transferred: 0 })
})

t.test('what is no ticket is refused and not kept', async (t) => {
  const bad = await daemon.tickets('PUT', 'bad', { uuid: 'bad', size: 1 })
  t.match(bad, { status: 400, text: /"ops"/ })
  t.equal((await daemon.tickets('PUT', 'bad', 'no JSON')).status, 400)
  t.equal((await daemon.tickets('PUT', '', '{}')).status, 400)
  t.equal((await daemon.tickets('GET', 'bad')).status, 404)
  t.equal((await daemon.tickets('GET', '')).status, 400)
  t.equal((await daemon.tickets('PATCH', 'bad', { timeout: 1 })).status, 404)
  t.equal((await daemon.tickets('POST', 'bad', '{}')).status, 405)
})

t.test('removing a ticket that is not there succeeds', async (t) => {
  t.match(await daemon.tickets('DELETE', 'never'), { status: 204, text: '' })
})

t.test('an expired ticket is revived by extending it', async (t) => {
  await daemon.ticket('old', 'data', MiB, { timeout: 0 })
  t.equal((await daemon.images('OPTIONS', 'old')).status, 403)
  t.equal((await daemon.tickets('PATCH', 'old', { timeout: 300 })).status, 200)
  t.equal((await daemon.images('OPTIONS', 'old')).status, 200)
  t.equal(
    (await daemon.images('OPTIONS', 'old')).status,
    403,
    'a request sets the timeout of the ticket again',
  )
  t.equal((await daemon.tickets('PATCH', 'old', { timeout: 300 })).status, 200)
  t.equal((await daemon.images('GET', 'old/extents')).status, 200)
  t.equal((await daemon.images('GET', 'old/extents')).status, 200, 'extents do not')
  t.equal((await show('old')).timeout, 0)
})

t.test('a ticket that is replaced serves the next request of the same connection', async (t) => {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  const get = () => request(daemon.local, 'GET', '/images/replaced', { range: 'bytes=0-9' }, undefined, agent)
  await daemon.ticket('replaced', 'data', MiB)
  const one = await get()
  t.equal((await show('replaced')).connections, 1)
  await daemon.ticket('replaced', 'other', MiB)
  const two = await get()
  t.strictSame([...one.bytes], [...readFileSync(scratch.file('data')).subarray(0, 10)])
  t.strictSame([...two.bytes], [...readFileSync(scratch.file('other')).subarray(0, 10)])
})

t.test('a connection goes from one ticket to another and back', async (t) => {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  await daemon.ticket('a', 'data', MiB)
  await daemon.ticket('b', 'other', MiB)
  for (const id of ['a', 'b', 'a', '*', 'b']) {
    const method = id === '*' ? 'OPTIONS' : 'GET'
    const reply = await request(
      daemon.local,
      method,
      `/images/${id}`,
      { range: 'bytes=0-0' },
      undefined,
      agent,
    )
    t.equal(reply.status, id === '*' ? 200 : 206)
    t.not(reply.headers.connection, 'close')
  }
})

for (const { method, body } of [
  { method: 'PATCH', body: '{"op":"zero","offset":0,"size":4096,"flush":true' },
  { method: 'PUT', body: '\0'.repeat(47) },
])
  for (const end of ['replaced', 'removed'])
    t.test(`a ${method} whose body is missing when its ticket is ${end} has one end`, async (t) => {
      fill(scratch.file('late'), MiB)
      await daemon.ticket('late', 'late', MiB)
      using client = new RawConnection(daemon.local)
      const length = `content-length: ${body.length + 1}`
      client.send(`${method} /images/late HTTP/1.1\r\n${length}\r\n\r\n${body}`)
      while (!(await show('late')).active);
      if (end === 'replaced') await daemon.ticket('late', 'late', MiB)
      else t.equal((await daemon.tickets('DELETE', 'late')).status, 204)
      t.equal((await daemon.tickets('GET', 'late')).status, end === 'replaced' ? 200 : 404)
      client.send(method === 'PUT' ? '\0' : '}')
      const reply = await client.until(/^HTTP\/1.1 [\s\S]*\r\n\r\n/)
      t.match(reply, end === 'replaced' ? /^HTTP\/1.1 200/ : /^HTTP\/1.1 403 [\s\S]*canceled/)
      const first = readFileSync(scratch.file('late')).subarray(0, 48)
      const zero = Buffer.compare(first, Buffer.alloc(48)) === 0
      t.equal(zero, end === 'replaced')
      await daemon.tickets('DELETE', 'late')
    })

t.test('removing a ticket stops a client that has stalled in its PUT', async (t) => {
  await daemon.ticket('stalled', 'data', 4 * MiB)
  using client = new RawConnection(daemon.local)
  client.send(`PUT /images/stalled HTTP/1.1\r\ncontent-length: ${2 * MiB}\r\n\r\nsome`)
  while (!(await show('stalled')).active);
  t.equal((await daemon.tickets('DELETE', 'stalled')).status, 204)
  t.match(await client.until(/canceled\n/), /^HTTP\/1.1 403 /)
  t.equal((await daemon.tickets('GET', 'stalled')).status, 404)
  t.equal((await daemon.images('OPTIONS', 'stalled')).status, 403)
})

t.test('removing a ticket cuts off a client that does not read', async (t) => {
  await daemon.ticket('unread', 'data', 4 * MiB)
  using client = new RawConnection(daemon.local)
  client.socket.pause()
  client.send('GET /images/unread HTTP/1.1\r\n\r\n')
  while (!(await show('unread')).active);
  t.equal((await daemon.tickets('DELETE', 'unread')).status, 204)
  client.socket.resume()
  const text = await client.closed()
  t.ok(text.length < 4 * MiB, 'the reply is cut short')
})

t.test('an idle connection of a removed ticket stays, and is refused', async (t) => {
  await daemon.ticket('idle', 'data', MiB)
  using client = new RawConnection(daemon.local)
  client.send('OPTIONS /images/idle HTTP/1.1\r\n\r\n')
  await client.until(/max_writers/)
  t.equal((await daemon.tickets('DELETE', 'idle')).status, 204)
  client.send('OPTIONS /images/idle HTTP/1.1\r\n\r\n')
  t.match(await client.until(/HTTP\/1.1 403/), /no such ticket/)
})

t.test('a client that makes no progress is cut off when its ticket says so', async (t) => {
  await daemon.ticket('slow', 'data', MiB, { inactivity_timeout: 1 })
  using idle = new RawConnection(daemon.local)
  idle.send('OPTIONS /images/slow HTTP/1.1\r\n\r\n')
  t.match(await idle.closed(), /max_writers/)
  using stalled = new RawConnection(daemon.local)
  stalled.send('PUT /images/slow HTTP/1.1\r\ncontent-length: 100\r\n\r\nsome')
  t.equal(await stalled.closed(), '')
})

t.test('all tickets are dropped at once', async (t) => {
  await daemon.ticket('last', 'data', MiB)
  t.equal((await daemon.tickets('DELETE', '')).status, 204)
  t.equal((await daemon.tickets('GET', 'last')).status, 404)
  t.equal((await daemon.images('OPTIONS', 'last')).status, 403)
})
