// SPDX-License-Identifier: Apache-2.0
// Runtime options of qcow2 nodes: what they do, and that contradictions are refused in the words of QEMU's tools.

import { statSync } from 'node:fs'
import path from 'node:path'
import { mock } from 'node:test'
import t from 'tap'
import { mustQemuImg, oracle, qemuImg } from '../../../../../helpers/check-image.js'
import { testGraph } from '../../../../../helpers/graph.js'
import { openImage } from '../../../../../helpers/opened-image.js'
import { installed } from '../../../../../helpers/program.js'
import { ImageFile, smallImage } from '../../../../../helpers/qcow2-image.js'

const MiB = 2 ** 20
const skip = installed('qemu-img') ? false : 'qemu-img is not installed'

const contradictions: readonly Record<string, unknown>[] = [
  { 'l2-cache-size': 2 * MiB, 'cache-size': MiB },
  { 'refcount-cache-size': 2 * MiB, 'cache-size': MiB },
  { 'cache-size': MiB, 'l2-cache-size': MiB / 2, 'refcount-cache-size': MiB / 2 },
  { 'l2-cache-entry-size': 1000 },
  { 'l2-cache-entry-size': 256 },
  { 'l2-cache-entry-size': 2 * MiB },
  { 'refcount-cache-size': 2 ** 50 },
  { 'cache-clean-interval': -1 },
  { 'cache-clean-interval': 2 ** 40 },
  { encrypt: { format: 'luks', 'key-secret': 'none' } },
]

t.test('contradictions are refused in the words of qemu-img', { skip }, async (t) => {
  const g = testGraph(t)
  const file = path.join(t.testdir({}), 'a.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', file, '1M')
  for (const options of contradictions) {
    const flat = Object.entries(options).flatMap(([name, value]) => {
      return typeof value === 'object' && value !== null
        ? Object.entries(value).map(([member, leaf]) => `${name}.${member}=${leaf}`)
        : [`${name}=${value}`]
    })
    const opts = ['driver=qcow2', `file.filename=${file}`, ...flat].join(',')
    const [line = ''] = qemuImg('info', '--image-opts', opts).stderr.split('\n')
    await t.rejects(openImage(g, file, options), { message: line.split("': ")[1] ?? '' }, opts)
  }
})

t.test('version 2 has no lazy refcounts', { skip }, async (t) => {
  const g = testGraph(t)
  const file = path.join(t.testdir({}), 'a.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', file, '1M')
  await t.rejects(openImage(g, file, { 'lazy-refcounts': true }), { message: /^Lazy refcounts require/ })
  await t.rejects(openImage(g, file, { 'discard-no-unref': true }), { message: /^discard-no-unref is only/ })
})

t.test(
  'with discard-no-unref a discarded cluster keeps its place and loses its storage',
  { skip },
  async (t) => {
    const g = testGraph(t)
    const file = path.join(t.testdir({}), 'a.qcow2')
    mustQemuImg('create', '-q', '-f', 'qcow2', file, '8M')
    const node = await openImage(g, file, { 'discard-no-unref': true })
    await g.write(node, 0, new Uint8Array(MiB).fill(7))
    await node.flush()
    const full = statSync(file).blocks
    const { host } = await node.status(0, MiB)
    await node.discard(0, MiB)
    t.match(await node.status(0, MiB), { kind: 'zero', host, length: MiB })
    t.same(await g.read(node, 0, MiB), new Uint8Array(MiB))
    await node.flush()
    t.ok(statSync(file).blocks < full - MiB / 512 / 2, 'the storage is given back')
    await g.write(node, 65536, new Uint8Array(65536).fill(8))
    t.match(await node.status(65536, 65536), { kind: 'data', host: (host ?? 0) + 65536 })
    await g.graph.remove(node.name)
    t.match(oracle(file), { corruptions: 0, leaks: 0, checkErrors: 0 })
  },
)

t.test('tables that nobody looks at are forgotten after the clean interval', async (t) => {
  const g = testGraph(t)
  const file = path.join(t.testdir({}), 'a.qcow2')
  new ImageFile(file, smallImage()).save()
  mock.timers.enable({ apis: ['setInterval'] })
  t.teardown(() => mock.timers.reset())
  const node = await openImage(g, file, { 'read-only': true, 'cache-clean-interval': 1 })
  const below = g.graph.node(`${node.name}-file`)
  await g.read(node, 0, 512)
  const reads = below.stats.reads
  await g.read(node, 0, 512)
  t.equal(below.stats.reads, reads + 1, 'the table is in memory')
  mock.timers.tick(2000)
  await g.read(node, 0, 512)
  t.equal(below.stats.reads, reads + 3, 'it is read again')
})
