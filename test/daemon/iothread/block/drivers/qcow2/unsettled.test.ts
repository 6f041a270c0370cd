// SPDX-License-Identifier: Apache-2.0
// An image that could not be written back when its last user left: from then on it belongs to others too.

import path from 'node:path'
import t from 'tap'
import { mustQemuImg, oracle, qemuIo } from '../../../../../helpers/check-image.js'
import { testGraph } from '../../../../../helpers/graph.js'
import { installed } from '../../../../../helpers/program.js'

const CLUSTER = 4096
const skip = installed('qemu-img') && installed('qemu-io') ? false : 'qemu-img is not installed'

t.test('tables that could not be written are not written later over those of others', { skip }, async (t) => {
  const filename = path.join(t.testdir({}), 'a.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', filename, '1M')
  const g = testGraph(t)
  const file = {
    driver: 'x-inject',
    'node-name': 'inject',
    // The first is the guest's; those of the tables fail.
    rules: [{ op: 'write', nth: 2, count: 1, errno: 28 }],
    file: { driver: 'file', 'node-name': 'file', filename },
  }
  const node = await g.add({ driver: 'qcow2', 'node-name': 'image', file })
  await g.write(node, 0, new Uint8Array(CLUSTER).fill(1))
  await t.rejects(async () => node.driver.settle?.(), { code: 'ENOSPC' })
  qemuIo(filename, 'write -P 7 64k 64k')
  await g.graph.freshen('image')
  await g.write(node, CLUSTER, new Uint8Array(CLUSTER).fill(2))
  t.ok(Buffer.alloc(65536, 7).equals(await g.read(node, 65536, 65536)), 'what they wrote is there')
  await g.graph.remove('image')
  t.match(oracle(filename), { corruptions: 0, leaks: 0, checkErrors: 0 })
})

t.test('a claim sees what others wrote until its locks were there', { skip }, async (t) => {
  const filename = path.join(t.testdir({}), 'a.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', filename, '1M')
  const g = testGraph(t)
  const file = { driver: 'file', 'node-name': 'file', filename }
  const node = await g.add({ driver: 'qcow2', 'node-name': 'image', file })
  t.same(await g.read(node, 65536, CLUSTER), new Uint8Array(CLUSTER))
  qemuIo(filename, 'write -P 7 64k 4k')
  const claim = await g.graph.claim('a test', node, { use: ['consistent read'], share: ['consistent read'] })
  t.same(await g.read(node, 65536, CLUSTER), new Uint8Array(CLUSTER).fill(7))
  await claim.release()
})
