// SPDX-License-Identifier: Apache-2.0
import { truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
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

/** Pieces of 512 bytes in no order, each with a byte of its own. */
const scattered = [7, 3, 4, 5, 90, 0].map((sector) => ({ offset: sector * 512, length: 512 }))

for (const kind of [
  'a driver for pieces',
  'a driver without',
  'unaligned pieces',
  'zeroes looked for',
] as const) {
  t.test(`pieces are written and read as if one by one: ${kind}`, async (t) => {
    const g = testGraph(t)
    const filename = join(t.testdir({}), 'image')
    writeFileSync(filename, Buffer.alloc(MiB))
    const file = { driver: 'file', filename, cache: { direct: kind === 'unaligned pieces' } }
    const node = await g.add({
      ...(kind === 'a driver without' ? { driver: 'x-memory', size: MiB } : file),
      ...(kind === 'zeroes looked for' && { 'detect-zeroes': 'on' }),
      'node-name': 'n',
    })
    const heard: number[] = []
    node.addDirtyListener((offset, length) => heard.push(offset / 512, length))
    const [slot] = g.engine.takeSlots(1)
    const pieces = kind === 'unaligned pieces' ? [...scattered, { offset: 5000, length: 11 }] : scattered
    const length = pieces.reduce((sum, piece) => sum + piece.length, 0)
    const slice = { slot: slot ?? 0, offset: 1024, length }
    const bytes = g.engine.slotBytes(slice.slot).subarray(1024, 1024 + length)
    for (const [index, { length: one }] of pieces.entries())
      bytes.fill(index + 1, index * 512, index * 512 + one)
    await node.writePieces(pieces, slice, 3)
    for (const [index, { offset, length: one }] of pieces.entries())
      t.same(await g.read(node, offset, one), new Uint8Array(one).fill(index + 1))
    t.equal(node.stats.writes, pieces.length)
    t.equal(node.stats.writeBytes, length)
    t.same(
      heard.sort((a, b) => a - b),
      pieces.flatMap((piece) => [piece.offset / 512, piece.length]).sort((a, b) => a - b),
    )
    bytes.fill(0)
    t.equal(await node.readPieces(pieces, slice, 3, { scan: true }), false)
    for (const [index, { length: one }] of pieces.entries())
      t.same(bytes.subarray(index * 512, index * 512 + one), new Uint8Array(one).fill(index + 1))
    const empty = [20, 10].map((sector) => ({ offset: sector * 512, length: 512 }))
    t.equal(await node.readPieces(empty, { ...slice, length: 1024 }, 3, { scan: true }), true)
  })
}

t.test('a piece beyond the end, or for a read-only node, is refused', async (t) => {
  const g = testGraph(t)
  const filename = join(t.testdir({}), 'image')
  writeFileSync(filename, Buffer.alloc(2048))
  const node = await g.add({ driver: 'file', 'node-name': 'n', filename })
  const [slot] = g.engine.takeSlots(1)
  const slice = { slot: slot ?? 0, offset: 0, length: 1024 }
  const beyond = [0, 2048].map((offset) => ({ offset, length: 512 }))
  await t.rejects(node.writePieces(beyond, slice, 8), { code: 'EINVAL', offset: 2048 })
  await t.rejects(node.readPieces(beyond, slice, 8), { code: 'EINVAL', offset: 2048 })
  const reader = await g.add({ driver: 'file', 'node-name': 'r', filename, 'read-only': true })
  const inside = [0, 1024].map((offset) => ({ offset, length: 512 }))
  await t.rejects(reader.writePieces(inside, slice, 8), { code: 'EPERM' })
})

t.test('a piece that fails is named', async (t) => {
  const g = testGraph(t)
  const filename = join(t.testdir({}), 'image')
  writeFileSync(filename, Buffer.alloc(MiB))
  const node = await g.add({ driver: 'file', 'node-name': 'n', filename })
  truncateSync(filename, 4096)
  const [slot] = g.engine.takeSlots(1)
  const pieces = [0, 1024, 8192].map((offset) => ({ offset, length: 512 }))
  const read = node.readPieces(pieces, { slot: slot ?? 0, offset: 0, length: 1536 }, 8)
  await t.rejects(read, { code: 'EIO', op: 'read', node: 'n', offset: 8192, length: 512 })
  t.equal(node.stats.failedReads, 1)
})
