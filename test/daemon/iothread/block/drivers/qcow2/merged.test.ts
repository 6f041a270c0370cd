// SPDX-License-Identifier: Apache-2.0
// How many requests the file sees of one request to the disk: one for each run of clusters that lie one behind the other.

import path from 'node:path'
import t from 'tap'
import { mustQemuImg, qemuIo } from '../../../../../helpers/check-image.js'
import { testGraph } from '../../../../../helpers/graph.js'
import { openImage } from '../../../../../helpers/opened-image.js'
import { installed } from '../../../../../helpers/program.js'

const KiB = 2 ** 10
const skip = installed('qemu-img') && installed('qemu-io') ? false : 'qemu-img is not installed'

/** In which order the clusters of the disk were written, which is where they lie. */
const orders = [
  { name: 'in order', order: [0, 1, 2, 3, 4, 5, 6, 7], runs: 1 },
  { name: 'from the end', order: [7, 6, 5, 4, 3, 2, 1, 0], runs: 8 },
  { name: 'two halves', order: [4, 5, 6, 7, 0, 1, 2, 3], runs: 2 },
  { name: 'some beside each other', order: [3, 1, 2, 0, 6, 7, 4, 5], runs: 5 },
]
for (const { name, order, runs } of orders)
  t.test(`${runs} requests for clusters written ${name}`, { skip }, async (t) => {
    const file = path.join(t.testdir({}), 'a.qcow2')
    mustQemuImg('create', '-q', '-f', 'qcow2', file, '8M')
    qemuIo(file, ...order.map((cluster) => `write -P ${cluster + 1} ${cluster * 64}k 64k`))
    const g = testGraph(t)
    const node = await openImage(g, file)
    const { stats } = g.graph.node(`${node.name}-file`)
    await g.read(node, 0, 512)
    const wanted = Buffer.concat(order.map((_, cluster) => Buffer.alloc(64 * KiB, cluster + 1)))
    const { reads } = stats
    t.ok(Buffer.from(await g.read(node, 0, 512 * KiB)).equals(wanted))
    t.equal(stats.reads - reads, runs)
    await g.write(node, 0, Buffer.alloc(512, 1))
    const { writes } = stats
    await g.write(node, 0, wanted)
    t.equal(stats.writes - writes, runs)
  })
