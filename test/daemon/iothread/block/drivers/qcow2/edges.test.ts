// SPDX-License-Identifier: Apache-2.0
// The end of a qcow2 disk inside a cluster, and discards that the format cannot express: what was behind never shows.

import { writeFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import type { BlockNode } from '../../../../../../daemon/iothread/block/node.js'
import { mustQemuImg } from '../../../../../helpers/check-image.js'
import { type TestGraph, testGraph } from '../../../../../helpers/graph.js'
import { installed } from '../../../../../helpers/program.js'

const skip = installed('qemu-img') ? false : 'qemu-img is not installed'
const MiB = 2 ** 20

interface Scene {
  readonly g: TestGraph
  readonly node: BlockNode
}

async function scene(t: Test, options: string, size: number, base?: Buffer): Promise<Scene> {
  const folder = t.testdir({})
  const file = (name: string) => ({ driver: 'file', 'node-name': name, filename: `${folder}/${name}` })
  const below = base === undefined ? [] : ['-b', `${folder}/base`, '-F', 'raw']
  if (base !== undefined) writeFileSync(`${folder}/base`, base)
  const full = options.replace('FOLDER', folder)
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', full, ...below, `${folder}/disk`, String(size))
  const g = testGraph(t)
  const node = await g.add({
    driver: 'qcow2',
    'node-name': 'q',
    discard: 'unmap',
    file: file('disk'),
    backing:
      base === undefined ? null : { driver: 'raw', 'node-name': 'b', 'read-only': true, file: file('base') },
    ...(options.includes('data_file') ? { 'data-file': file('data') } : {}),
  })
  return { g, node }
}

const cases = [
  { name: 'alone', options: 'compat=1.1', base: undefined },
  { name: 'over a longer backing file', options: 'compat=1.1', base: Buffer.alloc(2 * MiB, 0x33) },
  { name: 'with subclusters', options: 'extended_l2=on', base: Buffer.alloc(2 * MiB, 0x33) },
  { name: 'with a data file', options: 'data_file=FOLDER/data', base: undefined },
  { name: 'with a raw data file', options: 'data_file=FOLDER/data,data_file_raw=on', base: undefined },
]

for (const { name, options, base } of cases) {
  t.test(`a disk cut inside a cluster grows by zeroes, ${name}`, { skip }, async (t) => {
    const { g, node } = await scene(t, options, MiB, base)
    await g.write(node, 0, Buffer.alloc(256 * 1024, 0x11))
    const cut = 128 * 1024 + 1536
    for (const size of [cut, cut + 512, MiB]) await g.graph.resize('q', size)
    const disk = Buffer.from(await g.read(node, 0, MiB))
    t.ok(disk.equals(Buffer.concat([Buffer.alloc(cut, 0x11), Buffer.alloc(MiB - cut)])))
  })

  t.test(`a disk that ends inside a cluster is written to its end, ${name}`, { skip }, async (t) => {
    const { g, node } = await scene(t, options, MiB + 1024, base)
    await g.write(node, MiB + 512, Buffer.alloc(512, 0x22))
    const before = base === undefined ? Buffer.alloc(512) : base.subarray(0, 512)
    const end = Buffer.from(await g.read(node, MiB, 1024))
    t.ok(end.equals(Buffer.concat([before, Buffer.alloc(512, 0x22)])))
  })
}

t.test('a discard in a version 2 image does not show what its backing file has', { skip }, async (t) => {
  const { g, node } = await scene(t, 'compat=0.10', MiB, Buffer.alloc(MiB, 0x33))
  await g.write(node, 0, Buffer.alloc(65536, 0x11))
  await node.discard(0, 65536)
  t.ok(Buffer.from(await g.read(node, 0, 65536)).equals(Buffer.alloc(65536, 0x11)))
})

t.test('zeroes of a raw data file are made once, over however many tables', { skip }, async (t) => {
  const { g, node } = await scene(t, 'cluster_size=512,data_file=FOLDER/data,data_file_raw=on', MiB)
  await g.write(node, 0, Buffer.alloc(MiB, 0x11))
  const data = g.graph.node('data')
  const zero = data.zero.bind(data)
  let bytes = 0
  data.zero = (offset, length, how) => {
    bytes += length
    return zero(offset, length, how)
  }
  await node.zero(0, MiB, { unmap: false, fast: false })
  t.equal(bytes, MiB)
  t.ok(Buffer.from(await g.read(node, 0, MiB)).equals(Buffer.alloc(MiB)))
})
