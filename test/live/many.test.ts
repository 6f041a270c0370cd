// SPDX-License-Identifier: Apache-2.0
// Many disks in one daemon: their mirrors run at once and leave nothing behind.

import t from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { difference, empty, fill, MiB, rawNode, Scratch } from '../helpers/scratch.js'
import { pace } from '../helpers/waiting.js'

t.test('two disks are worked on by two threads more than none', async (t) => {
  using scratch = new Scratch()
  await using daemon = await Daemon.start({ directory: scratch.path })
  const none = daemon.threads()
  for (const name of ['a', 'b']) {
    empty(scratch.file(name), MiB)
    await daemon.client.execute('blockdev-add', rawNode(name, scratch.file(name)))
  }
  t.ok(daemon.threads() >= none + 2)
})

t.test('64 mirrors at once complete, and their ends leave no descriptor', async (t) => {
  using scratch = new Scratch()
  await using daemon = await Daemon.start({ directory: scratch.path })
  const before = await daemon.settledDescriptors()
  const disks = Array.from({ length: 64 }, (_, n) => ({ id: `j${n}`, source: `s${n}`, target: `t${n}` }))
  await Promise.all(
    disks.map(async ({ id, source, target }, n) => {
      fill(scratch.file(source), MiB, n)
      empty(scratch.file(target), MiB)
      await daemon.client.execute('blockdev-add', rawNode(source, scratch.file(source)))
      await daemon.client.execute('blockdev-add', rawNode(target, scratch.file(target)))
      await daemon.client.execute('blockdev-mirror', { 'job-id': id, device: source, target, sync: 'full' })
    }),
  )
  await Promise.all(
    disks.map(async ({ id }) => {
      await daemon.client.event('BLOCK_JOB_READY', ({ device }) => device === id)
      await daemon.client.execute('job-complete', { id })
      await daemon.client.status(id, 'null')
    }),
  )
  for (const { source, target } of disks) {
    t.equal(difference(scratch.file(source), scratch.file(target)), undefined)
    for (const name of [source, target]) await daemon.client.execute('blockdev-del', { 'node-name': name })
  }
  t.same(await daemon.client.execute('query-named-block-nodes'), [])
  for (let tries = 0; daemon.descriptors().length > before && tries < 600; tries++) await pace(50)
  t.equal(daemon.descriptors().length, before)
  t.equal(await daemon.stop(), undefined)
})
