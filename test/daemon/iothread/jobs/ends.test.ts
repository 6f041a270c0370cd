// SPDX-License-Identifier: Apache-2.0
// What jobs give back in the end, also when some of it cannot be given back, or others want it by then.

import { truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { IoError } from '../../../../daemon/errors.js'
import { PERMISSIONS } from '../../../../daemon/iothread/block/driver.js'
import { Buffers } from '../../../../daemon/iothread/copy/buffers.js'
import { createImage } from '../../../../daemon/iothread/jobs/create.js'
import { usualImage } from '../../../../daemon/iothread/messages-create.js'
import { type TestGraph, testGraph } from '../../../helpers/graph.js'
import { GraphJobs, turn } from '../../../helpers/graph-jobs.js'
import { backupSpec, mirrorSpec } from '../../../helpers/iothread.js'

const MIB = 2 ** 20
const EIO = 5

for (const kind of ['backup', 'mirror'] as const)
  t.test(`what a ${kind} cannot give back keeps it from giving back nothing else`, async (t) => {
    const g = testGraph(t)
    const jobs = new GraphJobs(g)
    const src = await g.add({ driver: 'x-memory', 'node-name': 'src', size: MIB })
    const filename = join(t.testdir(), 'dst')
    writeFileSync(filename, '')
    truncateSync(filename, MIB)
    const { driver } = await g.add({ driver: 'file', 'node-name': 'dst', filename })
    const spec = { filter: 'top', ownsTarget: true }
    await jobs.start('j', kind === 'backup' ? backupSpec(spec) : mirrorSpec({ ...spec, autoComplete: true }))
    t.same((await jobs.report('job-ended', 'j')).outcome, { kind: 'success' })
    driver.lock = async () => {
      throw new IoError(EIO, 'lock', 'dst')
    }
    await t.rejects(async () => jobs.verbs['job-finalize']({ id: 'j', commit: true }), {
      message: /Input\/output error/,
    })
    t.strictSame([...g.reports.keys()], ['src'], 'neither filter nor target are left')
    const claim = await g.graph.claim('a guest', src, { use: PERMISSIONS, share: [] })
    await claim.release()
  })

/** An image that is only read, above a file of ones that is defined inside it. */
async function addImage(t: Test, g: TestGraph): Promise<void> {
  const filename = join(t.testdir(), 'base')
  writeFileSync(filename, Buffer.alloc(4 * MIB, 1))
  await g.add({ driver: 'x-memory', 'node-name': 'memory', size: 0 })
  const options = usualImage(4 * MIB)
  const spec = { kind: 'create', driver: 'qcow2', file: 'memory', dataFile: undefined, options } as const
  await createImage(g.graph, spec, new Buffers(g.engine), new AbortController().signal)
  const backing = { driver: 'file', 'node-name': 'base', filename }
  const image = { driver: 'qcow2', 'node-name': 'image', file: 'memory', backing, 'read-only': true }
  await g.add(image)
}

const FILTER = { name: '#filter', below: 'image' }

for (const written of [true, false])
  t.test(
    `an image that a job has made writable ${written ? 'stays so for its writer' : 'is only read again'}`,
    async (t) => {
      const g = testGraph(t)
      const jobs = new GraphJobs(g)
      await addImage(t, g)
      const image = g.graph.node('image')
      const stream = { kind: 'stream', node: 'image', base: undefined, backing: undefined, speed: 1 } as const
      await jobs.start('j', { ...stream, filter: FILTER, onError: 'report', yielding: true })
      const writer = { use: ['write'] as const, share: PERMISSIONS }
      const claim = written ? await g.graph.claim('a guest', image, writer) : undefined
      await jobs.verbs['job-set-speed']({ id: 'j', speed: 0 })
      t.same((await jobs.report('job-ended', 'j')).outcome, { kind: 'success' })
      await jobs.verbs['job-finalize']({ id: 'j', commit: true })
      t.equal(image.readOnly, !written)
      t.equal(g.reports.get('image')?.readOnly, !written)
      if (claim === undefined) return
      await g.write(claim.node, 0, Buffer.alloc(512, 2))
      await claim.release()
    },
  )

for (const other of ['removed', 'put below another node'] as const)
  t.test(`a stream ends well when what it makes superfluous is ${other} at that moment`, async (t) => {
    const g = testGraph(t)
    const jobs = new GraphJobs(g)
    const rules = [{ op: 'open', 'delay-ms': 2000 }]
    const slow = { driver: 'x-inject', 'node-name': 'above', file: 'base', rules }
    await addImage(t, g)
    const stream = { kind: 'stream', node: 'image', base: undefined, backing: undefined, speed: 0 } as const
    await jobs.start('j', { ...stream, filter: FILTER, onError: 'report', yielding: true })
    await jobs.report('job-ended', 'j')
    const adding = other === 'removed' ? undefined : g.add(slow).catch((error: Error) => error.message)
    const ending = Promise.resolve(jobs.verbs['job-finalize']({ id: 'j', commit: true }))
    const gone = () => g.graph.remove('base').catch(() => undefined)
    for (let over = false; !over; await turn()) {
      if (other === 'removed') await gone()
      over = await Promise.race([ending.then(() => true), turn().then(() => false)])
    }
    if (adding !== undefined) t.equal(await adding, "Cannot find device='base' nor node-name='base'")
    t.strictSame([...g.reports.keys()].sort(), ['image', 'memory'])
    t.equal((await g.read(g.graph.node('image'), 0, 1))[0], 1)
  })
