// SPDX-License-Identifier: Apache-2.0
// Packed clusters share host clusters: one that is begun is continued only while it is known to be the image's own.

import path from 'node:path'
import t from 'tap'
import { mustQemuImg, oracle, qemuIo } from '../../../../../helpers/check-image.js'
import { testGraph } from '../../../../../helpers/graph.js'
import { openImage } from '../../../../../helpers/opened-image.js'
import { installed } from '../../../../../helpers/program.js'

const CLUSTER = 4096
const skip = installed('qemu-img') && installed('qemu-io') ? false : 'qemu-img is not installed'

t.test('a host cluster begun before others wrote the image is not continued', { skip }, async (t) => {
  const file = path.join(t.testdir({}), 'a.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', file, '1M')
  const g = testGraph(t)
  const node = await openImage(g, file)
  const slot = g.engine.takeSlots(1)[0] ?? 0
  const pack = async (offset: number, value: number) => {
    g.engine.slotBytes(slot).fill(value, 0, CLUSTER)
    await node.write(offset, { slot, offset: 0, length: CLUSTER }, { compressed: true })
  }
  await pack(0, 1)
  await node.driver.settle?.()
  qemuIo(file, 'discard 0 4k')
  qemuIo(file, 'write -P 7 64k 64k')
  await g.graph.freshen(node.name)
  await pack(CLUSTER, 2)
  t.ok(Buffer.alloc(65536, 7).equals(await g.read(node, 65536, 65536)), 'what they wrote is untouched')
  t.same(await g.read(node, CLUSTER, CLUSTER), new Uint8Array(CLUSTER).fill(2))
  await g.graph.remove(node.name)
  t.match(oracle(file), { corruptions: 0, leaks: 0, checkErrors: 0 })
})
