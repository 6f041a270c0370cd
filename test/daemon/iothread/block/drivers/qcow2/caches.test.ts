// SPDX-License-Identifier: Apache-2.0
// How much memory the caches of tables may have: QEMU's defaults and shares, what is refused, and that they follow the
// size of the disk. Expected sizes are what read_cache_sizes() of QEMU's block/qcow2.c comes to.

import path from 'node:path'
import t from 'tap'
import { cacheSizes } from '../../../../../../daemon/iothread/block/drivers/qcow2/options.js'
import type { BlockNode } from '../../../../../../daemon/iothread/block/node.js'
import { mustQemuImg, oracle } from '../../../../../helpers/check-image.js'
import { type TestGraph, testGraph } from '../../../../../helpers/graph.js'
import { openImage } from '../../../../../helpers/opened-image.js'
import { installed } from '../../../../../helpers/program.js'
import { qemuTools } from '../../../../../helpers/qemu-tools.js'

const [KiB, MiB, GiB, TiB] = [2 ** 10, 2 ** 20, 2 ** 30, 2 ** 40]
const skip = installed('qemu-img') ? false : 'qemu-img is not installed'
/** What one slice of an L2 table shows in an image with the usual clusters. */
const SLICE_SPAN = 512 * 64 * KiB

interface Case {
  readonly name: string
  readonly options: Record<string, number>
  /** Of the disk. */
  readonly length: number
  readonly clusterSize?: number
  readonly entrySize?: 8 | 16
  readonly l2: number
  readonly refcount: number
}

const cases: readonly Case[] = [
  { name: 'what a small disk needs', options: {}, length: GiB, l2: 128 * KiB, refcount: 256 * KiB },
  { name: 'whole tables', options: {}, length: GiB + 512, l2: 192 * KiB, refcount: 256 * KiB },
  { name: 'no disk at all', options: {}, length: 0, l2: 0, refcount: 256 * KiB },
  { name: '32 MiB at most', options: {}, length: TiB, l2: 32 * MiB, refcount: 256 * KiB },
  {
    name: 'large clusters',
    ...{ options: {}, length: TiB, clusterSize: 2 * MiB },
    ...{ l2: 4 * MiB, refcount: 8 * MiB },
  },
  { name: 'subclusters', options: {}, length: GiB, entrySize: 16, l2: 256 * KiB, refcount: 256 * KiB },
  {
    name: 'an L2 cache larger than the disk needs',
    options: { 'l2-cache-size': GiB },
    length: GiB,
    ...{ l2: 128 * KiB, refcount: 256 * KiB },
  },
  {
    name: 'an L2 cache of its own size',
    options: { 'l2-cache-size': MiB },
    length: TiB,
    ...{ l2: MiB, refcount: 256 * KiB },
  },
  {
    name: 'a refcount cache of its own size',
    options: { 'refcount-cache-size': MiB },
    length: GiB,
    ...{ l2: 128 * KiB, refcount: MiB },
  },
  {
    name: 'both of their own sizes',
    options: { 'l2-cache-size': 64 * KiB, 'refcount-cache-size': MiB },
    length: GiB,
    ...{ l2: 64 * KiB, refcount: MiB },
  },
  {
    name: 'more together than needed: the rest is for refcounts',
    options: { 'cache-size': 2 * MiB },
    length: GiB,
    ...{ l2: 128 * KiB, refcount: 2 * MiB - 128 * KiB },
  },
  {
    name: 'less together than needed: four refcount blocks, the rest is for L2 tables',
    options: { 'cache-size': MiB },
    length: TiB,
    ...{ l2: 768 * KiB, refcount: 256 * KiB },
  },
  {
    name: 'together less than four refcount blocks',
    options: { 'cache-size': 128 * KiB },
    length: TiB,
    ...{ l2: 0, refcount: 128 * KiB },
  },
  {
    name: 'together, and an L2 cache',
    options: { 'cache-size': 4 * MiB, 'l2-cache-size': MiB },
    length: TiB,
    ...{ l2: MiB, refcount: 3 * MiB },
  },
  {
    name: 'together, and an L2 cache that is more than needed',
    options: { 'cache-size': 4 * MiB, 'l2-cache-size': 3 * MiB },
    length: GiB,
    ...{ l2: 128 * KiB, refcount: 4 * MiB - 128 * KiB },
  },
  {
    name: 'together, and a refcount cache',
    options: { 'cache-size': 4 * MiB, 'refcount-cache-size': MiB },
    length: TiB,
    ...{ l2: 3 * MiB, refcount: MiB },
  },
  {
    name: 'sizes that leave nothing',
    options: { 'cache-size': 0 },
    length: GiB,
    ...{ l2: 0, refcount: 0 },
  },
]

for (const { name, options, length, clusterSize = 64 * KiB, entrySize = 8, l2, refcount } of cases) {
  t.test(`sizes of caches: ${name}`, (t) => {
    const spec = { driver: 'qcow2', 'node-name': 'n', ...options }
    t.match(cacheSizes(spec, { clusterSize, entrySize }, length), { l2, refcount })
    t.end()
  })
}

/** With texts of QEMU where it refuses them too. */
const refused: readonly (readonly [Record<string, number>, string])[] = [
  [{ 'l2-cache-size': -1 }, "Value '-1' is out of range for parameter 'l2-cache-size'"],
  [{ 'cache-size': -1 }, "Value '-1' is out of range for parameter 'cache-size'"],
  [{ 'refcount-cache-size': -1 }, "Value '-1' is out of range for parameter 'refcount-cache-size'"],
  [{ 'refcount-cache-size': 2 ** 47 }, 'Refcount cache size too big'],
  [{ 'cache-size': 2 ** 52 }, 'Refcount cache size too big'],
  [{ 'cache-size': 2 ** 52, 'refcount-cache-size': 65536 }, 'L2 cache size too big'],
  [{ 'cache-clean-interval': 2 ** 32 }, 'Cache clean interval too big'],
]

t.test('sizes that no cache can have are refused, as qemu-img refuses them', { skip }, async (t) => {
  const g = testGraph(t)
  const folder = t.testdir({})
  const file = path.join(folder, 'a.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', file, '16M')
  const newest = qemuTools.findLast(({ absent }) => absent === false)
  for (const [options, message] of refused) {
    const text = Object.entries(options).map(([name, value]) => `${name}=${value}`)
    await t.rejects(openImage(g, file, options), { message }, text.join())
    const opts = ['driver=qcow2', `file.filename=${file}`, ...text].join()
    // Older versions have another text for what is negative.
    const told = Object.values(options).includes(-1) ? /-cache-size'|'cache-size'/ : message
    t.throws(() => newest?.run(folder, 'qemu-img', 'info', '--image-opts', opts), { message: told }, opts)
  }
})

t.test('more than the disk can use is nothing to refuse', { skip }, async (t) => {
  const g = testGraph(t)
  const file = path.join(t.testdir({}), 'a.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', file, '16M')
  const node = await openImage(g, file, { 'l2-cache-size': 2 ** 52, 'refcount-cache-size': 2 ** 46 })
  await g.write(node, 0, new Uint8Array(512).fill(1))
  t.same(await g.read(node, 0, 512), new Uint8Array(512).fill(1))
})

/** Reads a sector that each slice of the tables shows. @returns requests below that were made for it */
async function readAllOver(g: TestGraph, node: BlockNode): Promise<number> {
  const file = g.graph.node(`${node.name}-file`)
  const before = file.stats.reads
  for (let at = 0; at < node.length(); at += SLICE_SPAN) await g.read(node, at, 512)
  return file.stats.reads - before
}

t.test('the L2 cache follows a disk that grows', { skip }, async (t) => {
  const g = testGraph(t)
  const file = path.join(t.testdir({}), 'a.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', file, '1M')
  const node = await openImage(g, file)
  await g.graph.resize(node.name, 4 * GiB)
  const slices = (4 * GiB) / SLICE_SPAN
  for (let at = 0; at < node.length(); at += SLICE_SPAN) await g.write(node, at, new Uint8Array(512).fill(1))
  await readAllOver(g, node)
  t.equal(await readAllOver(g, node), slices, 'tables stay in memory')
  await g.graph.remove(node.name)
  t.match(oracle(file), { corruptions: 0, leaks: 0, checkErrors: 0 })
})

t.test('it follows one that another program makes longer', { skip }, async (t) => {
  const g = testGraph(t)
  const file = path.join(t.testdir({}), 'a.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', file, '1M')
  const node = await openImage(g, file)
  mustQemuImg('resize', '-q', file, '4G')
  await g.graph.freshen(node.name)
  t.equal(node.length(), 4 * GiB)
  for (let at = 0; at < node.length(); at += SLICE_SPAN) await g.write(node, at, new Uint8Array(512).fill(1))
  await readAllOver(g, node)
  t.equal(await readAllOver(g, node), (4 * GiB) / SLICE_SPAN)
})

t.test('a cache that is smaller than the tables reads them again', { skip }, async (t) => {
  const g = testGraph(t)
  const file = path.join(t.testdir({}), 'a.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', file, '1G')
  const node = await openImage(g, file, { 'l2-cache-size': 64 * KiB })
  for (let at = 0; at < node.length(); at += SLICE_SPAN) await g.write(node, at, new Uint8Array(512).fill(1))
  const slices = GiB / SLICE_SPAN
  t.equal(slices, 32, 'twice as many as fit')
  await readAllOver(g, node)
  t.ok((await readAllOver(g, node)) > slices)
})
