// SPDX-License-Identifier: Apache-2.0
// Tables that snapshots share are looked at twice at most, however many snapshots there are, and what they refer to is counted as
// qemu-img counts it, also where there are more uses than a count can tell.

import path from 'node:path'
import t, { type Test } from 'tap'
import { checkQcow2 } from '../../../../../../../daemon/iothread/block/drivers/qcow2/check/check.js'
import { Buffers } from '../../../../../../../daemon/iothread/copy/buffers.js'
import { checker, comparable, mustQemuImg, oracle, qemuIo } from '../../../../../../helpers/check-image.js'
import { testGraph } from '../../../../../../helpers/graph.js'
import { installed } from '../../../../../../helpers/program.js'
import { ImageFile } from '../../../../../../helpers/qcow2-image.js'

const skip = installed('qemu-img') && installed('qemu-io') ? false : 'qemu-img is not installed'
const packed = ['write -P 1 0 1M', 'write -c -P 2 1M 32k', 'write -P 1 1056k 992k']
/** Of clusters of 512 bytes. */
const TABLES = 64

function made(t: Test, options: string, snapshots: number, ...commands: string[]): string {
  const file = path.join(t.testdir({}), 'a.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', `cluster_size=512,${options}`, file, `${TABLES * 32}k`)
  qemuIo(file, ...commands)
  for (let index = 0; index < snapshots; index++) mustQemuImg('snapshot', '-c', `s${index}`, file)
  return file
}

t.test('tables that twenty snapshots share are read twice', { skip }, async (t) => {
  const filename = made(t, 'refcount_bits=16', 20, ...packed)
  // Some are theirs alone.
  qemuIo(filename, 'write -P 3 256k 256k')
  const g = testGraph(t)
  const node = await g.add({ driver: 'file', 'node-name': 'image', filename, 'read-only': true })
  const io = { node, engine: g.engine, slots: new Buffers(g.engine), pausePoint: async () => undefined }
  const before = node.stats.reads
  const found = await checkQcow2(io, 'none', { done: 0, total: 1 })
  const reads = node.stats.reads - before
  t.same(comparable(found), oracle(filename))
  t.match(found, { corruptions: 0, leaks: 0, checkErrors: 0 })
  // Twice for counting, once for the flags; L1 tables, refcount blocks and others for the rest.
  t.ok(reads < 5 * TABLES + 3 * 20, `${reads} reads`)
})

for (const repair of ['none', 'all'] as const)
  t.test(`uses that a count of two bits cannot tell are found, repair: ${repair}`, { skip }, async (t) => {
    const filename = made(t, 'refcount_bits=2', 2, 'write -P 1 0 2M')
    const image = new ImageFile(filename)
    image.set64(image.l2At(70), image.u64(image.l2At(71)))
    image.save()
    const theirs = `${filename}.theirs`
    image.save(theirs)
    const { lines: ours, ...found } = comparable(await checker(t)(filename, repair))
    const more = repair === 'none' ? [] : ['-r', 'all']
    const { lines, ...wanted } = oracle(theirs, ...more)
    t.same(found, wanted)
    // After a repair qemu-img checks once more, and tells all of it again.
    if (repair === 'none') t.same([...ours].sort(), [...lines].sort())
    t.ok(ours.some((line) => line.includes('overflow cluster')))
  })
