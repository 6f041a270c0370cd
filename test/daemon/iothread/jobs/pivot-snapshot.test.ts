// SPDX-License-Identifier: Apache-2.0
// Nodes that keep a snapshot of a disk when another node takes its place: they go along, and what they show stays as it was.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { PERMISSIONS } from '../../../../daemon/iothread/block/driver.js'
import { appendOverlay } from '../../../../daemon/iothread/jobs/overlay.js'
import { mustQemuImg } from '../../../helpers/check-image.js'
import { testGraph } from '../../../helpers/graph.js'
import { GraphJobs } from '../../../helpers/graph-jobs.js'
import { mirrorSpec } from '../../../helpers/iothread.js'
import { openImage } from '../../../helpers/opened-image.js'
import { installed } from '../../../helpers/program.js'

const BLOCK = 65536
const BLOCKS = 4
const skip = installed('qemu-img') ? false : 'no qemu-img'

/** `src` and `dst`, and a snapshot of the first, `snap`, with a guest on the node that keeps it in `kept`. */
async function disks(t: Test) {
  const dir = t.testdir({ src: Buffer.alloc(BLOCKS * BLOCK, 1), dst: Buffer.alloc(BLOCKS * BLOCK) })
  const g = testGraph(t)
  const jobs = new GraphJobs(g)
  for (const name of ['src', 'dst']) {
    const file = { driver: 'file', 'node-name': `${name}-file`, filename: join(dir, name) }
    await g.add({ driver: 'raw', 'node-name': name, file })
  }
  await g.add({ driver: 'x-memory', 'node-name': 'kept', size: BLOCKS * BLOCK })
  const cbw = await g.add({ driver: 'copy-before-write', 'node-name': 'cbw', file: 'src', target: 'kept' })
  const snap = await g.add({ driver: 'snapshot-access', 'node-name': 'snap', file: 'cbw' })
  const writer = { use: ['consistent read', 'write'] as const, share: PERMISSIONS }
  const { node } = await g.graph.claim('a guest', cbw, writer, () => t.fail('moved'))
  const write = (block: number, fill: number, to = node) =>
    g.write(to, block * BLOCK, Buffer.alloc(BLOCK, fill))
  const shown = async (from = snap) => {
    const bytes = await g.read(from, 0, BLOCKS * BLOCK)
    return Array.from({ length: BLOCKS }, (_, block) => bytes[block * BLOCK])
  }
  const stored = (name: string) => {
    const bytes = readFileSync(join(dir, name))
    return Array.from({ length: BLOCKS }, (_, block) => bytes[block * BLOCK])
  }
  return { g, jobs, dir, node, write, shown, stored }
}

t.test('a node that keeps a snapshot of the source goes to the target of a mirror', async (t) => {
  const { g, jobs, node, write, shown, stored } = await disks(t)
  await write(0, 2)
  await jobs.start('j', mirrorSpec({ filter: 'top' }))
  await jobs.report('job-ready', 'j')
  await write(1, 3)
  await jobs.verbs['job-complete']({ id: 'j', pivot: true })
  t.same((await jobs.report('job-ended', 'j')).outcome, { kind: 'success' })
  const { reads } = g.graph.node('src').stats
  const waiting = [write(2, 4), shown()]
  await jobs.verbs['job-finalize']({ id: 'j', commit: true })
  t.same((await Promise.all(waiting))[1], [1, 1, 1, 1])
  t.equal(g.graph.node('src').stats.reads, reads, 'what waits does not go where the disk was')
  t.match(g.reports.get('cbw')?.children, { file: 'dst', target: 'kept' })
  t.same(stored('src'), [2, 3, 1, 1])
  t.same(stored('dst'), [2, 3, 4, 1])
  t.same(await shown(), [1, 1, 1, 1])
  await write(3, 5, g.graph.node('dst'))
  await write(0, 9, g.graph.node('src'))
  t.same(await shown(), [1, 1, 1, 1], 'also of what is written past it, and of the source nothing')
  t.same(await shown(node), [2, 3, 4, 5])
  for (const name of ['src', 'snap']) await g.graph.remove(name)
})

t.test('a node that keeps a snapshot goes to an overlay, if that is no longer', { skip }, async (t) => {
  const { g, dir, write, shown, stored } = await disks(t)
  const overlays = []
  for (const [name, size] of [
    ['longer', (BLOCKS + 1) * BLOCK],
    ['over', BLOCKS * BLOCK],
  ] as const) {
    mustQemuImg('create', '-q', '-f', 'qcow2', join(dir, name), `${size}`)
    overlays.push(await openImage(g, join(dir, name), { 'node-name': name }))
  }
  const [longer, over] = overlays
  const src = g.graph.node('src')
  await t.rejects(appendOverlay(g.graph, src, longer!, 'top'), {
    message: "Node 'cbw' lies above 'src' and cannot be moved to 'longer'",
  })
  await write(0, 2)
  await appendOverlay(g.graph, src, over!, 'top')
  t.match(g.reports.get('cbw')?.children, { file: 'over' })
  await write(1, 3)
  t.same(stored('src'), [2, 1, 1, 1])
  t.same(await shown(), [1, 1, 1, 1])
})

t.test('a node stays that keeps its snapshot in the source, and so does the source', async (t) => {
  const { g, jobs, write, shown } = await disks(t)
  await jobs.start('j', mirrorSpec({ source: 'kept', filter: 'top' }))
  await jobs.report('job-ready', 'j')
  // Nobody is stopped for it: this request never ends.
  await g.add({
    driver: 'x-inject',
    'node-name': 'stuck',
    file: 'kept',
    rules: [{ op: 'read', stall: true }],
  })
  const stuck = g.engine.takeSlots(1)[0] ?? 0
  const reading = g.graph.node('stuck').read(0, { slot: stuck, offset: 0, length: 512 })
  await jobs.verbs['job-complete']({ id: 'j', pivot: true })
  const error = "Node 'cbw' lies above 'kept' and cannot be moved to 'dst'"
  t.same((await jobs.report('job-ended', 'j')).outcome, { kind: 'failed', error })
  await write(0, 3)
  t.same(await shown(), [1, 1, 1, 1], 'nobody is held up')
  await g.graph.remove('stuck')
  await reading
  t.match(g.reports.get('cbw')?.children, { file: 'src', target: 'kept' })
})

t.test("what a snapshot is kept in is nobody else's target", async (t) => {
  const g = testGraph(t)
  const jobs = new GraphJobs(g)
  for (const name of ['src', 'disk']) await g.add({ driver: 'x-memory', 'node-name': name, size: BLOCK })
  const target = { driver: 'x-memory', 'node-name': 'dst', size: BLOCK }
  await g.add({ driver: 'copy-before-write', 'node-name': 'cbw', file: 'disk', target })
  await t.rejects(jobs.start('j', mirrorSpec({ filter: 'top' })), /^Permission conflict on node 'dst'/)
  await g.graph.remove('cbw')
})
