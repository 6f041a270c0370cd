// SPDX-License-Identifier: Apache-2.0
import t from 'tap'
import { IoError } from '../../../../daemon/errors.js'
import { testGraph } from '../../../helpers/graph.js'

const MiB = 1 << 20

t.test('a request beyond the end fails with EINVAL and changes nothing', async (t) => {
  const g = testGraph(t)
  const node = await g.add({ driver: 'x-memory', 'node-name': 'm', size: MiB })
  for (const [offset, length] of [
    [MiB, 512],
    [MiB - 512, 1024],
    [-512, 512],
  ] as const) {
    await t.rejects(node.zero(offset, length, { unmap: true, fast: false }), { code: 'EINVAL', node: 'm' })
    await t.rejects(node.status(offset, length), { code: 'EINVAL' })
    await t.rejects(g.read(node, offset, length), { code: 'EINVAL' })
    await t.rejects(g.write(node, offset, new Uint8Array(length)), { code: 'EINVAL' })
  }
  t.equal(node.stats.writes, 0)
})

t.test('a read-only node refuses every change', async (t) => {
  const g = testGraph(t)
  const node = await g.add({ driver: 'x-memory', 'node-name': 'm', size: MiB, 'read-only': true })
  await t.rejects(g.write(node, 0, new Uint8Array(512)), { code: 'EPERM' })
  await t.rejects(node.zero(0, 512, { unmap: false, fast: false }), { code: 'EPERM' })
  await t.rejects(node.discard(0, 512), { code: 'EPERM' })
  await t.rejects(node.resize(512), { code: 'EPERM' })
})

t.test('drain waits for a request in flight and holds new ones back', async (t) => {
  const g = testGraph(t)
  const node = await g.add({
    driver: 'x-inject',
    'node-name': 'i',
    file: { driver: 'x-memory', 'node-name': 'm', size: MiB },
    rules: [{ op: 'write', stall: true }],
  })
  const first = g.write(node, 0, Uint8Array.of(1))
  while (g.graph.oldest() === undefined) await new Promise(setImmediate)
  let quiet = false
  const drained = node.drain().then((section) => {
    quiet = true
    return section
  })
  const second = node.zero(0, 65536, { unmap: true, fast: false })
  await new Promise(setImmediate)
  t.notOk(quiet, 'waits for the stalled write')
  node.driver.release?.()
  const section = await drained
  await first
  t.equal((await g.graph.node('m').status(0, 512)).kind, 'data', 'the zero has not passed')
  section[Symbol.dispose]()
  await second
  t.equal((await g.graph.node('m').status(0, 512)).kind, 'zero')
})

t.test('requests wait until the last of nested drains has ended', async (t) => {
  const g = testGraph(t)
  const node = await g.add({ driver: 'x-memory', 'node-name': 'm', size: MiB })
  const outer = await node.drain()
  const inner = await node.drain()
  let done = false
  const flush = node.flush().then(() => {
    done = true
  })
  outer[Symbol.dispose]()
  outer[Symbol.dispose]()
  await new Promise(setImmediate)
  t.notOk(done)
  inner[Symbol.dispose]()
  await flush
  t.ok(done)
})

t.test('dirty listeners hear of writes, zeroes and discards, failed ones too', async (t) => {
  const g = testGraph(t)
  const node = await g.add({
    driver: 'x-inject',
    'node-name': 'i',
    discard: 'unmap',
    file: { driver: 'x-memory', 'node-name': 'm', size: MiB },
    rules: [{ op: 'write', nth: 2, errno: 28 }],
  })
  const marks: number[][] = []
  const listener = node.addDirtyListener((...range) => marks.push(range))
  await g.write(node, 0, new Uint8Array(512))
  await t.rejects(g.write(node, 512, new Uint8Array(512)), { code: 'ENOSPC' })
  await node.zero(1024, 512, { unmap: false, fast: false })
  await node.discard(2048, 512)
  listener[Symbol.dispose]()
  await g.write(node, 4096, new Uint8Array(512))
  t.same(marks, [
    [0, 512],
    [512, 512],
    [1024, 512],
    [2048, 512],
  ])
  t.equal(node.stats.failedWrites, 1)
  t.equal(node.stats.writes, 3)
  t.equal(node.stats.writeHighest, 4096 + 512)
})

t.test('a change is submitted only after the before-write hook has ended', async (t) => {
  const g = testGraph(t)
  const node = await g.add({ driver: 'x-memory', 'node-name': 'm', size: MiB })
  let kind: string | undefined
  const hook = node.addBeforeWrite(async () => {
    await new Promise(setImmediate)
    kind = (await node.status(0, 512)).kind
  })
  await g.write(node, 0, Uint8Array.of(1, 2, 3))
  t.equal(kind, 'zero')
  hook[Symbol.dispose]()
})

t.test('detect-zeroes turns writes of zeroes into zero requests', async (t) => {
  const g = testGraph(t)
  const node = await g.add({
    driver: 'x-memory',
    'node-name': 'm',
    size: MiB,
    discard: 'unmap',
    'detect-zeroes': 'unmap',
  })
  await g.write(node, 0, new Uint8Array(200_000))
  const almost = new Uint8Array(200_000)
  almost[199_999] = 1
  await g.write(node, 262_144, almost)
  t.match(node.stats, { writes: 1, zeroes: 1 })
  t.equal((await node.status(0, 4096)).kind, 'zero')
})

t.test('zeroes may unmap, and discards pass, only with discard=unmap', async (t) => {
  const g = testGraph(t)
  const node = await g.add({ driver: 'x-memory', 'node-name': 'm', size: MiB })
  await g.write(node, 0, Uint8Array.of(7))
  await node.discard(0, MiB)
  t.equal(node.stats.discards, 0)
  t.equal((await g.read(node, 0, 1))[0], 7)
})

t.test('errors are IoErrors that name node, operation and range', async (t) => {
  const g = testGraph(t)
  const node = await g.add({
    driver: 'x-inject',
    'node-name': 'i',
    file: { driver: 'x-memory', 'node-name': 'm', size: MiB },
    rules: [{ op: 'read', errno: 5 }],
  })
  const error = await g.read(node, 4096, 512).catch((error: unknown) => error)
  t.ok(error instanceof IoError)
  t.match(error, { code: 'EIO', op: 'read', node: 'i', offset: 4096, length: 512 })
})
