// SPDX-License-Identifier: Apache-2.0
// Nodes on NBD servers of others: the same bytes at both ends, and what a server's death or silence costs.

import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import t from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { newSeed, random, testGraph } from '../helpers/graph.js'
import { RunningServer, servers } from '../helpers/nbd/servers.js'
import type { QmpClient } from '../helpers/qmp-client.js'
import { difference, empty, fill, MiB, rawNode, Scratch } from '../helpers/scratch.js'
import { pace } from '../helpers/waiting.js'

t.setTimeout(240_000)

const [plain] = servers
if (plain === undefined) throw new Error('no servers')
const ANSWERS = 100

for (const kind of servers) {
  t.test(
    `${kind.name}: requests leave what a buffer holds after the same`,
    { skip: kind.absent },
    async (t) => {
      const seed = newSeed()
      t.comment(`seed ${seed}`)
      const pick = random(seed)
      using scratch = new Scratch()
      const size = 2 * MiB
      const model = Buffer.alloc(size)
      model.fill(0x11, MiB, MiB + 300_000)
      writeFileSync(scratch.file('disk'), model)
      await using server = await RunningServer.start(kind, scratch.file('nbd.sock'), scratch.file('disk'))
      const g = testGraph(t)
      const node = await g.add({ ...server.options, driver: 'nbd', 'node-name': 'n', discard: 'unmap' })
      for (let round = 0; round < 150; round++) {
        const offset = pick(size)
        const length = 1 + pick(Math.min(size - offset, pick(4) === 0 ? 400_000 : 9000))
        switch (pick(5)) {
          case 0: {
            const bytes = Buffer.alloc(length, pick(256))
            await g.write(node, offset, bytes)
            bytes.copy(model, offset)
            break
          }
          case 1:
            await node.zero(offset, length, { unmap: pick(2) === 0, fast: false })
            model.fill(0, offset, offset + length)
            break
          case 2:
            // What discarding leaves is undefined: both ends are told.
            await node.discard(offset, length)
            await node.zero(offset, length, { unmap: false, fast: false })
            model.fill(0, offset, offset + length)
            break
          case 3: {
            const extent = await node.status(offset, length)
            const part = model.subarray(offset, offset + extent.length)
            if (extent.kind === 'zero')
              t.ok(
                part.every((byte) => byte === 0),
                'what is told to be zero is zero',
              )
            break
          }
          default:
            if (
              Buffer.compare(await g.read(node, offset, length), model.subarray(offset, offset + length)) !==
              0
            )
              t.fail(`read of ${length} bytes at ${offset}`)
        }
      }
      await node.flush()
      await g.graph.remove('n')
      t.equal(Buffer.compare(readFileSync(scratch.file('disk')), model), 0, 'the same bytes')
    },
  )

  t.test(`${kind.name}: a mirror to it and one from it are equal`, { skip: kind.absent }, async (t) => {
    using scratch = new Scratch()
    fill(scratch.file('source'), 24 * MiB)
    truncateSync(scratch.file('source'), 40 * MiB)
    empty(scratch.file('served'), 40 * MiB)
    empty(scratch.file('back'), 40 * MiB)
    await using server = await RunningServer.start(kind, scratch.file('nbd.sock'), scratch.file('served'))
    await using daemon = await Daemon.start({ directory: scratch.path })
    const { client } = daemon
    await client.execute('blockdev-add', rawNode('source', scratch.file('source')))
    await client.execute('blockdev-add', rawNode('back', scratch.file('back')))
    await client.execute('blockdev-add', { ...server.options, 'node-name': 'net', discard: 'unmap' })
    await mirror(client, 'there', 'source', 'net')
    t.equal(difference(scratch.file('source'), scratch.file('served')), undefined)
    await mirror(client, 'home', 'net', 'back')
    t.equal(difference(scratch.file('source'), scratch.file('back')), undefined)
    await client.execute('blockdev-del', { 'node-name': 'net' })
  })
}

async function mirror(client: QmpClient, id: string, device: string, target: string): Promise<void> {
  await client.execute('blockdev-mirror', {
    'job-id': id,
    device,
    target,
    sync: 'full',
    'auto-dismiss': false,
  })
  await client.event('BLOCK_JOB_READY', (data) => data.device === id)
  await client.execute('job-complete', { id })
  await client.status(id, 'concluded')
  await client.execute('job-dismiss', { id })
}

/** A mirror so slow that it is in its midst, to a server that can be treated badly. */
async function midst(scratch: Scratch, client: QmpClient, server: RunningServer, options: object = {}) {
  fill(scratch.file('source'), 64 * MiB)
  await client.execute('blockdev-add', rawNode('source', scratch.file('source')))
  await client.execute('blockdev-add', { ...server.options, ...options, 'node-name': 'net' })
  const job = { 'job-id': 'job', device: 'source', target: 'net', sync: 'full', 'auto-dismiss': false }
  await client.execute('blockdev-mirror', { ...job, speed: 8 * MiB, 'buf-size': MiB })
  const progress = async () => {
    const [one] = (await client.execute('query-jobs')) as { 'current-progress': number }[]
    return one?.['current-progress'] ?? 0
  }
  while ((await progress()) === 0) await pace(5)
}

t.test(
  'a server that dies ends the job with an error, and nothing else',
  { skip: plain.absent },
  async (t) => {
    using scratch = new Scratch()
    empty(scratch.file('served'), 64 * MiB)
    await using server = await RunningServer.start(plain, scratch.file('nbd.sock'), scratch.file('served'))
    await using daemon = await Daemon.start({ directory: scratch.path })
    const { client } = daemon
    await midst(scratch, client, server)
    server.signal('SIGKILL')
    await client.status('job', 'concluded')
    t.match(await client.execute('query-jobs'), [
      { id: 'job', status: 'concluded', error: 'Input/output error' },
    ])
    await client.execute('job-dismiss', { id: 'job' })
    await client.execute('blockdev-del', { 'node-name': 'net' })
    await client.execute('blockdev-del', { 'node-name': 'source' })
  },
)

t.test(
  'a server that comes back within reconnect-delay costs time only',
  { skip: plain.absent },
  async (t) => {
    using scratch = new Scratch()
    empty(scratch.file('served'), 64 * MiB)
    const socket = scratch.file('nbd.sock')
    await using server = await RunningServer.start(plain, socket, scratch.file('served'))
    await using daemon = await Daemon.start({ directory: scratch.path })
    const { client } = daemon
    await midst(scratch, client, server, { 'reconnect-delay': 100 })
    await server[Symbol.asyncDispose]()
    await using _again = await RunningServer.start(plain, socket, scratch.file('served'))
    await client.execute('block-job-set-speed', { device: 'job', speed: 0 })
    await client.event('BLOCK_JOB_READY', () => true, 120_000)
    await client.execute('job-complete', { id: 'job' })
    await client.status('job', 'concluded')
    t.match(await client.execute('query-jobs'), [{ id: 'job', status: 'concluded', error: undefined }])
    t.equal(difference(scratch.file('source'), scratch.file('served')), undefined)
  },
)

t.test(
  'a job that was paused by the loss of its source goes on when it is told to, once',
  { skip: plain.absent },
  async (t) => {
    using scratch = new Scratch()
    fill(scratch.file('served'), 64 * MiB)
    empty(scratch.file('copy'), 64 * MiB)
    const socket = scratch.file('nbd.sock')
    await using server = await RunningServer.start(plain, socket, scratch.file('served'))
    await using daemon = await Daemon.start({ directory: scratch.path })
    const { client } = daemon
    await client.execute('blockdev-add', { ...server.options, 'node-name': 'net' })
    await client.execute('blockdev-add', rawNode('copy', scratch.file('copy')))
    const job = { 'job-id': 'job', device: 'net', target: 'copy', sync: 'full', 'auto-dismiss': false }
    const slow = { speed: 8 * MiB, 'buf-size': MiB, 'on-source-error': 'stop' }
    await client.execute('blockdev-mirror', { ...job, ...slow })
    await server[Symbol.asyncDispose]()
    await client.event('BLOCK_JOB_ERROR', (data) => data.action === 'stop')
    await client.status('job', 'paused')
    await using _again = await RunningServer.start(plain, socket, scratch.file('served'))
    await client.execute('block-job-set-speed', { device: 'job', speed: 0 })
    await client.execute('job-resume', { id: 'job' })
    await client.event('BLOCK_JOB_READY', () => true, 60_000)
    await client.execute('job-complete', { id: 'job' })
    await client.status('job', 'concluded')
    t.equal(difference(scratch.file('served'), scratch.file('copy')), undefined)
  },
)

t.test(
  'a server that stalls costs its own job only, which can be cancelled',
  { skip: plain.absent },
  async (t) => {
    using scratch = new Scratch()
    empty(scratch.file('served'), 64 * MiB)
    fill(scratch.file('other'), 16 * MiB, 7)
    empty(scratch.file('other.copy'), 16 * MiB)
    await using server = await RunningServer.start(plain, scratch.file('nbd.sock'), scratch.file('served'))
    await using daemon = await Daemon.start({ directory: scratch.path })
    const { client } = daemon
    await midst(scratch, client, server)
    server.signal('SIGSTOP')
    for (let answers = 0; answers < ANSWERS; answers++) {
      await client.execute('query-jobs', {}, 5000)
      await client.execute('query-named-block-nodes', {}, 5000)
    }
    await client.execute('blockdev-add', rawNode('other', scratch.file('other')))
    await client.execute('blockdev-add', rawNode('copy', scratch.file('other.copy')))
    await mirror(client, 'second', 'other', 'copy')
    t.equal(difference(scratch.file('other'), scratch.file('other.copy')), undefined)
    await client.execute('block-job-cancel', { device: 'job', force: true })
    await client.status('job', 'concluded')
    await client.execute('job-dismiss', { id: 'job' })
    await client.execute('blockdev-del', { 'node-name': 'net' })
    t.equal(await daemon.stop(10_000), undefined)
  },
)

t.test('a daemon whose server stalls ends when it is told to', { skip: plain.absent }, async (t) => {
  using scratch = new Scratch()
  empty(scratch.file('served'), 64 * MiB)
  await using server = await RunningServer.start(plain, scratch.file('nbd.sock'), scratch.file('served'))
  await using daemon = await Daemon.start({ directory: scratch.path })
  await midst(scratch, daemon.client, server)
  server.signal('SIGSTOP')
  t.equal(await daemon.stop(20_000), undefined)
})

t.test('only who adds a node on a silent server waits for it', async (t) => {
  using scratch = new Scratch()
  const sockets: Socket[] = []
  const path = scratch.file('silent.sock')
  const silent = createServer((socket) => sockets.push(socket.on('error', () => undefined))).listen(path)
  await using daemon = await Daemon.start({ directory: scratch.path })
  const other = await daemon.connect()
  const adding = daemon.client
    .execute('blockdev-add', { driver: 'nbd', 'node-name': 'net', server: { type: 'unix', path } }, 60_000)
    .catch((error: Error) => error.message)
  for (let answers = 0; answers < ANSWERS; answers++) await other.execute('query-jobs', {}, 5000)
  while (sockets.length === 0) await pace(5)
  for (const socket of sockets) socket.end()
  t.equal(await adding, 'Failed to read initial magic: Unexpected end-of-file before all data were read')
  silent.close()
})

t.test('a daemon that waits for a silent server ends when it is told to', async (t) => {
  using scratch = new Scratch()
  const sockets: Socket[] = []
  const path = scratch.file('silent.sock')
  const silent = createServer((socket) => sockets.push(socket.on('error', () => undefined))).listen(path)
  await using daemon = await Daemon.start({ directory: scratch.path })
  daemon.client
    .execute('blockdev-add', { driver: 'nbd', 'node-name': 'net', server: { type: 'unix', path } }, 60_000)
    .catch(() => undefined)
  while (sockets.length === 0) await pace(5)
  t.equal(await daemon.stop(20_000), undefined)
  for (const socket of sockets) socket.destroy()
  silent.close()
})
