// SPDX-License-Identifier: Apache-2.0
// A thousand NBD clients at once, good ones and all kinds of bad ones: the good are served, commands are answered between,
// memory stays bounded, and nothing is left when they have gone.

import { connect, type Socket } from 'node:net'
import t from 'tap'
import { commands } from '../../protocol/nbd/constants.js'
import { Daemon } from '../helpers/daemon.js'
import { type Answer, type NbdClient, negotiate } from '../helpers/nbd/client.js'
import { pattern } from '../helpers/nbd/served.js'
import type { QmpClient } from '../helpers/qmp-client.js'
import { empty, MiB, rawNode, Scratch } from '../helpers/scratch.js'

t.setTimeout(300_000)

const CLIENTS = 1000
/** Connections that are made at once: a listening socket has a queue of some hundreds. */
const AT_ONCE = 100
/** Bytes of the disk that each client has to itself. */
const PART = 64 * 1024
const MOST_MEMORY = 640 * MiB

type Kind = (client: NbdClient, index: number) => Promise<string | undefined>

/** Writes and reads back a part of its own. @returns what is wrong */
const good: Kind = async (client, index) => {
  const bytes = pattern(index * PART, 50_000, index)
  const { error } = await client.write(index * PART, bytes)
  const { data } = await client.read(index * PART, bytes.length)
  return error === 0 && data.equals(bytes) ? undefined : `error ${error}, or other bytes`
}

/** Replies that nobody reads at first. */
const unread: Promise<Answer>[] = []

const kinds: readonly { readonly name: string; readonly kind: Kind }[] = [
  { name: 'good', kind: good },
  { name: 'good', kind: good },
  { name: 'idle', kind: async () => undefined },
  {
    name: 'byte by byte',
    kind: async (client, index) => {
      const { bytes, answer } = client.prepare({ command: commands.READ, offset: index * PART, length: 512 })
      for (const byte of bytes) {
        client.socket.write(Uint8Array.of(byte))
        await new Promise((resolve) => setImmediate(resolve))
      }
      return (await answer).error === 0 ? undefined : 'an error'
    },
  },
  {
    name: 'half open',
    kind: async (client, index) => {
      const answer = client.read(index * PART, 32_768)
      client.socket.end()
      return (await answer).error === 0 ? undefined : 'an error'
    },
  },
  {
    name: 'does not read',
    kind: async (client, index) => {
      client.socket.pause()
      const at = (index * PART) % (32 * MiB)
      for (let count = 0; count < 8; count++) unread.push(client.read(at, 256 * 1024))
      return undefined
    },
  },
  {
    name: 'leaves in the middle of a write',
    kind: async (client, index) => {
      const write = {
        command: commands.WRITE,
        offset: index * PART,
        length: PART,
        payload: Buffer.alloc(PART),
      }
      client.socket.write(client.prepare(write).bytes.subarray(0, 20_000))
      client.socket.destroy()
      return undefined
    },
  },
  {
    name: 'leaves with replies unread',
    kind: async (client, index) => {
      client.socket.pause()
      client.socket.write(
        client.prepare({ command: commands.READ, offset: index * PART, length: PART }).bytes,
        () => client.socket.destroy(),
      )
      return undefined
    },
  },
]

async function sockets(daemon: Daemon): Promise<number> {
  await daemon.settledDescriptors()
  return daemon.descriptors().filter((name) => name.startsWith('socket:')).length
}

async function users(control: QmpClient): Promise<number> {
  const [found] = (await control.execute('query-block-exports', {}, 20_000)) as { 'x-clients': number }[]
  return found?.['x-clients'] ?? -1
}

t.test('a thousand clients of all kinds', async (t) => {
  using scratch = new Scratch()
  await using daemon = await Daemon.start({ directory: scratch.path })
  const { client: control } = daemon
  empty(scratch.file('disk'), CLIENTS * PART)
  const path = scratch.file('nbd.sock')
  await control.execute('blockdev-add', rawNode('disk', scratch.file('disk')))
  const server = { addr: { type: 'unix', data: { path } }, 'max-connections': 0, 'handshake-max-seconds': 0 }
  await control.execute('nbd-server-start', server)
  await control.execute('block-export-add', { type: 'nbd', id: 'e', 'node-name': 'disk', writable: true })
  const before = await sockets(daemon)

  const clients: NbdClient[] = []
  while (clients.length < CLIENTS) {
    const more = Array.from({ length: AT_ONCE }, () =>
      negotiate(connect({ path, allowHalfOpen: true }), { exportName: 'disk' }),
    )
    clients.push(...(await Promise.all(more)))
    await users(control)
  }
  // The daemon hears of a choice after its client was answered.
  while ((await users(control)) !== CLIENTS) await new Promise((resolve) => setImmediate(resolve))

  const wrong: string[] = []
  let working = CLIENTS
  const all = clients.map(async (client, index) => {
    const { name, kind } = kinds[index % kinds.length] ?? { name: '', kind: good }
    try {
      const why = await kind(client, index)
      if (why !== undefined) wrong.push(`${name} ${index}: ${why}`)
    } catch (error) {
      wrong.push(`${name} ${index}: ${(error as Error).message}`)
    }
    working--
  })
  let answers = 0
  while (working > 0) {
    await users(control)
    answers++
  }
  await Promise.all(all)
  t.strictSame(wrong, [])
  t.ok(answers > 0, `${answers} commands were answered meanwhile`)

  // Who did not read does so now, and nothing is missing.
  const late = clients.filter((_, index) => kinds[index % kinds.length]?.name === 'does not read')
  t.ok(late.every((client) => client.unanswered > 0))
  for (const { socket } of late) socket.resume()
  t.ok((await Promise.all(unread)).every(({ error }) => error === 0))
  const { peak } = daemon.memory()
  t.ok(peak < MOST_MEMORY, `${Math.round(peak / MiB)} MiB at most`)

  for (const { socket } of clients) socket.destroy()
  while ((await users(control)) !== 0) await new Promise((resolve) => setImmediate(resolve))
  await control.execute('block-export-del', { id: 'e' })
  await control.execute('blockdev-del', { 'node-name': 'disk' })
  t.equal(await sockets(daemon), before, 'no connection is left')
})

t.test('a thousand that say nothing in their handshake: others are served, commands answered', async (t) => {
  using scratch = new Scratch()
  await using daemon = await Daemon.start({ directory: scratch.path })
  const { client: control } = daemon
  empty(scratch.file('disk'), MiB)
  const path = scratch.file('nbd.sock')
  await control.execute('blockdev-add', rawNode('disk', scratch.file('disk')))
  const server = { addr: { type: 'unix', data: { path } }, 'max-connections': 0, 'handshake-max-seconds': 0 }
  await control.execute('nbd-server-start', server)
  await control.execute('block-export-add', { type: 'nbd', id: 'e', 'node-name': 'disk', writable: true })
  const silent: Socket[] = []
  for (let made = 0; made < CLIENTS; made += AT_ONCE) {
    const greeted = Array.from({ length: AT_ONCE }, () => {
      const socket = connect(path)
      silent.push(socket)
      return new Promise((resolve) => socket.once('data', resolve))
    })
    await Promise.all(greeted)
    await users(control)
  }
  const client = await negotiate(connect(path), { exportName: 'disk' })
  t.equal(await good(client, 0), undefined)
  for (const socket of silent) socket.destroy()
  t.equal(await good(client, 1), undefined)
  client.socket.destroy()
  await control.execute('nbd-server-stop')
})
