// SPDX-License-Identifier: Apache-2.0
// Mirrors that are interrupted: a killed daemon, a full disk, files that another process uses.

import { statSync, truncateSync } from 'node:fs'
import t from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { fileSystemAbsent, MountedImage } from '../helpers/loop.js'
import type { QmpClient } from '../helpers/qmp-client.js'
import { difference, empty, fill, MiB, rawNode, Scratch } from '../helpers/scratch.js'

const SIZE = 64 * MiB

async function addBoth(client: QmpClient, source: string, target: string): Promise<void> {
  await client.execute('blockdev-add', rawNode('source', source))
  await client.execute('blockdev-add', rawNode('target', target))
}

async function mirror(client: QmpClient, more: object = {}): Promise<void> {
  await client.execute('blockdev-mirror', {
    'job-id': 'm',
    device: 'source',
    target: 'target',
    sync: 'full',
    ...more,
  })
}

t.test('a rerun repairs what a killed daemon left', async (t) => {
  using scratch = new Scratch()
  const [source, target] = [scratch.file('source.img'), scratch.file('target.img')]
  fill(source, SIZE)
  fill(target, SIZE, 77)
  {
    await using daemon = await Daemon.start({ directory: scratch.path })
    await addBoth(daemon.client, source, target)
    await mirror(daemon.client, { speed: 16 * MiB, 'buf-size': 4 * MiB })
    await daemon.client.status('m', 'running')
    daemon.running.child.kill('SIGKILL')
    t.equal(await daemon.running.ended(10_000), -9)
  }
  t.ok(difference(source, target), 'the first run did not finish')
  await using daemon = await Daemon.start({ directory: scratch.path })
  await addBoth(daemon.client, source, target)
  await mirror(daemon.client)
  await daemon.client.event('BLOCK_JOB_READY')
  await daemon.client.execute('job-complete', { id: 'm' })
  await daemon.client.status('m', 'null')
  t.equal(difference(source, target), undefined)
})

t.test(
  'a full disk stops the job and more room lets it finish',
  { skip: fileSystemAbsent('tmpfs') },
  async (t) => {
    using scratch = new Scratch()
    using volume = MountedImage.make(scratch.path, 'tmpfs', 16 * MiB)
    const [source, target] = [scratch.file('source.img'), `${volume.path}/target.img`]
    fill(source, SIZE)
    empty(target, SIZE)
    await using daemon = await Daemon.start({ directory: scratch.path })
    const { client } = daemon
    await addBoth(client, source, target)
    await mirror(client, { 'on-target-error': 'enospc' })
    await client.event(
      'BLOCK_JOB_ERROR',
      ({ action, operation }) => action === 'stop' && operation === 'write',
    )
    await client.status('m', 'paused')
    t.match(await client.execute('query-block-jobs'), [
      { 'io-status': 'nospace', status: 'paused', paused: true },
    ])
    volume.resize(2 * SIZE)
    await client.execute('job-resume', { id: 'm' })
    await client.event('BLOCK_JOB_READY')
    t.match(await client.execute('query-block-jobs'), [{ 'io-status': 'ok', status: 'ready' }])
    await client.execute('job-complete', { id: 'm' })
    await client.status('m', 'null')
    t.equal(difference(source, target), undefined)
  },
)

t.test('a pre-filled target of a sparse source ends equal', async (t) => {
  using scratch = new Scratch()
  const [source, target] = [scratch.file('source.img'), scratch.file('target.img')]
  empty(source, SIZE)
  fill(target, SIZE)
  await using daemon = await Daemon.start({ directory: scratch.path })
  await addBoth(daemon.client, source, target)
  await mirror(daemon.client)
  await daemon.client.event('BLOCK_JOB_READY')
  await daemon.client.execute('job-complete', { id: 'm' })
  await daemon.client.status('m', 'null')
  t.equal(difference(source, target), undefined)
})

t.test('drive-mirror with unmap leaves holes where the source has zeroes', async (t) => {
  using scratch = new Scratch()
  const source = scratch.file('source.img')
  fill(source, MiB)
  const target = scratch.file('target.img')
  truncateSync(source, SIZE)
  await using daemon = await Daemon.start({ directory: scratch.path })
  const { client } = daemon
  await client.execute('blockdev-add', rawNode('source', source))
  await client.execute('drive-mirror', {
    'job-id': 'm',
    device: 'source',
    target,
    sync: 'full',
    format: 'raw',
  })
  await client.event('BLOCK_JOB_READY')
  await client.execute('job-complete', { id: 'm' })
  await client.status('m', 'null')
  t.equal(difference(source, target), undefined)
  t.ok(statSync(target).blocks * 512 <= 1.01 * statSync(source).blocks * 512 + 8192)
})
