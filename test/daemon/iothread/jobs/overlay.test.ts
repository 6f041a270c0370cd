// SPDX-License-Identifier: Apache-2.0
// Changes of chains that copy nothing: who has a loan, a bitmap or a claim meanwhile.

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { PERMISSIONS } from '../../../../daemon/iothread/block/driver.js'
import type { BlockNode } from '../../../../daemon/iothread/block/node.js'
import { Buffers } from '../../../../daemon/iothread/copy/buffers.js'
import { createImage } from '../../../../daemon/iothread/jobs/create.js'
import { appendOverlay, emptyImage } from '../../../../daemon/iothread/jobs/overlay.js'
import { usualImage } from '../../../../daemon/iothread/messages-create.js'
import { type TestGraph, testGraph } from '../../../helpers/graph.js'
import { turn } from '../../../helpers/graph-jobs.js'

const MIB = 2 ** 20
const CLUSTER = 65536

/** An empty qcow2 image in memory. */
async function addImage(g: TestGraph, backing: string | null): Promise<BlockNode> {
  await g.add({ driver: 'x-memory', 'node-name': 'memory', size: 0 })
  const options = usualImage(4 * MIB)
  const spec = { kind: 'create', driver: 'qcow2', file: 'memory', dataFile: undefined, options } as const
  await createImage(g.graph, spec, new Buffers(g.engine), new AbortController().signal)
  return g.add({ driver: 'qcow2', 'node-name': 'image', file: 'memory', backing })
}

for (const lent of ['base', 'store'])
  t.test(`an overlay waits until the file of '${lent}' is no longer lent`, async (t) => {
    const g = testGraph(t)
    const filename = join(t.testdir(), 'disk.img')
    writeFileSync(filename, Buffer.alloc(4 * MIB, 1))
    const file = { driver: 'file', filename, 'node-name': 'store' }
    await g.add({ driver: 'raw', 'node-name': 'base', file })
    const base = g.graph.node('base')
    const image = await addImage(g, null)
    const writer = { use: ['consistent read', 'write'] as const, share: PERMISSIONS }
    const claim = await g.graph.claim('a guest', base, writer, () => {})
    const back: (() => void)[] = []
    const nothing = { reads: 0, readBytes: 0, writes: 0, writeBytes: 0, from: 0, to: 0 }
    const loan = claim.node.lend({
      callBack: () => void back.push(() => loan?.back(undefined)),
      counts: () => nothing,
    })
    const appending = appendOverlay(g.graph, g.graph.node(lent), image, 'top')
    while (back.length === 0) await turn()
    for (let turns = 0; turns < 20; turns++) await turn()
    t.same(g.reports.get('image')?.children, { file: 'memory' })
    back[0]?.()
    await appending
    t.same(g.reports.get('image')?.children, { file: 'memory', backing: lent })
    t.equal(claim.node.lend({ callBack: () => {}, counts: () => nothing }), undefined)
    await g.write(claim.node, 0, Buffer.alloc(512, 2))
    t.equal((await g.read(claim.node, 0, 1))[0], 2)
    t.equal((await g.read(g.graph.node('store'), 0, 1))[0], 1)
    await claim.release()
  })

t.test('what was under way when an overlay comes is durable below it', async (t) => {
  const g = testGraph(t)
  const memory = await g.add({ driver: 'x-memory', 'node-name': 'storage', size: 4 * MIB })
  const rules = [{ op: 'write', 'delay-ms': 30 }]
  const base = await g.add({ driver: 'x-inject', 'node-name': 'base', file: 'storage', rules })
  const image = await addImage(g, null)
  const order: string[] = []
  const { driver } = memory
  const [write, flush] = [driver.write.bind(driver), driver.flush.bind(driver)]
  driver.write = async (...all) => {
    await write(...all)
    order.push('written')
  }
  driver.flush = async () => {
    order.push('flush')
    await flush()
  }
  // By somebody who uses the base itself, and does not wait in the filter.
  const writing = g.write(base, 0, Buffer.alloc(512, 2))
  await turn()
  await appendOverlay(g.graph, base, image, 'top')
  t.strictSame(order, ['written', 'flush'])
  await writing
})

t.test('what is dropped from an image is dirty in its bitmaps', async (t) => {
  const g = testGraph(t)
  const node = await addImage(g, null)
  await g.write(node, MIB, Buffer.alloc(512, 1))
  await g.graph.bitmaps.change([
    {
      ...{ kind: 'add', node: 'image', name: 'b', granularity: CLUSTER },
      ...{ persistent: false, recording: true },
    },
  ])
  await emptyImage(g.graph, node)
  t.equal((await g.read(node, MIB, 512))[0], 0)
  const { bits } = node.bitmaps.get('b')
  t.same(bits.nextDirty(0, 4 * MIB), { offset: MIB, length: CLUSTER })
  t.equal(bits.count, CLUSTER)
})
