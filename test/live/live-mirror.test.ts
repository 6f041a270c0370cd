// SPDX-License-Identifier: Apache-2.0
// Disks that are mirrored while clients of their NBD exports use them: the clients see one disk, whatever is below it,
// and the images are what the jobs say they are.

import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import t, { type Test } from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { newSeed, random } from '../helpers/graph.js'
import { GuestClient } from '../helpers/nbd/guest-client.js'
import { installed } from '../helpers/program.js'
import type { QmpClient } from '../helpers/qmp-client.js'
import { difference, empty, fill, MiB, rawNode, Scratch } from '../helpers/scratch.js'
import { BLOCK, StampedDisk } from '../helpers/stamped-disk.js'
import { pace } from '../helpers/waiting.js'

const SIZE = 16 * MiB

/** A daemon that serves disk `d0` as export `disk`. */
async function served(scratch: Scratch): Promise<{ daemon: Daemon; client: QmpClient; socket: string }> {
  const daemon = await Daemon.start({ directory: scratch.path })
  const { client } = daemon
  const socket = scratch.file('nbd.sock')
  await client.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } })
  await addDisk(client, scratch, 0)
  await serve(client, 'd0')
  return { daemon, client, socket }
}

async function addDisk(client: QmpClient, scratch: Scratch, number: number): Promise<void> {
  empty(scratch.file(`d${number}`), SIZE)
  await client.execute('blockdev-add', rawNode(`d${number}`, scratch.file(`d${number}`)))
}

async function serve(client: QmpClient, node: string): Promise<void> {
  await client.execute('block-export-add', {
    ...{ type: 'nbd', id: 'e', name: 'disk', 'node-name': node, writable: true },
  })
}

async function mirror(client: QmpClient, from: number, more: object = {}): Promise<void> {
  client.events.length = 0
  await client.execute('blockdev-mirror', {
    ...{ 'job-id': 'j', device: `d${from}`, target: `d${from + 1}`, sync: 'full' },
    ...more,
  })
}

async function servedNode(client: QmpClient): Promise<string | undefined> {
  const exports = (await client.execute('query-block-exports')) as { 'node-name': string }[]
  return exports[0]?.['node-name']
}

/** A guest with several requests under way, over connections of its own. */
async function guestOn(socket: string, below: (below: number) => number) {
  const connection = await GuestClient.connect(socket, 'disk')
  const stamped = new StampedDisk(connection, SIZE / BLOCK, below)
  const running = stamped.run(4, 2, () => pace(below(3)))
  running.catch(() => undefined)
  const end = async () => {
    stamped.stop()
    await running
    await stamped.verify()
    connection.end()
  }
  return { stamped, running, end }
}

for (const mode of ['background', 'write-blocking'])
  t.test(`a guest goes from disk to disk, with copy-mode ${mode}`, async (t) => {
    const seed = newSeed()
    t.comment(`seed ${seed}`)
    using scratch = new Scratch()
    const { daemon, client, socket } = await served(scratch)
    await using _ = daemon
    const guest = await guestOn(socket, random(seed))
    for (let at = 0; at < 4; at++) {
      await addDisk(client, scratch, at + 1)
      await mirror(client, at, { 'copy-mode': mode, 'filter-node-name': 'top' })
      t.equal(await servedNode(client), 'top')
      await Promise.race([client.event('BLOCK_JOB_READY'), guest.running])
      await client.execute('job-complete', { id: 'j' })
      const { data } = await client.event('BLOCK_JOB_COMPLETED')
      t.equal(data.error, undefined)
      t.equal(await servedNode(client), `d${at + 1}`)
      await t.rejects(client.execute('blockdev-del', { 'node-name': `d${at + 1}` }), {
        message: `Node d${at + 1} is in use`,
      })
      await client.status('j', 'null')
      await client.execute('blockdev-del', { 'node-name': `d${at}` })
    }
    await guest.end()
    t.comment(`${guest.stamped.requests} requests`)
    t.equal(await daemon.stop(), undefined)
  })

t.test(
  'a guest goes to a qcow2 image and on',
  { skip: installed('qemu-img') ? false : 'no qemu-img' },
  async (t) => {
    const seed = newSeed()
    t.comment(`seed ${seed}`)
    using scratch = new Scratch()
    const { daemon, client, socket } = await served(scratch)
    await using _ = daemon
    const guest = await guestOn(socket, random(seed))
    const image = scratch.file('d1')
    spawnSync('qemu-img', ['create', '-q', '-f', 'qcow2', image, String(SIZE)])
    await client.execute('blockdev-add', {
      ...{ driver: 'qcow2', 'node-name': 'd1', file: { driver: 'file', filename: image } },
    })
    await addDisk(client, scratch, 2)
    for (const from of [0, 1]) {
      await mirror(client, from)
      await Promise.race([client.event('BLOCK_JOB_READY'), guest.running])
      await client.execute('job-complete', { id: 'j' })
      const { data } = await client.event('BLOCK_JOB_COMPLETED')
      t.equal(data.error, undefined)
      await client.status('j', 'null')
      // It uses the image for a while.
      const enough = guest.stamped.requests + 100
      while (guest.stamped.requests < enough && !guest.stamped.stopped) await pace(5)
      await client.execute('blockdev-del', { 'node-name': `d${from}` })
    }
    await guest.end()
    const { status, stdout, stderr } = spawnSync('qemu-img', ['check', '-f', 'qcow2', image], {
      encoding: 'utf8',
    })
    t.equal(status, 0, `${stdout}${stderr}`)
  },
)

t.test('a copy of a disk in use is what the disk was when the job ended', async (t) => {
  using scratch = new Scratch()
  const { daemon, client, socket } = await served(scratch)
  await using _ = daemon
  const guest = await guestOn(socket, random(newSeed()))
  await addDisk(client, scratch, 1)
  await mirror(client, 0, { 'auto-finalize': false })
  await client.event('BLOCK_JOB_READY')
  await client.execute('block-job-cancel', { device: 'j' })
  await client.event('BLOCK_JOB_PENDING')
  t.equal(difference(scratch.file('d0'), scratch.file('d1')), undefined, 'the guest waits')
  await client.execute('job-finalize', { id: 'j' })
  t.equal(await servedNode(client), 'd0')
  await guest.end()
  await client.execute('blockdev-del', { 'node-name': 'd1' })
})

t.test('an export that comes while its node is mirrored moves too', async (t) => {
  using scratch = new Scratch()
  const { daemon, client, socket } = await served(scratch)
  await using _ = daemon
  await client.execute('block-export-del', { id: 'e' })
  await addDisk(client, scratch, 1)
  await mirror(client, 0)
  await client.event('BLOCK_JOB_READY')
  await serve(client, 'd0')
  const connection = await GuestClient.connect(socket, 'disk')
  await connection.write(0, Buffer.alloc(BLOCK, 1))
  await client.execute('job-complete', { id: 'j' })
  await client.status('j', 'null')
  t.equal(await servedNode(client), 'd1')
  await connection.write(BLOCK, Buffer.alloc(BLOCK, 2))
  t.same(await connection.read(0, BLOCK), Buffer.alloc(BLOCK, 1))
  connection.end()
  await client.execute('blockdev-del', { 'node-name': 'd0' })
  const other = await GuestClient.connect(socket, 'disk')
  t.same(await other.read(BLOCK, BLOCK), Buffer.alloc(BLOCK, 2))
  other.end()
})

t.test('a target that is exported is refused, and so are two exported disks', async (t) => {
  using scratch = new Scratch()
  const { daemon, client } = await served(scratch)
  await using _ = daemon
  await addDisk(client, scratch, 1)
  await client.execute('blockdev-add', rawNode('plain', scratch.file('d1')))
  const args = { 'job-id': 'j', device: 'plain', target: 'd0', sync: 'full' }
  await t.rejects(client.execute('blockdev-mirror', args), { message: /^Permission conflict on node 'd0'/ })
  await client.execute('block-export-add', { type: 'nbd', id: 'f', 'node-name': 'd1', writable: true })
  await t.rejects(mirror(client, 0), { message: /cannot be joined$/ })
  t.same(await client.execute('query-jobs'), [])
})

/** Programs that use a disk through its export. */
const programs: {
  name: string
  absent: string | false
  command: (uri: string, scratch: Scratch) => string[]
}[] = [
  {
    name: 'nbdcopy',
    absent: installed('nbdcopy') ? false : 'no nbdcopy',
    command: (uri, scratch) => ['nbdcopy', '--requests=16', scratch.file('content'), uri],
  },
  // One at a time it is on a lane between the moves.
  ...[8, 1].map((depth) => ({
    name: `fio, ${depth} at once,`,
    absent: installed('fio') ? (false as const) : 'no fio',
    command: (uri: string) => [
      ...[
        'fio',
        '--name=w',
        '--ioengine=nbd',
        `--uri=${uri}`,
        '--rw=randwrite',
        '--bs=4k',
        `--iodepth=${depth}`,
      ],
      ...['--verify=crc32c', '--do_verify=1', '--verify_state_save=0', `--size=${SIZE}`, '--rate_iops=4000'],
    ],
  })),
]

for (const { name, absent, command } of programs)
  t.test(`${name} writes through a move, and the new disk has it all`, { skip: absent }, async (t) => {
    using scratch = new Scratch()
    const { daemon, client, socket } = await served(scratch)
    await using _ = daemon
    fill(scratch.file('content'), SIZE)
    const [program = '', ...args] = command(`nbd+unix:///disk?socket=${socket}`, scratch)
    const writer = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] })
    const said = collected(writer.stderr)
    const ended = once(writer, 'close')
    let moves = 0
    for (let over = false; !over || moves === 0; moves++) {
      await addDisk(client, scratch, moves + 1)
      await mirror(client, moves, { 'copy-mode': 'write-blocking' })
      await client.event('BLOCK_JOB_READY')
      await client.execute('job-complete', { id: 'j' })
      await client.status('j', 'null')
      await client.execute('blockdev-del', { 'node-name': `d${moves}` })
      over = writer.exitCode !== null
    }
    const [status] = await ended
    t.equal(status, 0, said())
    t.comment(`${moves} moves`)
    if (name === 'nbdcopy') t.equal(difference(scratch.file('content'), scratch.file(`d${moves}`)), undefined)
  })

function collected(stream: NodeJS.ReadableStream): () => string {
  let text = ''
  stream.on('data', (chunk: Buffer) => {
    text += chunk.toString()
  })
  return () => text
}

t.test(
  'qemu-io writes before and after a move',
  { skip: installed('qemu-io') ? false : 'no qemu-io' },
  async (t) => {
    using scratch = new Scratch()
    const { daemon, client, socket } = await served(scratch)
    await using _ = daemon
    await addDisk(client, scratch, 1)
    const write = (pattern: number, what: string) => qemuIo(t, socket, `write -P ${pattern} ${what}`)
    await mirror(client, 0)
    await write(1, '0 1M')
    await client.event('BLOCK_JOB_READY')
    await write(2, '1M 64k')
    await client.execute('job-complete', { id: 'j' })
    await client.status('j', 'null')
    await write(3, '2M 512')
    for (const [pattern, what] of [
      [1, '0 1M'],
      [2, '1M 64k'],
      [3, '2M 512'],
    ])
      await qemuIo(t, socket, `read -P ${pattern} ${what}`)
    t.match(difference(scratch.file('d0'), scratch.file('d1')), /./, 'the old disk is left as it was')
  },
)

async function qemuIo(t: Test, socket: string, command: string): Promise<void> {
  const uri = `nbd+unix:///disk?socket=${socket}`
  const { status, stdout, stderr } = spawnSync('qemu-io', ['-f', 'raw', '-c', command, uri], {
    encoding: 'utf8',
  })
  t.ok(status === 0 && !stdout.includes('failed'), `${command} ${stdout}${stderr}`)
}
