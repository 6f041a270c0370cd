// SPDX-License-Identifier: Apache-2.0
// Calls on an image's file system that do not come back: control answers, other disks go on, the process ends.

import { closeSync, openSync } from 'node:fs'
import t from 'tap'
import { ControlClient } from '../helpers/control-client.js'
import { Daemon } from '../helpers/daemon.js'
import { isRecord } from '../helpers/qmp-client.js'
import { empty, fill, MiB, rawNode, Scratch } from '../helpers/scratch.js'
import { SlowFs, type SlowOp, slowfsAbsent } from '../helpers/slowfs.js'
import { pace } from '../helpers/waiting.js'

t.setTimeout(300_000)

const skip = slowfsAbsent()
const FOREVER_MS = 60_000
const ANSWERS = 200

/** `hangs`: the disk's life cannot get past such a call. A release is not waited for by the kernel. */
const KINDS: readonly { readonly op: SlowOp; readonly hangs: boolean }[] = [
  { op: 'open', hangs: true },
  { op: 'getattr', hangs: true },
  { op: 'lseek', hangs: true },
  { op: 'read', hangs: true },
  { op: 'write', hangs: true },
  { op: 'fsync', hangs: true },
  { op: 'fallocate', hangs: false },
  { op: 'truncate', hangs: true },
  { op: 'release', hangs: false },
]

/** One disk's whole life through a drive-mirror, which makes its target. */
async function session(daemon: Daemon, folder: string): Promise<void> {
  const client = await daemon.connect()
  await client.send('blockdev-add', rawNode('slow', `${folder}/source.img`))
  const target = { target: `${folder}/target.img`, format: 'raw' }
  await client.send('drive-mirror', { 'job-id': 'slow', device: 'slow', sync: 'full', ...target })
  await client.event('BLOCK_JOB_READY', () => true, FOREVER_MS)
  await client.send('job-complete', { id: 'slow' })
  await client.status('slow', 'null')
  await client.send('blockdev-del', { 'node-name': 'slow' })
}

for (const { op, hangs } of KINDS) {
  t.test(`control answers and the process ends while ${op} does not return`, { skip }, async (t) => {
    using scratch = new Scratch()
    const slow = await SlowFs.mount(scratch.path)
    try {
      fill(`${slow.files}/source.img`, 4 * MiB)
      await using daemon = await Daemon.start({ directory: scratch.path })
      slow.rules({ op, delayMs: FOREVER_MS })
      let over = false
      const life = session(daemon, slow.mount).finally(() => {
        over = true
      })
      life.catch(() => undefined)
      for (let answers = 0; answers < ANSWERS; answers++) {
        await daemon.client.execute('query-jobs', {}, 5000)
        await daemon.client.execute('query-named-block-nodes', {}, 5000)
        await pace(2)
      }
      if (hangs) t.notOk(over, 'the call is still stuck')
      t.equal(await daemon.stop(5000), undefined, 'ends by SIGTERM although a call is stuck')
    } finally {
      await slow.unmount()
    }
  })
}

t.test('another disk’s mirror completes while a read does not return', { skip }, async (t) => {
  using scratch = new Scratch()
  const slow = await SlowFs.mount(scratch.path)
  try {
    fill(`${slow.files}/source.img`, 4 * MiB)
    fill(scratch.file('other.img'), 32 * MiB)
    empty(scratch.file('other.copy'), 32 * MiB)
    await using daemon = await Daemon.start({ directory: scratch.path })
    slow.rules({ op: 'read', delayMs: FOREVER_MS })
    session(daemon, slow.mount).catch(() => undefined)
    const { client } = daemon
    await client.status('slow', 'running')
    await client.execute('blockdev-add', rawNode('other', scratch.file('other.img')))
    await client.execute('blockdev-add', rawNode('copy', scratch.file('other.copy')))
    await client.execute('blockdev-mirror', {
      'job-id': 'other',
      device: 'other',
      target: 'copy',
      sync: 'full',
    })
    await client.event('BLOCK_JOB_READY', ({ device }) => device === 'other', 30_000)
    await client.execute('job-complete', { id: 'other' })
    await client.status('other', 'null', 30_000)
    await client.execute('blockdev-del', { 'node-name': 'other' }, 10_000)
    t.equal(await daemon.stop(5000), undefined)
  } finally {
    await slow.unmount()
  }
})

t.test('control answers while the closing of a passed descriptor does not return', { skip }, async (t) => {
  using scratch = new Scratch()
  await using daemon = await Daemon.start({ directory: scratch.path })
  const slow = await SlowFs.mount(scratch.path)
  try {
    fill(`${slow.files}/source.img`, MiB)
    const client = await ControlClient.passing(`${daemon.socket}1`)
    await client.next()
    await client.call('qmp_capabilities')
    const fd = openSync(`${slow.mount}/source.img`, 'r+')
    for (const fdname of ['one', 'other', 'third']) {
      client.sendWith(JSON.stringify({ execute: 'getfd', arguments: { fdname } }), [fd])
      t.same(await client.next(), { return: {} })
    }
    // With nobody to take it.
    client.sendWith(' ', [fd])
    closeSync(fd)
    slow.rules({ op: 'flush', delayMs: FOREVER_MS })
    t.same(await client.call('closefd', { fdname: 'one' }), { return: {} })
    client.close()
    for (let answers = 0; answers < ANSWERS; answers++) {
      await daemon.client.execute('query-jobs', {}, 5000)
      await pace(2)
    }
  } finally {
    await slow.unmount()
  }
  t.equal(await daemon.stop(5000), undefined)
})

t.test('a job stuck in a call says which, on which node and for how long', { skip }, async (t) => {
  using scratch = new Scratch()
  const slow = await SlowFs.mount(scratch.path)
  try {
    fill(`${slow.files}/source.img`, 4 * MiB)
    await using daemon = await Daemon.start({ directory: scratch.path })
    slow.rules({ op: 'read', delayMs: FOREVER_MS })
    session(daemon, slow.mount).catch(() => undefined)
    await daemon.client.status('slow', 'running')
    let oldest: unknown
    for (let tries = 0; !(isRecord(oldest) && oldest.operation === 'read') && tries < 2000; tries++) {
      const jobs = await daemon.client.execute('query-jobs')
      oldest = Array.isArray(jobs) ? jobs[0]?.['x-oldest-request'] : undefined
      await pace(5)
    }
    t.match(oldest, { operation: 'read', node: String, 'age-ms': Number })
  } finally {
    await slow.unmount()
  }
})
