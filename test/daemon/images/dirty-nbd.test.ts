// SPDX-License-Identifier: Apache-2.0
// Dirty extents of tickets whose URL is an NBD export: the server's one dirty bitmap, as QEMU's client maps it.

import { execFileSync, spawnSync } from 'node:child_process'
import t, { type Test } from 'tap'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { RunningServer, type ServerKind } from '../../helpers/nbd/servers.js'
import { installed } from '../../helpers/program.js'
import { QmpClient } from '../../helpers/qmp-client.js'
import { MiB, Scratch } from '../../helpers/scratch.js'

const skip = ['qemu-nbd', 'qemu-img', 'qemu-io'].every((name) => installed(name)) ? false : 'no qemu-nbd'
const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
const daemon = await ImagesDaemon.start(scratch)
t.teardown(() => daemon[Symbol.asyncDispose]())
const SIZE = 8 * MiB

/** Serves a qcow2 image as export `disk`, with some bitmap. */
const kind = (...more: readonly string[]): ServerKind => ({
  ...{ name: 'qemu-nbd', absent: skip, minimum: 1 },
  command: (socket, file, pid) => [
    'qemu-nbd',
    ...['-t', '-k', socket, '-f', 'qcow2', '-x', 'disk', `--pid-file=${pid}`, ...more, file],
  ],
})

function io(name: string, ...commands: readonly string[]): void {
  const args = ['-f', 'qcow2', ...commands.flatMap((each) => ['-c', each]), scratch.file(name)]
  execFileSync('qemu-io', args, { stdio: 'ignore' })
}

/** An image with bitmaps that have recorded some writes, and zeroes before them. */
function image(name: string, ...bitmaps: readonly string[]): string {
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', scratch.file(name), String(SIZE)])
  io(name, 'write -P 9 3M 64k')
  for (const bitmap of bitmaps)
    execFileSync('qemu-img', ['bitmap', '--add', '-g', '64k', scratch.file(name), bitmap])
  io(name, 'write -P 1 64k 128k', 'write -z 1M 64k', 'write -P 2 6M 1M')
  return scratch.file(name)
}

async function ticket(id: string, { socket }: { socket: string }, more: object = {}): Promise<void> {
  const url = `nbd:unix:${socket}:exportname=disk`
  await daemon.ticket(id, '', SIZE, { url, dirty: true, ops: ['read'], ...more })
}

/** Ranges that QEMU's client sees as dirty. */
function theirs({ socket }: { socket: string }) {
  const context = 'x-dirty-bitmap=qemu:dirty-bitmap:b'
  const opts = `driver=nbd,server.type=unix,server.path=${socket},export=disk,${context}`
  const { stdout } = spawnSync('qemu-img', ['map', '--output=json', '--image-opts', opts], {
    encoding: 'utf8',
  })
  const extents = JSON.parse(stdout) as { start: number; length: number; data: boolean }[]
  return extents.filter(({ data }) => !data).map(({ start, length }) => ({ start, length }))
}

interface DirtyExtent {
  readonly start: number
  readonly length: number
  readonly dirty: boolean
  readonly zero: boolean
}

async function dirtyExtents(t: Test, id: string): Promise<readonly DirtyExtent[]> {
  const { status, text } = await daemon.images('GET', `${id}/extents?context=dirty`)
  t.equal(status, 200)
  return JSON.parse(text)
}

t.test('the one bitmap that the server offers is told, beside what reads as zeroes', { skip }, async (t) => {
  const server = await RunningServer.start(kind('-B', 'b', '-e', '4'), scratch.file('s1'), image('one', 'b'))
  await using _server = server
  await ticket('one', server)
  const listed = await dirtyExtents(t, 'one')
  t.strictSame(listed, [
    { start: 0, length: 65536, dirty: false, zero: true },
    { start: 65536, length: 131072, dirty: true, zero: false },
    { start: 196608, length: MiB - 196608, dirty: false, zero: true },
    { start: MiB, length: 65536, dirty: true, zero: true },
    { start: MiB + 65536, length: 2 * MiB - 65536, dirty: false, zero: true },
    { start: 3 * MiB, length: 65536, dirty: false, zero: false },
    { start: 3 * MiB + 65536, length: 3 * MiB - 65536, dirty: false, zero: true },
    { start: 6 * MiB, length: MiB, dirty: true, zero: false },
    { start: 7 * MiB, length: MiB, dirty: false, zero: true },
  ])
  const dirty = listed.filter((each) => each.dirty).map(({ start, length }) => ({ start, length }))
  t.strictSame(dirty, theirs(server))
  t.match((await daemon.images('GET', 'one/extents')).text, /^\[\{"start":0,"length":65536,"zero":true/)
  await daemon.tickets('DELETE', 'one')
})

t.test('what is written under one ticket is dirty under another at once', { skip }, async (t) => {
  const server = await RunningServer.start(kind('-B', 'b'), scratch.file('s2'), image('live', 'b'))
  await using _server = server
  await ticket('writer', server, { ops: ['write'], dirty: false })
  t.equal((await daemon.images('OPTIONS', 'writer')).status, 200)
  await ticket('reader', server)
  const before = await dirtyExtents(t, 'reader')
  t.notOk(before.some(({ start, dirty }) => start === 4 * MiB && dirty))
  const at = { 'content-range': `bytes ${4 * MiB}-*/*` }
  t.equal((await daemon.images('PUT', 'writer', at, Buffer.alloc(65536, 5))).status, 200)
  const after = await dirtyExtents(t, 'reader')
  t.match(
    after.filter(({ start }) => start === 4 * MiB),
    [{ length: 65536, dirty: true, zero: false }],
  )
  t.equal((await daemon.images('GET', 'writer/extents?context=dirty')).status, 404, 'its ticket is silent')
  for (const id of ['writer', 'reader']) await daemon.tickets('DELETE', id)
})

t.test('without a bitmap there are no dirty extents', { skip }, async (t) => {
  const server = await RunningServer.start(kind(), scratch.file('s3'), image('none'))
  await using _server = server
  await ticket('none', server)
  t.match(await daemon.images('GET', 'none/extents?context=dirty'), { status: 404, text: /dirty/ })
  t.equal((await daemon.images('GET', 'none/extents')).status, 200)
  await daemon.tickets('DELETE', 'none')
})

t.test(
  'which of several bitmaps is meant nobody says, so there are no dirty extents',
  { skip },
  async (t) => {
    const client = await QmpClient.connect(scratch.file('qmp'))
    t.teardown(() => client.close())
    const file = { driver: 'file', filename: image('two', 'b', 'c') }
    await client.execute('blockdev-add', { driver: 'qcow2', 'node-name': 'two', file })
    const socket = scratch.file('s4')
    await client.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } })
    const shown = { type: 'nbd', id: 'e', 'node-name': 'two', name: 'disk' }
    await client.execute('block-export-add', { ...shown, writable: true, bitmaps: ['b', 'c'] })
    await ticket('two', { socket })
    t.equal((await daemon.images('GET', 'two/extents?context=dirty')).status, 404)
    t.equal((await daemon.images('GET', 'two/extents')).status, 200)
    await daemon.tickets('DELETE', 'two')
  },
)
