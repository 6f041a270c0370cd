// SPDX-License-Identifier: Apache-2.0
// Images that other programs change while a node is there that nobody uses, or while it is being opened.

import { writeFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { PERMISSIONS, type Permissions } from '../../../../../../daemon/iothread/block/driver.js'
import { mustQemuImg } from '../../../../../helpers/check-image.js'
import { type TestGraph, testGraph } from '../../../../../helpers/graph.js'
import { openImage } from '../../../../../helpers/opened-image.js'
import { installed } from '../../../../../helpers/program.js'

const KiB = 1024
const skip = installed('qemu-img') && installed('qemu-io') ? false : 'qemu-img is not installed'
const READER: Permissions = { use: ['consistent read'], share: PERMISSIONS }
const WRITER: Permissions = { use: ['consistent read', 'write'], share: PERMISSIONS }
const IN_USE = { message: 'Failed to get shared "write" lock', hint: /disk\.qcow2/ }

/** An image with a bitmap whose directory is the last of it. */
function imageWithBitmap(t: Test): string {
  const filename = path.join(t.testdir({}), 'disk.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', filename, '8M')
  mustQemuImg('bitmap', '--add', filename, 'b')
  return filename
}

/** Runs once, after the next read of a file, before its reader goes on. */
function afterNextRead({ engine }: TestGraph, work: () => Promise<void>): void {
  const read = engine.read.bind(engine)
  engine.read = async (...args) => {
    engine.read = read
    const result = await read(...args)
    await work()
    return result
  }
}

/** Another program that may change the image: whoever reads its header finds there what is gone when he reads on. */
async function other(t: Test, filename: string) {
  const g = testGraph(t)
  const node = await openImage(g, filename)
  return {
    removeBitmap: () => g.graph.bitmaps.change([{ kind: 'remove', node: node.name, name: 'b' }]),
    use: () => g.graph.claim('a guest', node, WRITER),
  }
}

t.test('an image that changes while it is opened is opened as it is then', { skip }, async (t) => {
  const filename = imageWithBitmap(t)
  const they = await other(t, filename)
  const g = testGraph(t)
  afterNextRead(g, they.removeBitmap)
  const node = await openImage(g, filename)
  t.same(g.reports.get(node.name)?.dirtyBitmaps, [])
})

t.test('an image that is in use is told so when it cannot be opened', { skip }, async (t) => {
  const filename = imageWithBitmap(t)
  const they = await other(t, filename)
  const g = testGraph(t)
  let claim: Awaited<ReturnType<typeof they.use>> | undefined
  afterNextRead(g, async () => {
    await they.removeBitmap()
    claim = await they.use()
  })
  await t.rejects(openImage(g, filename), IN_USE)
  t.same(g.graph.nodes(), [], 'nothing of it stays')
  await claim?.release()
  await openImage(g, filename)
})

t.test('an image that is broken is told so, in use or not', { skip }, async (t) => {
  const filename = path.join(t.testdir({}), 'disk.qcow2')
  writeFileSync(filename, Buffer.alloc(4096, 1))
  const g = testGraph(t)
  const message = 'Image is not in qcow2 format'
  await t.rejects(openImage(g, filename), { message })
  const shared = { 'read-only': true, 'force-share': true }
  const file = await g.add({ driver: 'file', 'node-name': 'f', filename })
  await g.graph.claim('a guest', file, WRITER)
  await t.rejects(openImage(g, filename, shared), { message })
})

t.test('an image that changes while it is looked at is seen as it is then', { skip }, async (t) => {
  const filename = imageWithBitmap(t)
  const they = await other(t, filename)
  const g = testGraph(t)
  const node = await openImage(g, filename)
  afterNextRead(g, they.removeBitmap)
  await g.graph.freshen(node.name)
  t.same(g.reports.get(node.name)?.dirtyBitmaps, [])
})

t.test('who uses an image makes known what others made of it', { skip }, async (t) => {
  const filename = imageWithBitmap(t)
  const g = testGraph(t)
  const node = await openImage(g, filename)
  mustQemuImg('resize', '-q', filename, '16M')
  mustQemuImg('bitmap', '--add', filename, 'c')
  await (await g.graph.claim('a test', node, READER)).release()
  t.match(g.reports.get(node.name), { size: 16384 * KiB, dirtyBitmaps: [{ name: 'c' }, { name: 'b' }] })
})
