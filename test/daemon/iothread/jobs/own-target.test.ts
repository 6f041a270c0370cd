// SPDX-License-Identifier: Apache-2.0
// Mirrors to a target that is their own: it stays with those who move to it, and is closed with the job after every other end.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { PERMISSIONS } from '../../../../daemon/iothread/block/driver.js'
import { type TestGraph, testGraph } from '../../../helpers/graph.js'
import { GraphJobs } from '../../../helpers/graph-jobs.js'
import { mirrorSpec } from '../../../helpers/iothread.js'
import { BLOCK } from '../../../helpers/stamped-disk.js'

async function addDisk(g: TestGraph, name: string, path: string, rules: object[] = []): Promise<void> {
  const file = { driver: 'file', 'node-name': `${name}-file`, filename: path, discard: 'unmap' }
  await g.add({ driver: 'x-inject', 'node-name': name, file, rules, discard: 'unmap' })
}

/** A source with a guest who may move, and a target that the job owns. */
async function owned(t: Test, rules: { source?: object[]; target?: object[] } = {}) {
  const dir = t.testdir({ src: Buffer.alloc(BLOCK, 1), dst: Buffer.alloc(BLOCK) })
  const g = testGraph(t)
  const jobs = new GraphJobs(g)
  await addDisk(g, 'src', join(dir, 'src'), rules.source)
  await addDisk(g, 'dst', join(dir, 'dst'), rules.target)
  const writer = { use: ['consistent read', 'write'] as const, share: PERMISSIONS }
  const claim = await g.graph.claim('a guest', g.graph.node('src'), writer, () => undefined)
  await jobs.start('j', mirrorSpec({ filter: 'top', ownsTarget: true }))
  await jobs.report('job-ready', 'j')
  const complete = async () => {
    await jobs.verbs['job-complete']({ id: 'j', pivot: true })
    return (await jobs.report('job-ended', 'j')).outcome
  }
  const finalize = async () => await jobs.verbs['job-finalize']({ id: 'j', commit: true })
  const gone = () => !g.graph.nodes().some(({ name }) => name === 'dst')
  return {
    g,
    jobs,
    claim,
    complete,
    finalize,
    gone,
    first: (name: string) => readFileSync(join(dir, name))[0],
  }
}

t.test("a job's own target stays with those who move to it", async (t) => {
  const { g, claim, complete, finalize, gone, first } = await owned(t)
  t.same(await complete(), { kind: 'success' })
  await finalize()
  t.equal(claim.node.name, 'dst')
  t.notOk(gone())
  await g.write(claim.node, 0, Buffer.alloc(BLOCK, 2))
  t.equal(first('src'), 1)
  t.equal(first('dst'), 2)
  await claim.release()
  await g.graph.remove('src')
  await g.graph.remove('dst')
})

t.test("a job's own target is closed when its user leaves before the move", async (t) => {
  const { claim, complete, finalize, gone, first } = await owned(t)
  t.same(await complete(), { kind: 'success' })
  await claim.release()
  await finalize()
  t.ok(gone())
  t.equal(first('dst'), 1)
})

const atTheEnd = [
  { name: 'a target that cannot be flushed', rules: { target: [{ op: 'flush', nth: 2, errno: 5 }] } },
  { name: 'a target that cannot be written', rules: { target: [{ op: 'write', nth: 2, errno: 28 }] } },
  { name: 'a source that cannot be read', rules: { source: [{ op: 'read', nth: 2, errno: 5 }] } },
] as const
for (const { name, rules } of atTheEnd)
  t.test(`with ${name} at the end, users stay with the source, and the target is closed`, async (t) => {
    const { g, claim, complete, gone, first } = await owned(t, rules as object)
    const writing = g.write(claim.node, 0, Buffer.alloc(BLOCK, 2))
    t.match(await complete(), { kind: 'failed' })
    await writing
    t.equal(claim.node.name, 'src')
    t.ok(gone())
    await g.write(claim.node, 0, Buffer.alloc(BLOCK, 3))
    t.equal(first('src'), 3)
  })

t.test('users who cannot move at the last moment stay, and the target is closed', async (t) => {
  const { g, claim, complete, finalize, gone, first } = await owned(t)
  t.same(await complete(), { kind: 'success' })
  await g.add({ driver: 'raw', 'node-name': 'late', file: 'src' })
  await t.rejects(finalize(), { message: /^Node 'late' was put above 'src' meanwhile/ })
  t.equal(claim.node.name, 'src')
  t.ok(gone())
  await g.write(claim.node, 0, Buffer.alloc(BLOCK, 2))
  t.equal(first('src'), 2)
})

for (const { name, ends } of [
  { name: 'without a move', ends: { pivot: false } },
  { name: 'with a target that is only a part', ends: { pivot: true, partial: true } },
])
  t.test(`a job's own target is closed when it ends ${name}`, async (t) => {
    const dir = t.testdir({ src: Buffer.alloc(BLOCK, 1), dst: Buffer.alloc(BLOCK) })
    const g = testGraph(t)
    const jobs = new GraphJobs(g)
    await addDisk(g, 'src', join(dir, 'src'))
    await addDisk(g, 'dst', join(dir, 'dst'))
    const writer = { use: ['consistent read', 'write'] as const, share: PERMISSIONS }
    const claim = await g.graph.claim('a guest', g.graph.node('src'), writer, () => t.fail('moved'))
    const { pivot, ...spec } = ends
    await jobs.start('j', mirrorSpec({ filter: 'top', ownsTarget: true, ...spec }))
    await jobs.verbs['job-complete']({ id: 'j', pivot })
    await jobs.report('job-ended', 'j')
    await jobs.verbs['job-finalize']({ id: 'j', commit: true })
    t.same(
      g.graph
        .nodes()
        .map((node) => node.name)
        .sort(),
      ['src', 'src-file'],
    )
    await claim.release()
  })
