// SPDX-License-Identifier: Apache-2.0
// A node that shows an internal snapshot of its image: read only, and the same snapshot as long as it lives.

import path from 'node:path'
import t, { type Test } from 'tap'
import { mustQemuImg } from '../../../../../helpers/check-image.js'
import { type TestGraph, testGraph } from '../../../../../helpers/graph.js'
import { installed } from '../../../../../helpers/program.js'

const MiB = 2 ** 20
const skip = installed('qemu-img') ? false : 'qemu-img is not installed'

/** An image of 2 MiB whose snapshots have 1 MiB ('a') and 2 MiB ('b'). */
function image(t: Test): string {
  const file = path.join(t.testdir({}), 'a.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', file, '1M')
  mustQemuImg('bitmap', '--add', file, 'marks')
  mustQemuImg('snapshot', '-c', 'a', file)
  mustQemuImg('resize', '-q', file, '2M')
  mustQemuImg('snapshot', '-c', 'b', file)
  return file
}

function add(g: TestGraph, filename: string, more: Record<string, unknown>) {
  const file = { driver: 'file', 'node-name': 'snap-file', filename, 'read-only': true }
  return g.add({ driver: 'qcow2', 'node-name': 'snap', file, ...more })
}

t.test('a snapshot is as long as the disk was, and has none of its bitmaps', { skip }, async (t) => {
  const g = testGraph(t)
  const node = await add(g, image(t), { 'read-only': true, 'x-snapshot': 'a' })
  t.equal(node.length(), MiB)
  t.match(node.driver.format?.(), { bitmaps: [], snapshots: [{ name: 'a' }, { name: 'b' }] })
})

t.test('it cannot be written', { skip }, async (t) => {
  const g = testGraph(t)
  const file = image(t)
  const message = "Snapshot 'a' can only be read: 'read-only' must be true"
  await t.rejects(add(g, file, { 'x-snapshot': 'a' }), { message })
  const node = await add(g, file, { 'read-only': true, 'x-snapshot': 'a' })
  await t.rejects(
    g.graph.reopen([{ driver: 'qcow2', 'node-name': 'snap', file: 'snap-file', 'x-snapshot': 'a' }]),
    { message },
  )
  t.equal(node.readOnly, true)
})

t.test('it stays the one it is', { skip }, async (t) => {
  const g = testGraph(t)
  const node = await add(g, image(t), { 'read-only': true, 'x-snapshot': 'a' })
  const base = { driver: 'qcow2', 'node-name': 'snap', file: 'snap-file', 'read-only': true }
  await t.rejects(g.graph.reopen([base]), {
    message: "Option 'x-snapshot' cannot be reset to its default value",
  })
  await t.rejects(g.graph.reopen([{ ...base, 'x-snapshot': 'b' }]), {
    message: "Cannot change the option 'x-snapshot'",
  })
  await g.graph.reopen([{ ...base, 'x-snapshot': 'a' }])
  t.equal(node.length(), MiB)
})
