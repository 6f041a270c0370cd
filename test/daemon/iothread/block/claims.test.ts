// SPDX-License-Identifier: Apache-2.0
import t from 'tap'
import type { Permissions } from '../../../../daemon/iothread/block/driver.js'
import type { BlockNode } from '../../../../daemon/iothread/block/node.js'
import { type TestGraph, testGraph } from '../../../helpers/graph.js'

const MiB = 1 << 20
const reader: Permissions = {
  use: ['consistent read'],
  share: ['consistent read', 'write', 'write unchanged'],
}
const target: Permissions = { use: ['write'], share: ['write unchanged'] }
const writer: Permissions = {
  use: ['consistent read', 'write'],
  share: ['consistent read', 'write', 'write unchanged'],
}

t.test('a second user whom the first does not allow is refused with both named', async (t) => {
  const g = testGraph(t)
  const node = await g.add({ driver: 'x-memory', 'node-name': 'dst', size: MiB })
  const first = await g.graph.claim('an unnamed block device', node, writer)
  await t.rejects(g.graph.claim('an unnamed block device', node, target), {
    message:
      "Permission conflict on node 'dst': permissions 'consistent read, write' are both required by " +
      "an unnamed block device (uses node 'dst' as 'root' child) and unshared by " +
      "an unnamed block device (uses node 'dst' as 'root' child).",
  })
  await first.release()
  await first.release()
  await (await g.graph.claim('a job', node, target)).release()
})

t.test('users of two parents meet at their common child', async (t) => {
  const g = testGraph(t)
  await g.add({ driver: 'x-memory', 'node-name': 'm', size: MiB })
  const a = await g.add({ driver: 'raw', 'node-name': 'a', file: 'm' })
  const b = await g.add({ driver: 'raw', 'node-name': 'b', file: 'm' })
  await g.graph.claim('job one', a, target)
  await t.rejects(g.graph.claim('job two', b, reader), {
    message: /^Permission conflict on node 'm': .* node 'b' \(uses node 'm' as 'file' child\)/,
  })
})

t.test('readers share a node', async (t) => {
  const g = testGraph(t)
  const node = await g.add({ driver: 'x-memory', 'node-name': 'm', size: MiB })
  await g.graph.claim('one', node, reader)
  await g.graph.claim('two', node, reader)
  await g.graph.claim('three', node, writer)
})

t.test('writing through a read-only child is refused', async (t) => {
  const g = testGraph(t)
  const node = await g.add({
    driver: 'raw',
    'node-name': 'r',
    file: { driver: 'x-memory', 'node-name': 'm', size: MiB, 'read-only': true },
  })
  await t.rejects(g.graph.claim('a job', node, target), { message: 'Block node is read-only' })
  await g.graph.claim('a job', node, reader)
})

t.test('a claimed node is neither removed nor resized against its user', async (t) => {
  const g = testGraph(t)
  const node = await g.add({ driver: 'x-memory', 'node-name': 'm', size: MiB })
  const claim = await g.graph.claim('a job', node, reader)
  await t.rejects(g.graph.remove('m'), { message: 'Node m is in use' })
  await t.rejects(g.graph.resize('m', 2 * MiB), {
    message: /^Permission conflict on node 'm': permissions 'resize'/,
  })
  await claim.release()
  await g.graph.resize('m', 2 * MiB)
  t.equal(g.reports.get('m')?.size, 2 * MiB)
})

/** A filter of a job above `src`, the job's claims, and a user who may move. */
async function mirrored(g: TestGraph) {
  const [src, dst] = [
    await g.add({ driver: 'x-memory', 'node-name': 'src', size: MiB }),
    await g.add({ driver: 'x-memory', 'node-name': 'dst', size: MiB }),
  ]
  const moves: string[] = []
  const own = [await g.graph.claim('a job', src, reader), await g.graph.claim('a job', dst, target)]
  const user = await g.graph.claim('a user', src, writer, ({ name }) => moves.push(name))
  const filter = g.graph.insertFilter('top', src, () => [], { driver: 'mirror_top' })
  const how = { held: new Set<BlockNode>(), ending: own }
  const pivot = () => g.graph.surgery.pivot(filter, src, dst, how)
  return { src, dst, own, user, filter, moves, pivot }
}

t.test(
  'a node takes the place of another for those who may move, and for what waits in the filter',
  async (t) => {
    const g = testGraph(t)
    const { src, dst, own, user, filter, moves, pivot } = await mirrored(g)
    const stays = await g.graph.claim('another job', src, reader)
    const hold = await filter.node.drain()
    const waiting = g.write(user.node, 0, Buffer.from('late'))
    await pivot()
    hold[Symbol.dispose]()
    await waiting
    filter.remove()
    t.same(moves, ['dst'])
    t.equal(user.node, dst)
    t.equal(stays.node, src)
    t.equal(Buffer.from(await g.read(dst, 0, 4)).toString(), 'late')
    t.same(await g.read(src, 0, 4), new Uint8Array(4))
    await t.rejects(g.graph.remove('dst'), { message: 'Node dst is in use' })
    for (const claim of [...own, user, stays]) await claim.release()
    await g.graph.remove('src')
    await g.graph.remove('dst')
  },
)

t.test('nobody moves to a node that somebody excludes', async (t) => {
  const g = testGraph(t)
  const { src, dst, own, user, filter, moves, pivot } = await mirrored(g)
  const jealous = await g.graph.claim('a jealous one', dst, { use: [], share: ['write'] })
  await t.rejects(pivot(), { message: /^Permission conflict on node 'dst'/ })
  t.same(moves, [])
  await jealous.release()
  filter.remove()
  t.equal(user.node, src)
  await t.rejects(
    g.graph.claim('a reader', dst, reader),
    { message: /^Permission conflict/ },
    'the job still has it',
  )
  for (const claim of [...own, user]) await claim.release()
  await g.graph.remove('src')
})

t.test('a claim that is given back while it moves is gone', async (t) => {
  const g = testGraph(t)
  const { user, filter, pivot } = await mirrored(g)
  const moved = pivot()
  await Promise.all([moved, user.release()])
  filter.remove()
  await g.graph.remove('dst')
  await g.graph.remove('src')
})
