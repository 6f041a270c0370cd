// SPDX-License-Identifier: Apache-2.0
// Descriptors sent along with commands: which command gets which, and that none stays behind.

import { closeSync, constants, openSync, readdirSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Handlers } from '../../../daemon/control/commands.js'
import { descriptorHandlers } from '../../../daemon/control/handlers/descriptors.js'
import { accessOf } from '../../../native/descriptors.js'
import type { PassingClient } from '../../helpers/control-client.js'
import { ControlClient, deferred, type Served, serve } from '../../helpers/control-plane.js'
import { pace } from '../../helpers/waiting.js'

interface Fixture extends Served {
  /** A client after its negotiation. */
  client(enable?: readonly string[]): Promise<PassingClient>
  /** A descriptor of this test's to send: of a file of that name. */
  fd(name: string): number
  /** Names of the files that the daemon's side has open, sorted. */
  held(): string[]
  /** The same when it has become that; closing gives no event. */
  settled(...names: string[]): Promise<string[]>
}

async function setUp(t: Test, handlers: Handlers = {}): Promise<Fixture> {
  const folder = t.testdir({ a: '', b: '', c: '' })
  const served = await serve(handlers)
  served.control.addHandlers(descriptorHandlers(served.control.descriptors))
  const mine = new Map<string, number>()
  t.teardown(async () => {
    for (const fd of mine.values()) closeSync(fd)
    await served.close()
  })
  const held = () => {
    const open = readdirSync('/proc/self/fd')
      .filter((fd) => ![...mine.values()].includes(Number(fd)))
      .flatMap((fd) => target(fd) ?? [])
    return open
      .filter((path) => path.startsWith(`${folder}/`))
      .map((path) => path.slice(folder.length + 1))
      .sort()
  }
  return {
    ...served,
    async client(enable = []) {
      const client = await ControlClient.passing(served.path)
      t.teardown(() => client.close())
      await client.next()
      await client.call('qmp_capabilities', { enable })
      return client
    },
    fd(name) {
      const fd = mine.get(name) ?? openSync(join(folder, name), 'r')
      mine.set(name, fd)
      return fd
    },
    held,
    async settled(...names) {
      for (let tries = 0; held().join() !== names.join() && tries < 500; tries++) await pace(10)
      return held()
    },
  }
}

function target(fd: string): string | undefined {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`)
  } catch {
    return undefined
  }
}

function request(execute: string, args: object = {}, more: object = {}): string {
  return JSON.stringify({ execute, arguments: args, ...more })
}

const NONE = { error: { class: 'GenericError', desc: 'No file descriptor supplied via SCM_RIGHTS' } }

t.test('a descriptor may come with the command or with a space before it', async (t) => {
  const { client, fd, held } = await setUp(t)
  const one = await client()
  one.sendWith(request('getfd', { fdname: 'with' }), [fd('a')])
  t.same(await one.next(), { return: {} })
  one.sendWith(' ', [fd('b')])
  t.same(await one.call('getfd', { fdname: 'before' }), { return: {} })
  t.same(held(), ['a', 'b'])
  t.same(await one.call('getfd', { fdname: 'none' }), NONE)
})

t.test('a name belongs to its session and ends with it', async (t) => {
  const { client, fd, held, settled } = await setUp(t)
  const [one, other] = [await client(), await client()]
  one.sendWith(request('getfd', { fdname: 'x' }), [fd('a')])
  await one.next()
  t.match(await other.call('closefd', { fdname: 'x' }), {
    error: { desc: "File descriptor named 'x' not found" },
  })
  t.same(held(), ['a'])
  one.close()
  t.same(await settled(), [])
})

t.test('a name is taken by another descriptor, and closefd frees it', async (t) => {
  const { client, fd, settled } = await setUp(t)
  const one = await client()
  for (const name of ['a', 'b']) {
    one.sendWith(request('getfd', { fdname: 'x' }), [fd(name)])
    t.same(await one.next(), { return: {} })
  }
  t.same(await settled('b'), ['b'])
  t.same(await one.call('closefd', { fdname: 'x' }), { return: {} })
  t.match(await one.call('closefd', { fdname: 'x' }), { error: {} })
  t.same(await settled(), [])
})

t.test('a taken descriptor is the taker’s and its name free', async (t) => {
  const { client, fd, control, held } = await setUp(t, {
    'query-jobs': (_args, { session }) => {
      const taken = control.descriptors.take(session, 'x')
      t.same(held(), ['a'])
      closeSync(taken)
      return []
    },
  })
  const one = await client()
  one.sendWith(request('getfd', { fdname: 'x' }), [fd('a')])
  await one.next()
  t.same(await one.call('query-jobs'), { return: [] })
  t.match(await one.call('query-jobs'), { error: { desc: "File descriptor named 'x' has not been found" } })
})

t.test('a command that is refused has used its descriptor up', async (t) => {
  const { client, fd, settled } = await setUp(t)
  const one = await client()
  one.sendWith(request('getfd', { fdname: '9bad' }), [fd('a')])
  t.match(await one.next(), {
    error: { desc: "Parameter 'fdname' expects a name not starting with a digit" },
  })
  one.sendWith(request('add-fd', { 'fdset-id': -1 }), [fd('b')])
  t.match(await one.next(), { error: { desc: "Parameter 'fdset-id' expects a non-negative value" } })
  t.same(await one.call('add-fd'), NONE)
  t.same(await settled(), [])
})

t.test('a descriptor that came with another command is not taken for one’s own', async (t) => {
  const { client, fd, settled } = await setUp(t)
  const one = await client()
  one.sendWith(request('query-version'), [fd('a')])
  await one.next()
  one.sendWith(request('add-fd', { 'fdset-id': 1 }), [fd('b')])
  t.match(await one.next(), { return: { 'fdset-id': 1 } })
  t.same(await settled('b'), ['b'])
  t.same(await one.call('add-fd'), NONE)
})

t.test('a descriptor whose command had wrong arguments serves the next', async (t) => {
  const { client, fd, held } = await setUp(t)
  const one = await client()
  one.sendWith(request('add-fd', { bogus: 1 }), [fd('a')])
  t.match(await one.next(), { error: { desc: "Parameter 'bogus' is unexpected" } })
  t.match(await one.call('add-fd', { 'fdset-id': 3 }), { return: { 'fdset-id': 3 } })
  t.same(held(), ['a'])
})

t.test('descriptors of one message are taken in order by the commands that follow', async (t) => {
  const { client, fd, held, control } = await setUp(t)
  const one = await client()
  const both = [1, 2].map((id) => request('add-fd', { 'fdset-id': id })).join('')
  one.sendWith(both, [fd('a'), fd('b')])
  await one.next()
  await one.next()
  t.same(held(), ['a', 'b'])
  const sets = control.descriptors
    .list()
    .map(({ id, members }) => [id, target(String(members[0]?.fd))?.slice(-1)])
  t.same(sets, [
    [2, 'b'],
    [1, 'a'],
  ])
})

for (const oob of [false, true]) {
  t.test(`behind a slow command each finds its own, ${oob ? 'with' : 'without'} oob`, async (t) => {
    const gate = deferred<never[]>()
    const { client, fd, control } = await setUp(t, { 'query-jobs': () => gate.promise })
    const one = await client(oob ? ['oob'] : [])
    one.send(request('query-jobs'))
    // More than are kept: the rest waits in the connection.
    const names = Array.from({ length: 40 }, (_, index) => 'abc'[index % 3] as string)
    for (const [id, name] of names.entries()) one.sendWith(request('add-fd', { 'fdset-id': id }), [fd(name)])
    await pace(20)
    gate.resolve([])
    t.same(await one.next(), { return: [] })
    for (const id of names.keys()) t.match(await one.next(), { return: { 'fdset-id': id } })
    const got = control.descriptors.list().map(({ members }) => target(String(members[0]?.fd))?.slice(-1))
    t.same(got.reverse(), names)
  })
}

t.test('JSON-RPC commands find their descriptors, in a batch too', async (t) => {
  const { path, fd, held, control } = await setUp(t)
  const one = await ControlClient.passing(path)
  t.teardown(() => one.close())
  await one.next()
  const call = (id: number) => ({ jsonrpc: '2.0', id, method: 'add-fd', params: { 'fdset-id': id } })
  for (const [id, name] of ['a', 'b'].entries()) one.sendWith(JSON.stringify(call(id)), [fd(name)])
  one.sendWith(JSON.stringify([call(2), call(3)]), [fd('c'), fd('a')])
  t.match(await one.next(), { id: 0, result: { 'fdset-id': 0 } })
  t.match(await one.next(), { id: 1, result: { 'fdset-id': 1 } })
  t.match(await one.next(), [{ id: 2 }, { id: 3 }])
  const got = control.descriptors.list().map(({ members }) => target(String(members[0]?.fd))?.slice(-1))
  t.same(got.reverse(), ['a', 'b', 'c', 'a'])
  one.send(JSON.stringify(call(9)))
  t.match(await one.next(), { id: 9, error: { code: -32000, message: NONE.error.desc } })
  t.same(held(), ['a', 'a', 'b', 'c'])
})

t.test('a JSON-RPC command that takes long does not keep descriptors away from others', async (t) => {
  const gate = deferred<never[]>()
  const { path, fd } = await setUp(t, { 'query-jobs': () => gate.promise })
  const one = await ControlClient.passing(path)
  t.teardown(() => one.close())
  await one.next()
  one.send('{"jsonrpc":"2.0","id":"slow","method":"query-jobs"}')
  for (let round = 0; round < 40; round++) one.sendWith(' ', [fd('a')])
  one.sendWith('{"jsonrpc":"2.0","id":"quick","method":"add-fd"}', [fd('b')])
  t.match(await one.next(), { id: 'quick', result: { 'fdset-id': 0 } })
  gate.resolve([])
  t.match(await one.next(), { id: 'slow' })
})

t.test(
  'of three hundred descriptors at once sixteen are kept, and none when the client has gone',
  async (t) => {
    const { client, fd, settled } = await setUp(t)
    const one = await client()
    one.sendWith(' ', Array(150).fill(fd('a')))
    one.sendWith(' ', Array(150).fill(fd('b')))
    await one.call('query-version')
    t.same(await settled(...Array(16).fill('b')), Array(16).fill('b'))
    one.close()
    t.same(await settled(), [])
  },
)

t.test('a client that sends descriptors and never a command holds sixteen at most', async (t) => {
  const { client, fd, settled, control } = await setUp(t)
  const one = await client()
  for (let round = 0; round < 200; round++) one.sendWith(' ', [fd('a'), fd('b')])
  // The last thing it says is half a command.
  one.sendWith('{"execute": "getfd', [fd('c')])
  t.same(await settled('c'), ['c'])
  one.socket.end()
  while (control.clients('test') > 0) await pace(5)
  t.same(await settled(), [])
})

t.test('a client that leaves behind a slow command leaves no descriptor', async (t) => {
  const gate = deferred<never[]>()
  const { client, fd, settled, control } = await setUp(t, { 'query-jobs': () => gate.promise })
  const one = await client()
  one.send(request('query-jobs'))
  for (let round = 0; round < 30; round++) one.sendWith(request('getfd', { fdname: `n${round}` }), [fd('a')])
  t.equal((await settled(...Array(16).fill('a'))).length, 16)
  one.close()
  gate.resolve([])
  while (control.clients('test') > 0) await pace(5)
  t.same(await settled(), [])
})

t.test('a user of a set gets duplicates by access mode, as long as there are descriptors', async (t) => {
  const { control, settled } = await setUp(t)
  const { descriptors } = control
  const path = join(t.testdirName, 'a')
  for (const flags of ['r', 'a', 'r+']) descriptors.add(openSync(path, flags), 5, undefined)
  t.throws(() => descriptors.use(6), { message: 'Failed to find fdset /dev/fdset/6' })
  const use = descriptors.use(5)
  const { O_RDONLY, O_WRONLY, O_RDWR, O_CREAT } = constants
  for (const [flags, access] of [
    [O_RDONLY, 'read'],
    [O_WRONLY | O_CREAT, 'write'],
    [O_RDWR, 'both'],
  ] as const) {
    const fd = use.duplicate(flags)
    t.equal(accessOf(fd), access)
    closeSync(fd)
  }
  descriptors.remove(5, undefined)
  t.throws(() => use.duplicate(O_WRONLY | O_CREAT), {
    message: 'Failed to find file descriptor with matching flags=0x41',
  })
  t.same(descriptors.list(), [{ id: 5, members: [], users: 1 }])
  use.release()
  t.same(descriptors.list(), [])
  t.same(await settled(), [])
})

t.test('sets stay when the client has gone, and are shown highest first', async (t) => {
  const { client, fd } = await setUp(t)
  const one = await client()
  const add = async (args: object, name: string) => {
    one.sendWith(request('add-fd', args), [fd(name)])
    return ((await one.next()) as { return: { fd: number; 'fdset-id': number } }).return
  }
  const first = await add({ 'fdset-id': 7, opaque: 'rdonly:disk' }, 'a')
  const second = await add({ 'fdset-id': 7 }, 'b')
  t.match(await add({}, 'c'), { 'fdset-id': 0 })
  t.match(await add({ opaque: '' }, 'c'), { 'fdset-id': 1 })
  one.close()
  const other = await client()
  t.match(await other.call('query-fdsets'), {
    return: [
      { 'fdset-id': 7, fds: [{ fd: first.fd, opaque: 'rdonly:disk' }, { fd: second.fd }] },
      { 'fdset-id': 1, fds: [{ opaque: '' }] },
      { 'fdset-id': 0 },
    ],
  })
  t.match(await other.call('remove-fd', { 'fdset-id': 7, fd: 1_000_000 }), {
    error: { desc: "File descriptor named 'fdset-id:7, fd:1000000' not found" },
  })
  t.same(await other.call('remove-fd', { 'fdset-id': 7, fd: first.fd }), { return: {} })
  t.match(await other.call('query-fdsets'), { return: [{ fds: [{ fd: second.fd }] }, {}, {}] })
  t.same(await other.call('remove-fd', { 'fdset-id': 7 }), { return: {} })
  t.match(await other.call('remove-fd', { 'fdset-id': 7 }), {
    error: { desc: "File descriptor named 'fdset-id:7' not found" },
  })
})
