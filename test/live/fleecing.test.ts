// SPDX-License-Identifier: Apache-2.0
// Fleecing: a disk that is written all the time is read as it was, over NBD, by the tools people do backups with. And backups
// of such a disk, judged by qemu-img.

import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { copyFileSync, writeFileSync } from 'node:fs'
import { promisify } from 'node:util'
import t from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { newSeed, random } from '../helpers/graph.js'
import { GuestClient } from '../helpers/nbd/guest-client.js'
import { installed } from '../helpers/program.js'
import type { QmpClient } from '../helpers/qmp-client.js'
import { MiB, rawNode, Scratch } from '../helpers/scratch.js'
import { pace } from '../helpers/waiting.js'

const SIZE = 32 * MiB
const run = promisify(execFile)

/** Writes anything anywhere until stop() is called. */
async function scribble(socket: string, below: (below: number) => number) {
  const guest = await GuestClient.connect(socket, 'disk')
  let stopped = false
  let writes = 0
  const write = async () => {
    while (!stopped) {
      const length = 512 * (1 + below(300))
      const offset = 512 * below((SIZE - length) / 512)
      if (below(8) === 0) await guest.zero(offset, length)
      else await guest.write(offset, randomBytes(length))
      writes++
      await pace(below(3))
    }
  }
  const all = Promise.all([write(), write(), write()])
  all.catch(() => undefined)
  return {
    written: async (count: number) => {
      for (const before = writes; writes < before + count; ) await pace(1)
    },
    stop: async () => {
      stopped = true
      await all
      guest.end()
    },
  }
}

async function start(scratch: Scratch) {
  const daemon = await Daemon.start({ directory: scratch.path })
  const { client } = daemon
  const socket = scratch.file('nbd.sock')
  const disk = scratch.file('disk')
  writeFileSync(disk, Buffer.concat([randomBytes(SIZE / 2), Buffer.alloc(SIZE / 2)]))
  copyFileSync(disk, scratch.file('before'))
  await client.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } })
  await client.execute('blockdev-add', rawNode('disk', disk))
  return { daemon, client, socket }
}

async function serve(client: QmpClient, name: string, node: string, writable: boolean): Promise<void> {
  await client.execute('block-export-add', {
    ...{ type: 'nbd', id: name, name, 'node-name': node, writable },
  })
}

async function addQcow2(
  client: QmpClient,
  scratch: Scratch,
  name: string,
  backing: string | null,
): Promise<void> {
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', scratch.file(name), String(SIZE)])
  const file = { driver: 'file', filename: scratch.file(name) }
  await client.execute('blockdev-add', {
    driver: 'qcow2',
    'node-name': name,
    file,
    backing,
    discard: 'unmap',
  })
}

const compare = async (format: string, one: string, other: string) =>
  (await run('qemu-img', ['compare', '-f', 'raw', '-F', format, one, other])).stdout.trim()

const skip = installed('qemu-img') && installed('nbdcopy') ? false : 'no qemu-img or nbdcopy'

t.test('a snapshot is read over NBD while the disk is written over NBD', { skip }, async (t) => {
  const seed = newSeed()
  t.comment(`seed ${seed}`)
  using scratch = new Scratch()
  const { daemon, client, socket } = await start(scratch)
  await using _ = daemon
  await addQcow2(client, scratch, 'temp', 'disk')
  await client.execute('blockdev-add', {
    ...{ driver: 'copy-before-write', 'node-name': 'cbw', file: 'disk', target: 'temp' },
  })
  await client.execute('blockdev-add', { driver: 'snapshot-access', 'node-name': 'snap', file: 'cbw' })
  await serve(client, 'disk', 'cbw', true)
  await serve(client, 'snap', 'snap', false)
  const guest = await scribble(socket, random(seed))
  await guest.written(100)
  const uri = `nbd+unix:///snap?socket=${socket}`
  await run('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', uri, scratch.file('converted')])
  await guest.written(50)
  await run('nbdcopy', [uri, scratch.file('copied')])
  await guest.stop()
  for (const copy of ['converted', 'copied'])
    t.equal(await compare('raw', scratch.file('before'), scratch.file(copy)), 'Images are identical.')
  t.not(
    await compare('raw', scratch.file('disk'), scratch.file('before')).catch(String),
    'Images are identical.',
  )
  await t.rejects(serve(client, 'past', 'disk', true), { message: /Permission conflict on node 'disk'/ })
})

t.test('a snapshot is read while a drive-mirror takes the disk elsewhere', { skip }, async (t) => {
  const seed = newSeed()
  t.comment(`seed ${seed}`)
  using scratch = new Scratch()
  const { daemon, client, socket } = await start(scratch)
  await using _ = daemon
  await client.execute('drive-mirror', {
    ...{ 'job-id': 'j', device: 'disk', target: scratch.file('new'), sync: 'full', format: 'raw' },
    'node-name': 'new',
  })
  await client.event('BLOCK_JOB_READY')
  await addQcow2(client, scratch, 'temp', 'disk')
  await client.execute('blockdev-add', {
    ...{ driver: 'copy-before-write', 'node-name': 'cbw', file: 'disk', target: 'temp' },
  })
  await client.execute('blockdev-add', { driver: 'snapshot-access', 'node-name': 'snap', file: 'cbw' })
  await serve(client, 'disk', 'cbw', true)
  await serve(client, 'snap', 'snap', false)
  const guest = await scribble(socket, random(seed))
  const uri = `nbd+unix:///snap?socket=${socket}`
  const copying = run('nbdcopy', [uri, scratch.file('during')])
  await client.execute('job-complete', { id: 'j' })
  t.equal((await client.event('BLOCK_JOB_COMPLETED')).data.error, undefined)
  await client.status('j', 'null')
  await client.execute('blockdev-del', { 'node-name': 'disk' })
  await copying
  await guest.written(100)
  await run('nbdcopy', [uri, scratch.file('after')])
  await guest.stop()
  for (const copy of ['during', 'after'])
    t.equal(await compare('raw', scratch.file('before'), scratch.file(copy)), 'Images are identical.')
  await run('nbdcopy', [`nbd+unix:///disk?socket=${socket}`, scratch.file('read')])
  t.equal(await compare('raw', scratch.file('new'), scratch.file('read')), 'Images are identical.')
})

t.test('a backup of a snapshot takes what is read out of the temporary image', { skip }, async (t) => {
  const seed = newSeed()
  t.comment(`seed ${seed}`)
  using scratch = new Scratch()
  const { daemon, client, socket } = await start(scratch)
  await using _ = daemon
  await addQcow2(client, scratch, 'temp', 'disk')
  await addQcow2(client, scratch, 'out', null)
  await client.execute('blockdev-add', {
    ...{ driver: 'copy-before-write', 'node-name': 'cbw', file: 'disk', target: 'temp' },
  })
  const access = { driver: 'snapshot-access', 'node-name': 'snap', file: 'cbw', discard: 'unmap' }
  await client.execute('blockdev-add', access)
  await serve(client, 'disk', 'cbw', true)
  const guest = await scribble(socket, random(seed))
  await guest.written(100)
  await client.execute('blockdev-backup', {
    ...{ 'job-id': 'j', device: 'snap', target: 'out', sync: 'full', 'discard-source': true },
  })
  t.equal((await client.event('BLOCK_JOB_COMPLETED')).data.error, undefined)
  await guest.stop()
  await client.execute('blockdev-del', { 'node-name': 'out' })
  t.equal(await compare('qcow2', scratch.file('before'), scratch.file('out')), 'Images are identical.')
})

t.test('what lies above a disk with sync none shows it as it was', { skip }, async (t) => {
  const seed = newSeed()
  t.comment(`seed ${seed}`)
  using scratch = new Scratch()
  const { daemon, client, socket } = await start(scratch)
  await using _ = daemon
  await serve(client, 'disk', 'disk', true)
  await client.execute('drive-backup', {
    ...{ 'job-id': 'j', device: 'disk', target: scratch.file('out'), sync: 'none', format: 'qcow2' },
  })
  const guest = await scribble(socket, random(seed))
  await guest.written(150)
  await guest.stop()
  await client.execute('job-cancel', { id: 'j' })
  await client.status('j', 'null')
  await client.execute('block-export-del', { id: 'disk' })
  t.equal(await compare('qcow2', scratch.file('before'), scratch.file('out')), 'Images are identical.')
})

const targets = [
  { name: 'raw', more: { format: 'raw' } },
  { name: 'qcow2', more: { format: 'qcow2' } },
  { name: 'compressed qcow2', more: { format: 'qcow2', compress: true } },
]
for (const { name, more } of targets)
  t.test(`drive-backup to ${name} while the disk is written is the disk as it was`, { skip }, async (t) => {
    const seed = newSeed()
    t.comment(`seed ${seed}`)
    using scratch = new Scratch()
    const { daemon, client, socket } = await start(scratch)
    await using _ = daemon
    await serve(client, 'disk', 'disk', true)
    await client.execute('drive-backup', {
      ...{ 'job-id': 'j', device: 'disk', target: scratch.file('out'), sync: 'full', speed: 4 * MiB },
      ...more,
    })
    const guest = await scribble(socket, random(seed))
    await guest.written(150)
    await client.execute('block-job-set-speed', { device: 'j', speed: 0 })
    t.equal((await client.event('BLOCK_JOB_COMPLETED')).data.error, undefined)
    await guest.stop()
    await client.status('j', 'null')
    t.equal(await compare(more.format, scratch.file('before'), scratch.file('out')), 'Images are identical.')
    if (more.format === 'qcow2') await run('qemu-img', ['check', '-q', scratch.file('out')])
  })
