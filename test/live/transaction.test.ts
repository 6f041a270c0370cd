// SPDX-License-Identifier: Apache-2.0
// Transactions on real disks: backups of several disks show one moment, and incremental backups add up to the disk.

import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { promisify } from 'node:util'
import t from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { newSeed, random } from '../helpers/graph.js'
import { GuestClient } from '../helpers/nbd/guest-client.js'
import { installed } from '../helpers/program.js'
import type { QmpClient } from '../helpers/qmp-client.js'
import { empty, MiB, rawNode, Scratch } from '../helpers/scratch.js'

const SIZE = 8 * MiB
const BLOCK = 4096
const run = promisify(execFile)
const skip = installed('qemu-img') ? false : 'no qemu-img'

async function served(scratch: Scratch, names: readonly string[]) {
  const daemon = await Daemon.start({ directory: scratch.path })
  const { client } = daemon
  const socket = scratch.file('nbd.sock')
  await client.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } })
  for (const name of names) {
    empty(scratch.file(name), SIZE)
    await client.execute('blockdev-add', rawNode(name, scratch.file(name)))
    await client.execute('block-export-add', { type: 'nbd', id: name, 'node-name': name, writable: true })
  }
  return { daemon, client, guest: (name: string) => GuestClient.connect(socket, name) }
}

/** Two disks in different workers, and a client that writes a number to the one and then to the other, again and again. */
async function counting(scratch: Scratch) {
  const { daemon, client, guest } = await served(scratch, ['a', 'b'])
  const [a, b] = [await guest('a'), await guest('b')]
  let stopped = false
  let count = 0
  const writing = (async () => {
    while (!stopped) {
      count++
      await a.write(0, numbered(count))
      await b.write(0, numbered(count))
    }
  })()
  writing.catch(() => undefined)
  /** @returns the last number that was written, and what is read in its place */
  const stop = async () => {
    stopped = true
    await writing
    const last = (await a.read(0, 4)).readUInt32LE()
    a.end()
    b.end()
    return { count, last }
  }
  return { daemon, client, stop }
}

async function addTarget(client: QmpClient, scratch: Scratch, name: string): Promise<void> {
  empty(scratch.file(name), SIZE)
  await client.execute('blockdev-add', rawNode(name, scratch.file(name)))
}

const numbered = (number: number) => {
  const block = Buffer.alloc(BLOCK)
  block.writeUInt32LE(number)
  return block
}
const numberIn = (path: string) => readFileSync(path).readUInt32LE(0)

const backup = (job: string, device: string, target: string, more: object = {}) => ({
  type: 'blockdev-backup',
  data: { 'job-id': job, device, target, sync: 'full', ...more },
})

t.test('backups of disks in different workers show one moment', async (t) => {
  using scratch = new Scratch()
  const { daemon, client, stop } = await counting(scratch)
  await using _ = daemon
  for (let round = 0; round < 8; round++) {
    for (const name of ['ta', 'tb']) await addTarget(client, scratch, `${name}${round}`)
    client.events.length = 0
    await client.execute('transaction', {
      actions: [backup('ja', 'a', `ta${round}`), backup('jb', 'b', `tb${round}`)],
      properties: { 'completion-mode': 'grouped' },
    })
    await client.status('ja', 'null')
    await client.status('jb', 'null')
    const [first, second] = [numberIn(scratch.file(`ta${round}`)), numberIn(scratch.file(`tb${round}`))]
    t.ok(first === second || first === second + 1, `${first} in the first disk, ${second} in the second`)
  }
  const { count } = await stop()
  t.ok(count > 16, `${count} writes`)
})

t.test('a transaction that fails changes nothing, and holds nobody up', async (t) => {
  using scratch = new Scratch()
  const { daemon, client, guest } = await served(scratch, ['a', 'b'])
  await using _ = daemon
  await addTarget(client, scratch, 'ta')
  const add = { type: 'block-dirty-bitmap-add', data: { node: 'a', name: 'b0' } }
  const missing = { type: 'block-dirty-bitmap-clear', data: { node: 'b', name: 'zz' } }
  await t.rejects(client.execute('transaction', { actions: [add, backup('ja', 'a', 'ta'), missing] }), {
    message: "Dirty bitmap 'zz' not found",
  })
  t.same(await client.execute('query-jobs'), [])
  await t.rejects(client.execute('block-dirty-bitmap-remove', { node: 'a', name: 'b0' }), {
    message: "Dirty bitmap 'b0' not found",
  })
  for (const name of ['a', 'b']) {
    const disk = await guest(name)
    await disk.write(0, numbered(1))
    disk.end()
  }
  await client.execute('blockdev-del', { 'node-name': 'ta' })
})

t.test('overlays of disks in different workers are there at one moment', { skip }, async (t) => {
  using scratch = new Scratch()
  const { daemon, client, stop } = await counting(scratch)
  await using _ = daemon
  await addTarget(client, scratch, 'ready')
  const top = { a: 'a', b: 'b' }
  for (let round = 0; round < 4; round++) {
    const snapshot = (name: 'a' | 'b') => ({
      type: 'blockdev-snapshot-sync',
      data: {
        ...{ 'node-name': top[name], 'snapshot-file': scratch.file(`${name}${round}`) },
        'snapshot-node-name': `${name}${round}`,
      },
    })
    const actions = [snapshot('a'), snapshot('b')]
    const abort = { type: 'block-dirty-bitmap-clear', data: { node: 'ready', name: 'zz' } }
    await t.rejects(client.execute('transaction', { actions: [...actions, abort] }), {
      message: "Dirty bitmap 'zz' not found",
    })
    await client.execute('transaction', { actions })
    const below = { ...top }
    top.a = `a${round}`
    top.b = `b${round}`
    const exports = (await client.execute('query-block-exports')) as { 'node-name': string }[]
    t.same(exports.map((each) => each['node-name']).sort(), [top.a, top.b])
    const [first, second] = await Promise.all(
      [below.a, below.b].map(async (name) => {
        const format = name.length === 1 ? 'raw' : 'qcow2'
        const out = scratch.file(`${name}.raw`)
        await run('qemu-img', ['convert', '-U', '-f', format, '-O', 'raw', scratch.file(name), out])
        return numberIn(out)
      }),
    )
    t.ok(first === second || first === (second ?? 0) + 1, `${first} in the first, ${second} in the second`)
  }
  const { count, last } = await stop()
  t.equal(last, count)
  t.equal(await daemon.stop(), undefined)
  for (const name of [top.a, top.b]) {
    const { stdout } = await run('qemu-img', ['check', scratch.file(name)])
    t.match(stdout, /No errors were found/)
  }
})

const snapshot = (node: string, overlay: string) => ({ type: 'blockdev-snapshot', data: { node, overlay } })

t.test(
  'overlays that cannot be put on their disks are refused, and nothing is changed',
  { skip },
  async (t) => {
    using scratch = new Scratch()
    const { daemon, client, guest } = await served(scratch, ['a', 'b'])
    await using _ = daemon
    for (const [name, size] of [
      ['short', 1],
      ['good', SIZE],
    ] as const) {
      await run('qemu-img', ['create', '-q', '-f', 'qcow2', scratch.file(name), String(size)])
      const file = { driver: 'file', filename: scratch.file(name) }
      await client.execute('blockdev-add', { driver: 'qcow2', 'node-name': name, file, backing: null })
    }
    await addTarget(client, scratch, 'target')
    const cases: readonly { actions: object[]; message: string | RegExp; more?: object }[] = [
      {
        actions: [snapshot('a', 'good'), snapshot('b', 'short')],
        message: "The overlay 'short' is shorter than 'b'",
      },
      {
        actions: [snapshot('a', 'good'), snapshot('b', 'good')],
        message: "Node 'good' is part of another snapshot of the transaction",
      },
      { actions: [backup('j', 'a', 'target'), snapshot('a', 'good')], message: /^Node 'a' is busy/ },
      { actions: [snapshot('a', 'good'), { type: 'abort', data: {} }], message: /^Transaction aborted/ },
      {
        actions: [snapshot('a', 'good')],
        more: { properties: { 'completion-mode': 'grouped' } },
        message: "Action 'blockdev-snapshot' does not support transaction property completion-mode = grouped",
      },
    ]
    for (const { actions, message, more = {} } of cases) {
      await t.rejects(client.execute('transaction', { actions, ...more }), { message })
      const exports = (await client.execute('query-block-exports')) as { 'node-name': string }[]
      t.same(exports.map((each) => each['node-name']).sort(), ['a', 'b'])
      for (const name of ['a', 'b']) {
        const disk = await guest(name)
        await disk.write(0, numbered(1))
        disk.end()
      }
    }
    t.same(await client.execute('query-jobs'), [])
    const bitmap = { type: 'block-dirty-bitmap-add', data: { node: 'good', name: 'since' } }
    await client.execute('transaction', { actions: [snapshot('a', 'good'), bitmap] })
    await client.execute('blockdev-del', { 'node-name': 'short' })
  },
)

t.test('a full backup and incremental ones add up to the disk', { skip }, async (t) => {
  const seed = newSeed()
  t.comment(`seed ${seed}`)
  const below = random(seed)
  using scratch = new Scratch()
  const { daemon, client, guest } = await served(scratch, ['disk'])
  await using _ = daemon
  const disk = await guest('disk')
  const scribble = async () => {
    for (let write = 0; write < 20; write++) {
      const length = BLOCK * (1 + below(40))
      const offset = BLOCK * below((SIZE - length) / BLOCK)
      if (below(5) === 0) await disk.zero(offset, length)
      else await disk.write(offset, Buffer.alloc(length, 1 + below(255)))
    }
  }
  await scribble()
  let newest: string | undefined
  for (let number = 0; number < 5; number++) {
    const name = `inc${number}`
    const backing = newest === undefined ? [] : ['-b', scratch.file(newest), '-F', 'qcow2']
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', ...backing, scratch.file(name), String(SIZE)])
    const file = { driver: 'file', filename: scratch.file(name) }
    await client.execute('blockdev-add', { driver: 'qcow2', 'node-name': name, file, backing: null })
    client.events.length = 0
    const actions =
      newest === undefined
        ? [{ type: 'block-dirty-bitmap-add', data: { node: 'disk', name: 'b' } }, backup('j', 'disk', name)]
        : [backup('j', 'disk', name, { sync: 'incremental', bitmap: 'b' })]
    await client.execute('transaction', { actions })
    const state = Buffer.from(readFileSync(scratch.file('disk')))
    await Promise.all([scribble(), client.status('j', 'null')])
    await client.execute('blockdev-del', { 'node-name': name })
    newest = name
    await run('qemu-img', ['convert', '-O', 'raw', scratch.file(name), scratch.file('whole')])
    t.ok(readFileSync(scratch.file('whole')).equals(state), `the chain up to ${name} is the disk as it was`)
  }
  disk.end()
})

t.test('bitmaps that are stored in an image take part in transactions', { skip }, async (t) => {
  using scratch = new Scratch()
  const daemon = await Daemon.start({ directory: scratch.path })
  await using _ = daemon
  const { client } = daemon
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', scratch.file('q'), String(SIZE)])
  const file = { driver: 'file', filename: scratch.file('q') }
  const open = () => client.execute('blockdev-add', { driver: 'qcow2', 'node-name': 'q', file })
  const stored = async () => {
    await client.execute('blockdev-del', { 'node-name': 'q' })
    const { stdout } = await run('qemu-img', ['info', '--output=json', scratch.file('q')])
    const { bitmaps = [] } = JSON.parse(stdout)['format-specific'].data
    await open()
    return bitmaps.map(({ name, flags }: { name: string; flags: string[] }) => `${name} ${flags.join()}`)
  }
  await open()
  await addTarget(client, scratch, 't0')
  const of = (name: string) => ({ node: 'q', name })
  const add = (name: string) => ({
    type: 'block-dirty-bitmap-add',
    data: { ...of(name), persistent: true },
  })
  await client.execute('transaction', { actions: [add('b'), backup('j', 'q', 't0')] })
  await client.status('j', 'null')
  t.same(await stored(), ['b auto'])
  client.events.length = 0
  await client.execute('transaction', {
    actions: [add('c'), backup('j', 'q', 't0', { sync: 'bitmap', bitmap: 'b', 'bitmap-mode': 'on-success' })],
  })
  await client.status('j', 'null')
  t.same(await stored(), ['b auto', 'c auto'])
  const remove = { type: 'block-dirty-bitmap-remove', data: of('b') }
  await t.rejects(client.execute('transaction', { actions: [remove, { type: 'abort', data: {} }] }))
  t.same(await stored(), ['b auto', 'c auto'])
  await client.execute('transaction', { actions: [remove] })
  t.same(await stored(), ['c auto'])
})
