// SPDX-License-Identifier: Apache-2.0
// Jobs that are not to yield to guests do not, and those that get nowhere yield less. How the others do is tested with Courtesy,
// under a clock of its own.

import t, { type Test } from 'tap'
import { BeforeWrite } from '../../../../daemon/iothread/block/before-write.js'
import { DirtyBitmap } from '../../../../daemon/iothread/block/dirty-bitmap.js'
import { Guests } from '../../../../daemon/iothread/block/guests.js'
import type { Judgement } from '../../../../daemon/iothread/block/usual.js'
import { Buffers } from '../../../../daemon/iothread/copy/buffers.js'
import { BackupJob } from '../../../../daemon/iothread/jobs/backup.js'
import { createImage } from '../../../../daemon/iothread/jobs/create.js'
import { MirrorJob } from '../../../../daemon/iothread/jobs/mirror.js'
import { OnePass } from '../../../../daemon/iothread/jobs/one-pass.js'
import { usualImage } from '../../../../daemon/iothread/messages-create.js'
import { type TestGraph, testGraph } from '../../../helpers/graph.js'
import { GraphJobs, turn } from '../../../helpers/graph-jobs.js'
import { backupSpec, mirrorSpec } from '../../../helpers/iothread.js'
import { TestControl } from '../../../helpers/test-control.js'

const MIB = 2 ** 20
const SIZE = 8 * MIB

/** A disk full of data, and a target that takes nothing yet. */
async function stuckTarget(t: Test): Promise<TestGraph> {
  const g = testGraph(t)
  for (const node of ['src', 'dst-memory']) await g.add({ driver: 'x-memory', 'node-name': node, size: SIZE })
  const rules = [{ op: 'write', count: 0, stall: true }]
  await g.add({ driver: 'x-inject', 'node-name': 'dst', file: 'dst-memory', rules })
  const source = g.graph.node('src')
  for (let at = 0; at < SIZE; at += MIB) await g.write(source, at, Buffer.alloc(MIB, 1))
  return g
}

const jobs = [
  { name: 'a mirror that does not yield', spec: mirrorSpec({ yielding: false }) },
  { name: 'a mirror with write-blocking', spec: mirrorSpec({ copyMode: 'write-blocking' }) },
  { name: 'a backup that does not yield', spec: backupSpec({ yielding: false }) },
]
for (const { name, spec } of jobs)
  t.test(`${name} has all in flight beside a guest`, async (t) => {
    const g = await stuckTarget(t)
    const source = g.graph.node('src')
    const table = new GraphJobs(g)
    const guest = g.graph.guests.join()
    await table.start('j', spec)
    while (source.stats.readBytes < SIZE) {
      guest.seen()
      await turn()
    }
    t.equal(g.graph.node('dst-memory').stats.writes, 0)
    g.graph.node('dst').driver.release?.()
    await table.report(spec.kind === 'mirror' ? 'job-ready' : 'job-ended', 'j')
    if (spec.kind === 'mirror') {
      await table.verbs['job-complete']({ id: 'j', pivot: false })
      await table.report('job-ended', 'j')
    }
    await table.verbs['job-finalize']({ id: 'j', commit: true })
  })

const copies = [
  {
    name: 'a mirror',
    make: async ({ graph, engine }: TestGraph) => {
      const job = new MirrorJob(mirrorSpec(), graph, new Buffers(engine), new TestControl())
      await job.prepare()
      job.complete(false)
      return { job, run: () => job.run(), end: () => job.finalize(true) }
    },
  },
  {
    name: 'a backup',
    make: async ({ graph, engine }: TestGraph) => {
      const job = new BackupJob(backupSpec(), graph, new Buffers(engine), new TestControl())
      await job.prepare()
      return { job, run: () => job.run(), end: () => job.finalize(true) }
    },
  },
  {
    name: 'the one pass of a commit or a stream',
    make: async ({ graph, engine }: TestGraph) => {
      const ends = { source: graph.node('src'), target: graph.node('dst') }
      const pass = { ...ends, guests: graph.guests, speed: 0, yielding: true }
      const job = new OnePass(pass, new Buffers(engine), new TestControl())
      return { job, run: () => job.run('all'), end: async () => undefined }
    },
  },
]
for (const { name, make } of copies)
  t.test(`${name} that gets nowhere beside a guest has more in flight after some time`, async (t) => {
    const g = await stuckTarget(t)
    const source = g.graph.node('src')
    const guest = g.graph.guests.join()
    guest.began()
    const { job, run, end } = await make(g)
    const running = run()
    const begun = async (bytes: number) => {
      while (source.stats.readBytes < bytes) {
        guest.seen()
        await turn()
      }
    }
    await begun(MIB / 4)
    for (let turns = 0; turns < 300; turns++) await begun(0).then(turn)
    t.equal(source.stats.readBytes, MIB / 4, 'one piece')
    for (const at of [0, 10_000, 20_000, 30_000]) {
      guest.seen()
      job.look(at)
    }
    await begun(SIZE)
    t.equal(g.graph.node('dst-memory').stats.writes, 0)
    g.graph.node('dst').driver.release?.()
    await running
    await end()
    t.equal(job.progress().offset, SIZE)
  })

t.test('the time in which a backup finds out what to copy does not count', async (t) => {
  const g = await stuckTarget(t)
  await g.add({ driver: 'x-memory', 'node-name': 'image', size: 0 })
  const options = usualImage(SIZE)
  const spec = { kind: 'create', driver: 'qcow2', file: 'image', dataFile: undefined, options } as const
  await createImage(g.graph, spec, new Buffers(g.engine), new AbortController().signal)
  await g.add({ driver: 'qcow2', 'node-name': 'top', file: 'image', backing: 'src' })
  const rules = [{ op: 'status', nth: 1, stall: true }]
  const source = await g.add({ driver: 'x-inject', 'node-name': 'slow', file: 'top', rules })
  for (let at = 0; at < SIZE; at += MIB) await g.write(source, at, Buffer.alloc(MIB, 2))
  const before = source.stats.readBytes
  const guest = g.graph.guests.join()
  guest.began()
  const spoken = backupSpec({ source: 'slow', sync: 'top' })
  const job = new BackupJob(spoken, g.graph, new Buffers(g.engine), new TestControl())
  await job.prepare()
  const running = job.run()
  const turns = async (count: number) => {
    for (let left = count; left > 0; left--) {
      guest.seen()
      await turn()
    }
  }
  while (g.graph.oldest()?.node !== 'slow') await turns(1)
  const look = (at: number) => {
    guest.seen()
    job.look(at)
  }
  for (const at of [0, 10_000, 20_000, 30_000, 40_000]) look(at)
  source.driver.release?.()
  while (source.stats.readBytes - before < MIB / 4) await turns(1)
  await turns(300)
  t.equal(source.stats.readBytes - before, MIB / 4, 'one piece')
  g.graph.node('dst').driver.release?.()
  await running
  await job.finalize(true)
})

t.test('a write that waits for its copy has met one', async (t) => {
  const g = await stuckTarget(t)
  let at = 1000
  const guests = new Guests(() => at)
  const felt: Judgement[] = []
  guests.addListener((judged) => felt.push(judged))
  const guest = guests.join()
  const write = async (ms: number, work: () => Promise<void>) => {
    const began = guest.began()
    const done = work()
    at += ms
    g.graph.node('dst').driver.release?.()
    await done
    guest.ended('write', 4096, began)
  }
  const todo = new DirtyBitmap(SIZE, 65536)
  todo.set(0, SIZE)
  const snapshot = g.graph.snapshot({
    ...{ source: g.graph.node('src'), target: g.graph.node('dst'), todo, access: undefined },
    how: { unmap: false, vouched: false },
  })
  const policy = { onError: 'break-guest-write', timeoutMs: 0 } as const
  const guard = new BeforeWrite(snapshot, policy, guests, () => undefined)
  for (let times = 0; times < 8; times++) await write(1, async () => undefined)
  await write(2, () => guard.before(0, 4096))
  t.same(felt, ['late'])
  await write(2, () => guard.before(0, 4096))
  t.same(felt, ['late'], 'it was copied already')
  await guard.end()
  snapshot.close()
})
