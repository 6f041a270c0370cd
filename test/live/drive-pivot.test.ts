// SPDX-License-Identifier: Apache-2.0
// Completed, a drive-mirror leaves its target to the users of the source, which goes with the last of them; cancelled or failed,
// they stay where they are. A guest that writes all the time must not see any of it.

import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import t, { type Test } from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { newSeed, random } from '../helpers/graph.js'
import { GuestClient } from '../helpers/nbd/guest-client.js'
import { installed } from '../helpers/program.js'
import type { QmpClient } from '../helpers/qmp-client.js'
import { difference, empty, MiB, rawNode, Scratch } from '../helpers/scratch.js'
import { BLOCK, StampedDisk } from '../helpers/stamped-disk.js'
import { pace } from '../helpers/waiting.js'

const SIZE = 16 * MiB
const skip = installed('qemu-img') ? false : 'no qemu-img'

interface Lab extends AsyncDisposable {
  readonly scratch: Scratch
  readonly client: QmpClient
  readonly socket: string
}

async function lab(): Promise<Lab> {
  const scratch = new Scratch()
  const daemon = await Daemon.start({ directory: scratch.path })
  const { client } = daemon
  const socket = scratch.file('nbd.sock')
  await client.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } })
  const end = async () => {
    await daemon[Symbol.asyncDispose]()
    scratch[Symbol.dispose]()
  }
  return { scratch, client, socket, [Symbol.asyncDispose]: end }
}

async function serve(client: QmpClient, node: string): Promise<void> {
  await client.execute('block-export-add', {
    ...{ type: 'nbd', id: 'e', name: 'disk', 'node-name': node, writable: true },
  })
}

async function unserve(client: QmpClient): Promise<void> {
  await client.execute('block-export-del', { id: 'e', mode: 'hard' })
  await client.event('BLOCK_EXPORT_DELETED')
}

/** A disk of zeroes that is served. */
async function served(): Promise<Lab> {
  const made = await lab()
  const { client, scratch } = made
  empty(scratch.file('src'), SIZE)
  await client.execute('blockdev-add', rawNode('src', scratch.file('src')))
  await serve(client, 'src')
  return made
}

async function mirror(client: QmpClient, target: string, more: object = {}): Promise<void> {
  client.events.length = 0
  await client.execute('drive-mirror', {
    ...{ 'job-id': 'j', device: 'src', target, sync: 'full', format: 'raw' },
    ...more,
  })
}

async function servedNode(client: QmpClient): Promise<string | undefined> {
  const exports = (await client.execute('query-block-exports')) as { 'node-name': string }[]
  return exports[0]?.['node-name']
}

async function nodes(client: QmpClient): Promise<Map<string, string>> {
  const list = (await client.execute('query-named-block-nodes')) as { 'node-name': string; file: string }[]
  return new Map(list.map((node) => [node['node-name'], node.file]))
}

/** @returns what the job's end says went wrong */
async function complete(client: QmpClient): Promise<unknown> {
  await client.execute('job-complete', { id: 'j' })
  const { data } = await client.event('BLOCK_JOB_COMPLETED')
  await client.status('j', 'null')
  return data.error
}

/** Nodes that go with something are gone a moment later. */
async function left(client: QmpClient, expected: readonly string[]): Promise<string[]> {
  for (let tries = 0; tries < 200; tries++) {
    const names = [...(await nodes(client)).keys()].filter((name) => !name.startsWith('#')).sort()
    if (names.join() === [...expected].sort().join()) return names
    await pace(10)
  }
  return [...(await nodes(client)).keys()]
}

/** A guest with several requests under way, over a connection of its own. */
async function guestOn(t: Test, socket: string) {
  const seed = newSeed()
  t.comment(`seed ${seed}`)
  const below = random(seed)
  const connection = await GuestClient.connect(socket, 'disk')
  const stamped = new StampedDisk(connection, SIZE / BLOCK, below)
  const running = stamped.run(4, 2, () => pace(below(3)))
  running.catch(() => undefined)
  /** It uses the disk for a while. */
  const goOn = async () => {
    const enough = stamped.requests + 100
    while (stamped.requests < enough && !stamped.stopped) await pace(5)
  }
  const stop = async () => {
    stamped.stop()
    await running
    await stamped.verify()
    connection.end()
  }
  return { stamped, running, goOn, stop }
}

function compare(one: string, format: string, other: string, otherFormat: string): string {
  return spawnSync('qemu-img', ['compare', '-f', format, '-F', otherFormat, one, other], { encoding: 'utf8' })
    .stdout
}

function check(t: Test, image: string): void {
  const { status, stdout, stderr } = spawnSync('qemu-img', ['check', '-f', 'qcow2', image], {
    encoding: 'utf8',
  })
  t.equal(status, 0, `${stdout}${stderr}`)
}

const targets = [
  { name: 'a raw file', args: { format: 'raw' } },
  { name: 'a qcow2 image', args: { format: 'qcow2' } },
  { name: 'a raw file that is there', args: { format: 'raw', mode: 'existing' } },
  {
    name: 'a raw file, with copy-mode write-blocking,',
    args: { format: 'raw', 'copy-mode': 'write-blocking' },
  },
] as const

for (const { name, args } of targets)
  t.test(`a guest goes on with ${name} and loses nothing`, { skip }, async (t) => {
    await using made = await served()
    const { client, scratch, socket } = made
    const guest = await guestOn(t, socket)
    const target = scratch.file('copy')
    if ('mode' in args) empty(target, SIZE)
    await mirror(client, target, { ...args, 'node-name': 'tgt' })
    await Promise.race([client.event('BLOCK_JOB_READY'), guest.running])
    t.equal(await complete(client), undefined)
    t.equal(await servedNode(client), 'tgt')
    t.equal((await nodes(client)).get('tgt'), target)
    await guest.goOn()
    await client.execute('blockdev-del', { 'node-name': 'src' })
    await guest.goOn()
    await guest.stop()
    const other = await GuestClient.connect(socket, 'disk')
    await guest.stamped.verify(other)
    other.end()
    await unserve(client)
    t.same([...(await nodes(client)).keys()], [])
    t.notMatch(
      compare(scratch.file('src'), 'raw', target, args.format),
      /identical/,
      'the source stayed behind',
    )
    if (args.format === 'qcow2') check(t, target)
  })

for (const name of ['tgt', undefined])
  t.test(`a target ${name === undefined ? 'without' : 'with'} a name goes with its last user`, async (t) => {
    await using made = await served()
    const { client, scratch } = made
    const target = scratch.file('copy')
    await mirror(client, target, name === undefined ? {} : { 'node-name': name })
    await client.event('BLOCK_JOB_READY')
    t.equal(await complete(client), undefined)
    const node = (await servedNode(client)) ?? ''
    if (name === undefined) t.match(node, /^#block/)
    else t.equal(node, name)
    t.equal((await nodes(client)).get(node), target)
    await t.rejects(client.execute('blockdev-del', { 'node-name': node }), {
      message: `Node ${node} is in use`,
    })
    await client.execute('block-export-add', { type: 'nbd', id: 'f', name: 'again', 'node-name': node })
    await unserve(client)
    t.ok((await nodes(client)).has(node), 'somebody uses it still')
    await client.execute('block-export-del', { id: 'f' })
    t.notOk((await nodes(client)).has(node))
    t.ok((await nodes(client)).has('src'), 'the source is its user’s')
    await serve(client, 'src')
    await mirror(client, target, { mode: 'existing' })
  })

t.test('a target that nobody moves to goes with its job', async (t) => {
  await using made = await served()
  const { client, scratch } = made
  await unserve(client)
  await mirror(client, scratch.file('copy'), { 'node-name': 'tgt' })
  await client.event('BLOCK_JOB_READY')
  t.equal(await complete(client), undefined)
  t.same(await left(client, ['src']), ['src'])
  t.equal(difference(scratch.file('src'), scratch.file('copy')), undefined)
})

t.test('a target that a node lies above goes with that node', async (t) => {
  await using made = await served()
  const { client, scratch } = made
  await unserve(client)
  await mirror(client, scratch.file('copy'), { 'node-name': 'tgt' })
  await client.event('BLOCK_JOB_READY')
  await client.execute('blockdev-add', { driver: 'raw', 'node-name': 'above', file: 'src' })
  t.equal(await complete(client), undefined)
  t.same(await left(client, ['above', 'src', 'tgt']), ['above', 'src', 'tgt'])
  await t.rejects(client.execute('blockdev-del', { 'node-name': 'tgt' }), {
    message: 'Node tgt is not owned by the monitor',
  })
  await client.execute('blockdev-del', { 'node-name': 'above' })
  t.same(await left(client, ['src']), ['src'])
})

t.test('a guest goes from target to target, and those it left go too', async (t) => {
  await using made = await served()
  const { client, scratch, socket } = made
  const guest = await guestOn(t, socket)
  for (const [device, target] of [
    ['src', 'one'],
    ['one', 'two'],
    ['two', 'three'],
  ] as const) {
    await mirror(client, scratch.file(target), { device, 'node-name': target })
    await Promise.race([client.event('BLOCK_JOB_READY'), guest.running])
    t.equal(await complete(client), undefined)
    t.same(await left(client, ['src', target]), ['src', target].sort())
    t.equal(await servedNode(client), target)
    await guest.goOn()
  }
  await guest.stop()
  await unserve(client)
  t.same(await left(client, ['src']), ['src'])
})

for (const { name, ready, force } of [
  { name: 'before it is ready', ready: false, force: false },
  { name: 'when it is ready', ready: true, force: false },
  { name: 'by force when it is ready', ready: true, force: true },
])
  t.test(`cancelled ${name}, a drive-mirror leaves users where they are`, async (t) => {
    await using made = await served()
    const { client, scratch, socket } = made
    const guest = await guestOn(t, socket)
    await mirror(client, scratch.file('copy'), { 'node-name': 'tgt', ...(!ready && { speed: 65536 }) })
    if (ready) await Promise.race([client.event('BLOCK_JOB_READY'), guest.running])
    await client.execute('block-job-cancel', { device: 'j', force })
    await client.status('j', 'null')
    t.equal(await servedNode(client), 'src')
    t.same(await left(client, ['src']), ['src'])
    await guest.goOn()
    await guest.stop()
  })

t.test('a target is put in the place of what only a filter separates from the source', async (t) => {
  await using made = await lab()
  const { client, scratch, socket } = made
  empty(scratch.file('src'), SIZE)
  await client.execute('blockdev-add', rawNode('disk', scratch.file('src')))
  await client.execute('blockdev-add', { driver: 'raw', 'node-name': 'src', file: 'disk' })
  await serve(client, 'src')
  const replaced = { replaces: 'disk', 'node-name': 'tgt' }
  await t.rejects(mirror(client, scratch.file('copy'), replaced), { message: /^Cannot replace 'disk'/ })
  await unserve(client)
  await client.execute('blockdev-del', { 'node-name': 'src' })
  await client.execute('blockdev-add', { driver: 'x-inject', 'node-name': 'src', file: 'disk', rules: [] })
  await serve(client, 'src')
  const guest = await guestOn(t, socket)
  await mirror(client, scratch.file('copy'), replaced)
  await Promise.race([client.event('BLOCK_JOB_READY'), guest.running])
  t.equal(await complete(client), undefined)
  t.equal(await servedNode(client), 'src')
  await client.execute('blockdev-del', { 'node-name': 'disk' })
  await guest.goOn()
  await guest.stop()
  await unserve(client)
  await client.execute('blockdev-del', { 'node-name': 'src' })
  t.same(await left(client, []), [])
})

/** An overlay with data in both layers, served. */
async function layered(): Promise<Lab & { base: string; top: string }> {
  const made = await lab()
  const { client, scratch } = made
  const [base, top] = [scratch.file('base.qcow2'), scratch.file('top.qcow2')]
  const qemu = (...args: readonly string[]) => spawnSync(args[0] ?? '', args.slice(1))
  qemu('qemu-img', 'create', '-q', '-f', 'qcow2', base, String(SIZE))
  qemu('qemu-io', '-f', 'qcow2', '-c', 'write -P 1 0 4M', base)
  qemu('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', top)
  qemu('qemu-io', '-f', 'qcow2', '-c', 'write -P 2 2M 4M', top)
  const file = { driver: 'file', filename: top }
  await client.execute('blockdev-add', { driver: 'qcow2', 'node-name': 'src', file })
  await serve(client, 'src')
  return { ...made, base, top }
}

for (const sync of ['full', 'top', 'none'])
  t.test(`with sync ${sync} a guest sees all layers after it has moved`, { skip }, async (t) => {
    await using made = await layered()
    const { client, scratch, socket, base, top } = made
    const target = scratch.file('copy.qcow2')
    await mirror(client, target, { sync, format: 'qcow2', 'node-name': 'tgt' })
    const guest = await GuestClient.connect(socket, 'disk')
    await guest.write(8 * MiB, Buffer.alloc(BLOCK, 3))
    await guest.zero(3 * MiB, 64 * 1024)
    await client.event('BLOCK_JOB_READY')
    await guest.write(MiB, Buffer.alloc(BLOCK, 4))
    t.equal(await complete(client), undefined)
    t.equal(await servedNode(client), 'tgt')
    const sees = async () => {
      const at = [0, MiB, 2 * MiB, 3 * MiB, 8 * MiB, 9 * MiB]
      return await Promise.all(at.map(async (offset) => (await guest.read(offset, BLOCK))[0]))
    }
    t.same(await sees(), [1, 4, 2, 0, 3, 0])
    await guest.zero(0, 64 * 1024)
    await guest.write(2 * MiB, Buffer.alloc(BLOCK, 5))
    t.same(await sees(), [0, 4, 5, 0, 3, 0])
    const removal = client.execute('blockdev-del', { 'node-name': 'src' })
    if (sync === 'none')
      await t.rejects(removal, { message: "Node 'src' is busy: node is used as backing hd of 'tgt'" })
    else await removal
    t.same(await sees(), [0, 4, 5, 0, 3, 0])
    guest.end()
    await unserve(client)
    if (sync === 'none') await client.execute('blockdev-del', { 'node-name': 'src' })
    t.same([...(await nodes(client)).keys()], [])
    for (const image of [base, top, target]) check(t, image)
    const { stdout } = spawnSync('qemu-img', ['info', '--output=json', target], { encoding: 'utf8' })
    const below = { full: undefined, top: base, none: top }[sync]
    t.equal(JSON.parse(stdout)['full-backing-filename'], below)
  })

t.test('sync none without a guest leaves an image that reads as the source', { skip }, async (t) => {
  await using made = await layered()
  const { client, scratch, top } = made
  await unserve(client)
  const target = scratch.file('copy.qcow2')
  await mirror(client, target, { sync: 'none', format: 'qcow2', 'node-name': 'tgt' })
  await client.event('BLOCK_JOB_READY')
  t.equal(await complete(client), undefined)
  t.same(await left(client, ['src']), ['src'])
  await client.execute('blockdev-del', { 'node-name': 'src' })
  t.match(compare(top, 'qcow2', target, 'qcow2'), /identical/)
})

t.test('sync none into an overlay that names a source in use is refused', { skip }, async (t) => {
  await using made = await layered()
  const { client, scratch, socket, top } = made
  const target = scratch.file('copy.qcow2')
  spawnSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', top, '-F', 'qcow2', target])
  const guest = await GuestClient.connect(socket, 'disk')
  await guest.write(MiB, Buffer.alloc(BLOCK, 4))
  const how = { sync: 'none', format: 'qcow2', mode: 'existing' }
  await t.rejects(mirror(client, target, how), { message: 'Failed to get shared "write" lock' })
  await guest.write(MiB, Buffer.alloc(BLOCK, 5))
  t.equal((await guest.read(MiB, BLOCK))[0], 5)
  t.same(await left(client, ['src']), ['src'])
  guest.end()
})

t.test('an overlay on the target keeps it, and both go in their order', { skip }, async (t) => {
  await using made = await served()
  const { client, scratch, socket } = made
  const guest = await guestOn(t, socket)
  await mirror(client, scratch.file('copy'), { 'node-name': 'tgt' })
  await Promise.race([client.event('BLOCK_JOB_READY'), guest.running])
  t.equal(await complete(client), undefined)
  await client.execute('blockdev-snapshot-sync', {
    ...{ 'node-name': 'tgt', 'snapshot-file': scratch.file('over'), 'snapshot-node-name': 'over' },
  })
  t.equal(await servedNode(client), 'over')
  await guest.goOn()
  t.same(await left(client, ['over', 'src', 'tgt']), ['over', 'src', 'tgt'])
  client.events.length = 0
  await client.execute('block-commit', { 'job-id': 'c', device: 'over', 'auto-dismiss': false })
  await client.status('c', 'ready')
  await client.execute('job-complete', { id: 'c' })
  await client.status('c', 'concluded')
  t.equal(await servedNode(client), 'tgt')
  await guest.goOn()
  await guest.stop()
  await client.execute('blockdev-del', { 'node-name': 'over' })
  await unserve(client)
  t.same(await left(client, ['src']), ['src'])
})

t.test('with sync none what is replaced shows through the target below a filter', { skip }, async (t) => {
  await using made = await lab()
  const { client, scratch, socket } = made
  empty(scratch.file('src'), SIZE)
  await client.execute('blockdev-add', rawNode('disk', scratch.file('src')))
  await client.execute('blockdev-add', { driver: 'x-inject', 'node-name': 'src', file: 'disk', rules: [] })
  await serve(client, 'src')
  const guest = await GuestClient.connect(socket, 'disk')
  await guest.write(0, Buffer.alloc(BLOCK, 1))
  const how = { sync: 'none', format: 'qcow2', replaces: 'disk', 'node-name': 'tgt' }
  await mirror(client, scratch.file('copy'), how)
  await guest.write(MiB, Buffer.alloc(BLOCK, 2))
  t.equal(await complete(client), undefined)
  t.equal(await servedNode(client), 'src')
  t.same([(await guest.read(0, BLOCK))[0], (await guest.read(MiB, BLOCK))[0]], [1, 2])
  await guest.write(0, Buffer.alloc(BLOCK, 3))
  guest.end()
  await unserve(client)
  await t.rejects(client.execute('blockdev-del', { 'node-name': 'disk' }), {
    message: "Node 'disk' is busy: node is used as backing hd of 'tgt'",
  })
  await client.execute('blockdev-del', { 'node-name': 'src' })
  t.same(await left(client, ['disk']), ['disk'])
  await client.execute('blockdev-del', { 'node-name': 'disk' })
  t.match(compare(scratch.file('src'), 'raw', scratch.file('copy'), 'qcow2'), /mismatch at offset 0/)
  check(t, scratch.file('copy'))
})

t.test('sync none to a new raw file is refused: it cannot lie above the source', async (t) => {
  await using made = await served()
  const { client, scratch } = made
  await t.rejects(mirror(client, scratch.file('copy'), { sync: 'none' }), {
    message: "Backing file not supported for file format 'raw'",
  })
  t.notOk(existsSync(scratch.file('copy')))
})

t.test('a new image of what a bitmap marks is nobody’s disk', { skip }, async (t) => {
  await using made = await served()
  const { client, scratch, socket } = made
  const guest = await GuestClient.connect(socket, 'disk')
  await guest.write(0, Buffer.alloc(BLOCK, 1))
  await client.execute('block-dirty-bitmap-add', { node: 'src', name: 'b' })
  await guest.write(MiB, Buffer.alloc(BLOCK, 2))
  await mirror(client, scratch.file('copy'), { sync: 'incremental', bitmap: 'b', format: 'qcow2' })
  await client.event('BLOCK_JOB_READY')
  t.equal(await complete(client), undefined)
  t.equal(await servedNode(client), 'src')
  t.equal((await guest.read(0, BLOCK))[0], 1)
  t.same(await left(client, ['src']), ['src'])
  guest.end()
})
