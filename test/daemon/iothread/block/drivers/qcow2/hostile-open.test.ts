// SPDX-License-Identifier: Apache-2.0
// Hostile images, opened for use: each is refused with a text, or read and written as far as it goes, with clear errors.

import { readFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { CommandError } from '../../../../../../daemon/errors.js'
import type { BlockNode } from '../../../../../../daemon/iothread/block/node.js'
import { testGraph } from '../../../../../helpers/graph.js'
import { openImage, readAll, refusedByDisk } from '../../../../../helpers/opened-image.js'
import { hostile } from './hostile.js'

const CLUSTER = 4096

t.test('hostile images are refused, or opened without a change', async (t) => {
  const g = testGraph(t)
  for (const { name, make, refused } of hostile) {
    const file = path.join(t.testdir({}), 'a.qcow2')
    make(file)
    const before = readFileSync(file)
    const node = await openImage(g, file, { 'read-only': true }).catch(unlessRefused)
    t.equal(node === undefined, refused, `${name}: ${refused ? 'refused' : 'opened'}`)
    if (node !== undefined) {
      await readAll(g, node, CLUSTER)
      await g.graph.remove(node.name)
    }
    t.ok(readFileSync(file).equals(before), `${name}: nothing was written`)
  }
})

t.test('hostile images may be written, and fail no worse than with an error', async (t) => {
  const g = testGraph(t)
  for (const { name, make, refused } of hostile.filter((one) => !one.refused)) {
    const file = path.join(t.testdir({}), 'a.qcow2')
    make(file)
    const node = await openImage(g, file)
    const failed = await readAll(g, node, CLUSTER)
    let writes = 0
    for (const cluster of [0, 1, 2, 200]) {
      const bytes = new Uint8Array(CLUSTER).fill(cluster + 1)
      if (await refusedByDisk(g.write(node, cluster * CLUSTER, bytes))) continue
      writes += 1
      t.same(await g.read(node, cluster * CLUSTER, CLUSTER), bytes, `${name}: what was written is there`)
    }
    await refusedByDisk(node.discard(0, 4 * CLUSTER))
    await refusedByDisk(node.zero(200 * CLUSTER, 4 * CLUSTER, { unmap: true, fast: false }))
    await refusedByDisk(node.flush())
    t.ok((await readAll(g, node, CLUSTER)) <= failed, `${name}: reads go on`)
    await g.graph.remove(node.name)
    t.comment(`${name}: ${writes} writes of 4, ${refused}`)
  }
})

function unlessRefused(error: unknown): BlockNode | undefined {
  if (error instanceof CommandError) return undefined
  throw error
}
