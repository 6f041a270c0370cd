// SPDX-License-Identifier: Apache-2.0
// Tickets on one file or export share one node, whoever came first: who reads sees what others write.

import { linkSync, readFileSync, renameSync, truncateSync } from 'node:fs'
import t, { type Test } from 'tap'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { RunningServer, servers } from '../../helpers/nbd/servers.js'
import { QmpClient } from '../../helpers/qmp-client.js'
import { empty, MiB, Scratch } from '../../helpers/scratch.js'

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
const daemon = await ImagesDaemon.start(scratch)
t.teardown(() => daemon[Symbol.asyncDispose]())
const qmp = await QmpClient.connect(scratch.file('qmp'))
t.teardown(() => qmp.close())

interface NamedNode {
  readonly drv: string
  readonly ro: boolean
}

async function nodes(): Promise<readonly NamedNode[]> {
  return (await qmp.execute('query-named-block-nodes')) as readonly NamedNode[]
}

async function dataOf(t: Test, id: string): Promise<{ readonly start: number; readonly length: number }[]> {
  const { status, text } = await daemon.images('GET', `${id}/extents`)
  t.equal(status, 200)
  const extents = JSON.parse(text) as { start: number; length: number; zero: boolean }[]
  return extents.filter(({ zero }) => !zero).map(({ start, length }) => ({ start, length }))
}

const put = (id: string, offset: number, bytes: Uint8Array) =>
  daemon.images('PUT', `${id}?flush=n`, { 'content-range': `bytes ${offset}-*/*` }, bytes)

async function remove(...ids: readonly string[]): Promise<void> {
  for (const id of ids) await daemon.tickets('DELETE', id)
}

t.test('a reader that came first sees what a later writer writes, in one node', async (t) => {
  empty(scratch.file('file'), 4 * MiB)
  linkSync(scratch.file('file'), scratch.file('link'))
  await daemon.ticket('reader', 'file', 8 * MiB, { ops: ['read'] })
  t.strictSame(await dataOf(t, 'reader'), [])
  t.match(await nodes(), [{ drv: 'file', ro: true }])
  await daemon.ticket('writer', 'link', 8 * MiB)
  t.equal((await put('writer', MiB, Buffer.alloc(MiB, 7))).status, 200)
  t.match(await nodes(), [{ drv: 'file', ro: false }])
  t.equal((await nodes()).length, 1)
  t.strictSame(await dataOf(t, 'reader'), [{ start: MiB, length: MiB }])
  t.equal((await put('writer', 5 * MiB, Buffer.alloc(MiB, 8))).status, 200)
  const { bytes } = await daemon.images('GET', 'reader')
  t.equal(Buffer.compare(bytes, readFileSync(scratch.file('file'))), 0)
  t.equal((await put('reader', 0, Buffer.alloc(1))).status, 403, 'its ticket allows what it did')
  await remove('writer')
  t.equal((await daemon.images('GET', 'reader')).status, 200)
  t.equal((await nodes()).length, 1)
  await remove('reader')
  t.equal((await nodes()).length, 0)
})

t.test('a writer does not get the file that took the name of the one readers have', async (t) => {
  for (const name of ['own', 'other']) empty(scratch.file(name), MiB)
  linkSync(scratch.file('own'), scratch.file('own-link'))
  await daemon.ticket('reader', 'own', MiB, { ops: ['read'] })
  t.strictSame(await dataOf(t, 'reader'), [])
  renameSync(scratch.file('other'), scratch.file('own'))
  await daemon.ticket('writer', 'own-link', MiB)
  t.equal((await put('writer', 0, Buffer.alloc(4096, 7))).status, 500)
  t.equal(
    Buffer.compare(readFileSync(scratch.file('own')), Buffer.alloc(MiB)),
    0,
    'the other file is as it was',
  )
  t.equal((await daemon.images('GET', 'reader')).status, 200)
  t.match(await nodes(), [{ ro: true }])
  await remove('reader')
  t.equal((await put('writer', 0, Buffer.alloc(4096, 7))).status, 200)
  t.equal(readFileSync(scratch.file('own-link'))[0], 7)
  await remove('writer')
})

t.test('a writer sees how long the file is that grew under readers', async (t) => {
  empty(scratch.file('longer'), MiB)
  await daemon.ticket('reader', 'longer', 4 * MiB, { ops: ['read'] })
  t.equal((await daemon.images('GET', 'reader')).bytes.length, MiB)
  truncateSync(scratch.file('longer'), 2 * MiB)
  await daemon.ticket('writer', 'longer', 4 * MiB)
  t.equal((await daemon.images('GET', 'writer')).bytes.length, 2 * MiB)
  await remove('reader', 'writer')
})

t.test('many that come at once share one node', async (t) => {
  empty(scratch.file('many'), 4 * MiB)
  const ids = Array.from({ length: 12 }, (_, index) => `many${index}`)
  for (const [index, id] of ids.entries())
    await daemon.ticket(id, 'many', 4 * MiB, { ops: index % 2 === 0 ? ['read'] : ['write'] })
  const replies = await Promise.all(
    ids.map((id, index) =>
      index % 2 === 0
        ? daemon.images('GET', id, { range: 'bytes=0-9' })
        : put(id, index * 4096, Buffer.alloc(4096, index)),
    ),
  )
  t.strictSame([...new Set(replies.map(({ status }) => status))], [206, 200])
  t.equal((await nodes()).length, 1)
  for (const id of ids)
    t.equal(Buffer.compare((await daemon.images('GET', id)).bytes, readFileSync(scratch.file('many'))), 0)
  await remove(...ids)
  t.equal((await nodes()).length, 0)
})

const [kind] = servers
t.test(
  'a server with room for one client serves readers and writers',
  { skip: kind?.absent ?? 'no servers' },
  async (t) => {
    empty(scratch.file('served'), 2 * MiB)
    await using server = await RunningServer.start(kind!, scratch.file('nbd'), scratch.file('served'))
    const url = `nbd:unix:${server.socket}:exportname=disk`
    await daemon.ticket('reader', '', 2 * MiB, { url, ops: ['read'] })
    t.strictSame(await dataOf(t, 'reader'), [])
    await daemon.ticket('writer', '', 2 * MiB, { url })
    t.equal((await put('writer', MiB, Buffer.alloc(65536, 7))).status, 200)
    t.strictSame(await dataOf(t, 'reader'), [{ start: MiB, length: 65536 }])
    t.equal((await nodes()).length, 1)
    await remove('reader', 'writer')
  },
)

t.test(
  'a writer is refused where the server serves to read, and readers go on',
  { skip: kind?.absent ?? 'no servers' },
  async (t) => {
    empty(scratch.file('fixed'), 2 * MiB)
    const only = {
      ...kind!,
      command: (...of: [string, string, string]) => [...kind!.command(...of), '-r'] as [string, ...string[]],
    }
    await using server = await RunningServer.start(only, scratch.file('nbd-r'), scratch.file('fixed'))
    const url = `nbd:unix:${server.socket}:exportname=disk`
    await daemon.ticket('reader', '', 2 * MiB, { url, ops: ['read'] })
    t.equal((await daemon.images('GET', 'reader')).status, 200)
    await daemon.ticket('writer', '', 2 * MiB, { url })
    t.equal((await put('writer', 0, Buffer.alloc(1))).status, 500)
    t.equal((await daemon.images('GET', 'reader')).status, 200)
    t.match(await nodes(), [{ ro: true }])
    await remove('reader', 'writer')
  },
)
