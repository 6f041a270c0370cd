// SPDX-License-Identifier: Apache-2.0
// The longest backing chain: opened, read, written and mirrored from, with the memory of one image's buffers.

import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import type { NodeSpec } from '../../../../../../daemon/iothread/messages.js'
import { testGraph } from '../../../../../helpers/graph.js'
import { Bench } from '../../../../../helpers/iothread.js'
import { ImageFile, smallImage } from '../../../../../helpers/qcow2-image.js'

const LEVELS = 200
const CLUSTER = 4096
const MiB = 2 ** 20

/**
 * Images above each other: the one at level n, the top being 0, holds guest cluster n and nothing else.
 * @returns the definition of the top, called `src`, and what the disk reads as
 */
function chain(folder: string): { spec: NodeSpec; content: Buffer } {
  const content = Buffer.alloc(MiB)
  let spec: NodeSpec | null = null
  for (let level = LEVELS - 1; level >= 0; level--) {
    const filename = path.join(folder, `${level}.qcow2`)
    const below = spec === null ? {} : { backingFile: `${level + 1}.qcow2` }
    const image = new ImageFile(filename, smallImage(below))
    const entry = image.u64(image.l2At(0))
    image.set64(image.l2At(0), 0n)
    image.set64(image.l2At(level), entry)
    image.bytes.fill(level + 1, 5 * CLUSTER)
    image.save()
    content.fill(level + 1, level * CLUSTER, (level + 1) * CLUSTER)
    spec = {
      driver: 'qcow2',
      'node-name': level === 0 ? 'src' : `level${level}`,
      'read-only': level > 0,
      file: { driver: 'file', 'node-name': `file${level}`, filename },
      backing: spec,
    }
  }
  return { spec: spec ?? { driver: 'qcow2', 'node-name': 'src' }, content }
}

t.test('200 images above each other are read and written as one, in bounded memory', async (t) => {
  const { spec, content } = chain(t.testdir({}))
  const g = testGraph(t)
  const before = process.memoryUsage().rss
  const node = await g.add(spec)
  t.ok(content.equals(await g.read(node, 0, MiB)), 'the disk is what all levels hold')
  t.match(await node.status((LEVELS - 1) * CLUSTER, CLUSTER), { depth: LEVELS - 1, kind: 'data' })
  t.match(await node.status(LEVELS * CLUSTER, MiB - LEVELS * CLUSTER), { kind: 'zero', absent: true })
  const at = (LEVELS - 1) * CLUSTER + 512
  await g.write(node, at, new Uint8Array(512).fill(0xaa))
  content.fill(0xaa, at, at + 512)
  t.ok(content.equals(await g.read(node, 0, MiB)), 'a part of a cluster of the last one is written over')
  const grown = process.memoryUsage().rss - before
  t.ok(grown < 96 * MiB, `${Math.round(grown / MiB)} MiB more than before`)
})

t.test('a mirror copies what a chain of 200 images shows', async (t) => {
  const folder = t.testdir({})
  const { spec, content } = chain(folder)
  const target = path.join(folder, 'target.raw')
  writeFileSync(target, '')
  truncateSync(target, MiB)
  const bench = new Bench()
  t.teardown(() => bench.end())
  await bench.add(spec)
  await bench.addFile('dst', target)
  await bench.mirror('job', { autoComplete: true })
  await bench.report('job-ended', 'job')
  t.ok(content.equals(readFileSync(target)))
})
