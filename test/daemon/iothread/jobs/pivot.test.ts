// SPDX-License-Identifier: Apache-2.0
// Mirrors below a guest that writes all the time: whatever is paused, cancelled or completed when, the guest must not see
// it, and what says that it is a copy must be one. Prints its seed; SEED=n repeats it.

import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { PERMISSIONS } from '../../../../daemon/iothread/block/driver.js'
import type { MirrorSpec } from '../../../../daemon/iothread/messages.js'
import { newSeed, random, type TestGraph, testGraph } from '../../../helpers/graph.js'
import { GraphJobs, guestOf, turn } from '../../../helpers/graph-jobs.js'
import { mirrorSpec } from '../../../helpers/iothread.js'
import { BLOCK, StampedDisk } from '../../../helpers/stamped-disk.js'
import { pace } from '../../../helpers/waiting.js'

type Below = (below: number) => number

const BLOCKS = 512
const LIVES = 10
const ENDS = ['pivot', 'pivot', 'cancel', 'force'] as const

async function addDisk(g: TestGraph, name: string, path: string, rules: object[] = []): Promise<void> {
  const file = { driver: 'file', 'node-name': `${name}-file`, filename: path, discard: 'unmap' }
  await g.add({ driver: 'x-inject', 'node-name': name, file, rules, discard: 'unmap' })
}

/** Slow, and now and then refusing, but never for good. */
function troubles(below: Below): object[] {
  const ops = ['write', 'read', 'zero', 'flush'] as const
  return Array.from({ length: below(4) }, () => ({
    op: ops[below(ops.length)],
    nth: 1 + below(20),
    count: 1 + below(30),
    'delay-ms': 1 + below(5),
  }))
}

/** One mirror from its start to its end. @returns whether the target is the guest's disk now */
async function life(
  t: Test,
  jobs: GraphJobs,
  id: string,
  spec: MirrorSpec,
  equal: () => boolean,
  below: Below,
): Promise<boolean> {
  const end = ENDS[below(ENDS.length)] ?? 'pivot'
  await jobs.start(id, spec)
  const verb = async (name: 'job-pause' | 'job-resume') => void (await jobs.verbs[name]({ id }))
  const pauses = async () => {
    for (let left = below(3); left > 0; left--) {
      for (let wait = below(60); wait > 0; wait--) await turn()
      await verb('job-pause')
      for (let wait = below(60); wait > 0; wait--) await turn()
      await verb('job-resume')
    }
  }
  if (below(3) === 0) await jobs.verbs['job-change']({ id, copyMode: 'write-blocking' })
  await pauses()
  if (end === 'force' && below(2) === 0) {
    await jobs.verbs['job-cancel']({ id })
  } else {
    jobs.converging = true
    await jobs.report('job-ready', id)
    jobs.converging = false
    await pauses()
    for (let wait = below(100); wait > 0; wait--) await turn()
    if (end === 'force') await jobs.verbs['job-cancel']({ id })
    else await jobs.verbs['job-complete']({ id, pivot: end === 'pivot' })
  }
  const { outcome } = await jobs.report('job-ended', id)
  if (end === 'force') {
    t.equal(outcome.kind, 'cancelled', `${id} was cancelled`)
    return false
  }
  t.same(outcome, { kind: 'success' }, `${id} ended with ${end}`)
  t.ok(equal(), `${id}: the target is equal while the guest waits`)
  for (let wait = below(30); wait > 0; wait--) await turn()
  await jobs.verbs['job-finalize']({ id, commit: true })
  return end === 'pivot'
}

for (const copyMode of ['background', 'write-blocking'] as const)
  t.test(`a guest that writes never notices, with copy-mode ${copyMode}`, async (t) => {
    const seed = newSeed()
    t.comment(`seed ${seed}`)
    const below = random(seed)
    const dir = t.testdir({})
    const paths = [0, 1].map((n) => join(dir, `disk${n}`))
    for (const path of paths) writeFileSync(path, '')
    for (const path of paths) truncateSync(path, BLOCKS * BLOCK)
    const g = testGraph(t)
    const jobs = new GraphJobs(g)
    await addDisk(g, 'disk0', paths[0] ?? '')
    const moves: string[] = []
    const claim = await g.graph.claim(
      'a guest',
      g.graph.node('disk0'),
      { use: ['consistent read', 'write'], share: PERMISSIONS },
      (to) => moves.push(to.name),
    )
    const guest = new StampedDisk(guestOf(g, claim), BLOCKS, below)
    const running = guest.run(6, 2, async () => {
      do await turn()
      while (jobs.converging ? below(2000) > 0 : below(2) > 0)
    })
    running.catch(() => undefined)
    const equal = () => readFileSync(paths[0] ?? '').equals(readFileSync(paths[1] ?? ''))
    const expected: string[] = []
    for (let at = 0, source = 0; at < LIVES; at++) {
      const target = 1 - source
      if (below(3) === 0) writeFileSync(paths[target] ?? '', Buffer.alloc(BLOCKS * BLOCK, 0xaa))
      await addDisk(g, `disk${at + 1}`, paths[target] ?? '', troubles(below))
      const from = claim.node.name
      const spec = mirrorSpec({
        ...{ source: from, target: `disk${at + 1}`, filter: `#filter${at}`, copyMode },
        granularity: [4096, 65536, 1 << 20][below(3)] ?? 0,
        bufSize: below(2) * (1 << (16 + below(5))),
        onTargetError: 'ignore',
      })
      const moved = await Promise.race([life(t, jobs, `j${at}`, spec, equal, below), running])
      if (moved === undefined) break
      if (moved) {
        expected.push(`disk${at + 1}`)
        source = target
      }
      t.equal(claim.node.name, moved ? `disk${at + 1}` : from)
      await g.graph.remove(moved ? from : `disk${at + 1}`)
    }
    guest.stop()
    await running
    await guest.verify()
    t.same(moves, expected)
    t.comment(`${guest.requests} requests, ${moves.length} moves`)
    await claim.release()
    t.same(g.log, [])
  })

t.test('a node put above the source goes on with the target', async (t) => {
  const dir = t.testdir({ src: Buffer.alloc(BLOCK, 1), dst: Buffer.alloc(BLOCK) })
  const g = testGraph(t)
  const jobs = new GraphJobs(g)
  await addDisk(g, 'src', join(dir, 'src'))
  await addDisk(g, 'dst', join(dir, 'dst'))
  await jobs.start('j', mirrorSpec({ filter: 'top' }))
  const late = await g.add({ driver: 'raw', 'node-name': 'late', file: 'src' })
  const writer = { use: ['consistent read', 'write'] as const, share: PERMISSIONS }
  const claim = await g.graph.claim('a guest', late, writer)
  await g.write(late, 0, Buffer.alloc(BLOCK, 2))
  await jobs.verbs['job-complete']({ id: 'j', pivot: true })
  await jobs.report('job-ended', 'j')
  const waiting = g.write(late, 0, Buffer.alloc(BLOCK, 3))
  await jobs.verbs['job-finalize']({ id: 'j', commit: true })
  await waiting
  t.equal(readFileSync(join(dir, 'src'))[0], 2)
  t.equal(readFileSync(join(dir, 'dst'))[0], 3)
  t.same(g.reports.get('late')?.children, { file: 'dst' })
  await claim.release()
  await g.graph.remove('src')
  await t.rejects(g.graph.remove('dst'), { message: 'Block device dst is in use' })
})

t.test('a target takes the place of what only a filter separates from the source', async (t) => {
  const dir = t.testdir({ src: Buffer.alloc(BLOCK, 1), dst: Buffer.alloc(BLOCK) })
  const g = testGraph(t)
  const jobs = new GraphJobs(g)
  await addDisk(g, 'src', join(dir, 'src'))
  await addDisk(g, 'dst', join(dir, 'dst'))
  const top = await g.add({ driver: 'x-inject', 'node-name': 'filter', file: 'src', rules: [] })
  const writer = { use: ['consistent read', 'write'] as const, share: PERMISSIONS }
  const claim = await g.graph.claim('a guest', top, writer, () => t.fail('moved'))
  await jobs.start('j', mirrorSpec({ source: 'filter', filter: 'top', replaces: 'src' }))
  await g.write(claim.node, 0, Buffer.alloc(BLOCK, 2))
  await jobs.verbs['job-complete']({ id: 'j', pivot: true })
  await jobs.report('job-ended', 'j')
  const waiting = g.write(claim.node, 0, Buffer.alloc(BLOCK, 3))
  await jobs.verbs['job-finalize']({ id: 'j', commit: true })
  await waiting
  t.equal(readFileSync(join(dir, 'src'))[0], 2)
  t.equal(readFileSync(join(dir, 'dst'))[0], 3)
  t.same(g.reports.get('filter')?.children, { file: 'dst' })
  await claim.release()
  await g.graph.remove('src')
})

t.test('a node put above the source when all is held keeps the target from taking its place', async (t) => {
  const dir = t.testdir({ src: Buffer.alloc(BLOCK, 1), dst: Buffer.alloc(BLOCK) })
  const g = testGraph(t)
  const jobs = new GraphJobs(g)
  await addDisk(g, 'src', join(dir, 'src'))
  await addDisk(g, 'dst', join(dir, 'dst'))
  const writer = { use: ['consistent read', 'write'] as const, share: PERMISSIONS }
  const claim = await g.graph.claim('a guest', g.graph.node('src'), writer, () => t.fail('moved'))
  await jobs.start('j', mirrorSpec({ filter: 'top' }))
  await jobs.verbs['job-complete']({ id: 'j', pivot: true })
  await jobs.report('job-ended', 'j')
  await g.add({ driver: 'raw', 'node-name': 'late', file: 'src' })
  await t.rejects(async () => jobs.verbs['job-finalize']({ id: 'j', commit: true }), {
    message: "Node 'late' was put above 'src' meanwhile and cannot be moved to 'dst'",
  })
  t.equal(claim.node.name, 'src', 'it goes on where it was')
  await g.write(claim.node, 0, Buffer.alloc(BLOCK, 2))
  t.equal(readFileSync(join(dir, 'src'))[0], 2)
  t.equal(readFileSync(join(dir, 'dst'))[0], 1)
})

for (const { name, stalls, replaces } of [
  { name: 'a node above the source', stalls: 'above', replaces: undefined },
  { name: 'the source', stalls: 'src', replaces: undefined },
  { name: 'a node above what is replaced', stalls: 'above', replaces: 'below' },
])
  t.test(`a mirror that waits at its end for ${name} can be cancelled, and nothing is held up`, async (t) => {
    const g = testGraph(t)
    const jobs = new GraphJobs(g)
    const rules = (node: string) => (node === stalls ? [{ op: 'read', stall: true }] : [])
    for (const node of ['below', 'dst'])
      await g.add({ driver: 'x-memory', 'node-name': node, size: 4 * BLOCK })
    await g.add({ driver: 'x-inject', 'node-name': 'src', file: 'below', rules: rules('src') })
    const file = replaces ?? 'src'
    await g.add({ driver: 'x-inject', 'node-name': 'above', file, rules: rules('above') })
    await jobs.start('j', mirrorSpec({ filter: 'top', ...(replaces !== undefined && { replaces }) }))
    await jobs.report('job-ready', 'j')
    const slot = g.engine.takeSlots(1)[0] ?? 0
    const stuck = g.graph.node(stalls)
    const reading = stuck.read(BLOCK, { slot, offset: 0, length: 512 })
    await jobs.verbs['job-complete']({ id: 'j', pivot: true })
    for (let turns = 0; turns < 200; turns++) await turn()
    t.equal(jobs.find('job-ended', 'j'), undefined, 'it waits')
    await jobs.verbs['job-cancel']({ id: 'j' })
    t.same((await jobs.report('job-ended', 'j')).outcome, { kind: 'cancelled' })
    for (const node of ['above', 'src', 'below']) await g.write(g.graph.node(node), 0, Buffer.alloc(512, 2))
    stuck.driver.release?.()
    await reading
  })

t.test('nodes above one another that lie above one node come to rest, the uppermost first', async (t) => {
  const g = testGraph(t)
  const node = await g.add({ driver: 'x-memory', 'node-name': 'disk', size: BLOCK })
  await g.add({
    ...{ driver: 'x-inject', 'node-name': 'between', file: 'disk' },
    rules: [{ op: 'read', 'delay-ms': 30 }],
  })
  // It copies what is between to the disk itself: a write waits for that, which is not under way between yet.
  const both = { driver: 'copy-before-write', 'node-name': 'upper', file: 'between', target: 'disk' }
  const upper = await g.add(both)
  const writing = g.write(upper, 0, Buffer.alloc(BLOCK, 7))
  await turn()
  const held = await g.graph.surgery.hold(node, [], node, { moving: false })
  t.same([...held.nodes].map(({ name }) => name).sort(), ['between', 'upper'])
  await writing
  held[Symbol.dispose]()
  t.equal((await g.read(node, 0, 1))[0], 7)
})

/** Two disks of one MiB, a guest on the first, and a ready mirror in write-blocking mode. */
async function through(t: Test, rules: object[] = [], more: Partial<MirrorSpec> = {}) {
  const dir = t.testdir({ src: Buffer.alloc(1 << 20, 1), dst: Buffer.alloc(1 << 20) })
  const [src, dst] = [join(dir, 'src'), join(dir, 'dst')]
  const g = testGraph(t)
  const jobs = new GraphJobs(g)
  await addDisk(g, 'src', src)
  await addDisk(g, 'dst', dst, rules)
  const writer = { use: ['consistent read', 'write'] as const, share: PERMISSIONS }
  const claim = await g.graph.claim('a guest', g.graph.node('src'), writer)
  await jobs.start('j', mirrorSpec({ filter: 'top', copyMode: 'write-blocking', ...more }))
  await jobs.report('job-ready', 'j')
  const equal = () => readFileSync(src).equals(readFileSync(dst))
  const end = async (pivot = false) => {
    await jobs.verbs['job-complete']({ id: 'j', pivot })
    const { outcome, progress } = await jobs.report('job-ended', 'j')
    t.same(outcome, { kind: 'success' })
    t.ok(equal())
    await jobs.verbs['job-finalize']({ id: 'j', commit: true })
    return progress
  }
  return { g, jobs, claim, guest: guestOf(g, claim), dst, equal, end }
}

t.test('with write-blocking a change is on the target when it is answered', async (t) => {
  const { guest, equal, end } = await through(t)
  await guest.write(4096, Buffer.alloc(512, 2))
  t.ok(equal(), 'less than a chunk')
  await guest.write(70_000, Buffer.alloc(300_000, 3))
  t.ok(equal(), 'unaligned')
  await guest.zero(100_000, 900_000)
  t.ok(equal(), 'zeroes')
  await Promise.all([4, 5, 6, 7, 8].map((byte) => guest.write(0, Buffer.alloc(8192, byte))))
  t.ok(equal(), 'whichever of several came last')
  t.match(await end(), { len: (1 << 20) + 512 + 300_000 + 900_000 + 5 * 8192, activelySynced: true })
})

t.test('with write-blocking a target that fails does not fail the guest', async (t) => {
  const { guest, equal, jobs, end } = await through(t, [{ op: 'write', nth: 2, errno: 5 }])
  await guest.write(0, Buffer.alloc(4096, 2))
  t.notOk(equal(), 'it is to be copied again')
  await end()
  t.notOk(
    jobs.reports.some(({ kind }) => kind === 'job-error'),
    'the second time it went well',
  )
})

t.test(
  'with write-blocking and a target that keeps failing the job ends, and the guest goes on',
  async (t) => {
    const { guest, jobs, g, claim } = await through(t, [{ op: 'write', nth: 2, count: 99, errno: 5 }])
    await guest.write(0, Buffer.alloc(4096, 2))
    const { outcome } = await jobs.report('job-ended', 'j')
    t.same(outcome, { kind: 'failed', error: 'Input/output error' })
    await guest.write(0, Buffer.alloc(4096, 3))
    t.equal((await g.read(claim.node, 0, 1))[0], 3)
  },
)

t.test('a guest does not wait for the target of a paused job', async (t) => {
  const { guest, jobs, equal, end } = await through(t)
  await jobs.verbs['job-pause']({ id: 'j' })
  await jobs.report('job-paused', 'j')
  await guest.write(0, Buffer.alloc(4096, 2))
  t.notOk(equal())
  await jobs.verbs['job-resume']({ id: 'j' })
  await end()
})

t.test('a change to write-blocking counts for what is written from then on', async (t) => {
  const { guest, jobs, equal, end } = await through(t, [], { copyMode: 'background' })
  await jobs.verbs['job-change']({ id: 'j', copyMode: 'write-blocking' })
  await guest.write(0, Buffer.alloc(4096, 2))
  t.ok(equal())
  await end()
})

t.test('what was found to be zero is not zeroed after a guest wrote there', async (t) => {
  const dir = t.testdir({ src: '', dst: Buffer.alloc(1 << 20, 0xaa) })
  const [src, dst] = [join(dir, 'src'), join(dir, 'dst')]
  truncateSync(src, 1 << 20)
  const g = testGraph(t)
  const jobs = new GraphJobs(g)
  await addDisk(g, 'src', src, [{ op: 'status', nth: 1, 'delay-ms': 100 }])
  await addDisk(g, 'dst', dst, [{ op: 'zero', nth: 1, 'delay-ms': 600 }])
  const writer = { use: ['consistent read', 'write'] as const, share: PERMISSIONS }
  const claim = await g.graph.claim('a guest', g.graph.node('src'), writer)
  const guest = guestOf(g, claim)
  await jobs.start('j', mirrorSpec({ filter: 'top', copyMode: 'write-blocking' }))
  // The guest's zeroes keep the job's own from beginning, which it knows of when the guest writes among them.
  const zeroed = guest.zero(0, 4096)
  await pace(300)
  await guest.write(1 << 19, Buffer.alloc(4096, 7))
  t.equal(readFileSync(dst)[1 << 19], 7)
  await zeroed
  await jobs.report('job-ready', 'j')
  t.ok(readFileSync(src).equals(readFileSync(dst)))
  await jobs.verbs['job-cancel']({ id: 'j' })
  await jobs.report('job-ended', 'j')
})
