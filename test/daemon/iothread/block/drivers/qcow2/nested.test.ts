// SPDX-License-Identifier: Apache-2.0
// An image inside an image: the one above waits for the one below, and must not keep from it what it needs.

import path from 'node:path'
import t from 'tap'
import { mustQemuImg, qemuIo } from '../../../../../helpers/check-image.js'
import { testGraph } from '../../../../../helpers/graph.js'
import { installed } from '../../../../../helpers/program.js'

const CLUSTER = 4096
/** More than there are buffers for tables. */
const READS = 40
/** Guest bytes that a slice of an L2 table shows. */
const SLICE = 512 * CLUSTER
const skip = installed('qemu-img') && installed('qemu-io') ? false : 'qemu-img is not installed'

t.test('many reads at once of tables that lie in another image all end', { skip }, async (t) => {
  const folder = t.testdir({})
  const [outer, inner] = [path.join(folder, 'outer'), path.join(folder, 'inner')]
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', outer, String(READS * SLICE))
  const writes = Array.from({ length: READS }, (_, index) => `write -P ${index + 1} ${index * SLICE} 4k`)
  qemuIo(outer, ...writes)
  mustQemuImg('convert', '-f', 'raw', '-O', 'qcow2', '-o', 'cluster_size=512', outer, inner)
  const g = testGraph(t)
  const node = await g.add({
    driver: 'qcow2',
    'node-name': 'outer',
    file: {
      driver: 'qcow2',
      'node-name': 'inner',
      file: { driver: 'file', 'node-name': 'file', filename: inner },
    },
  })
  const slot = g.engine.takeSlots(1)[0] ?? 0
  const read = (index: number) => node.read(index * SLICE, { slot, offset: index * CLUSTER, length: CLUSTER })
  await Promise.all(Array.from({ length: READS }, (_, index) => read(index)))
  for (let index = 0; index < READS; index++) t.equal(g.engine.slotBytes(slot)[index * CLUSTER], index + 1)
})
