// SPDX-License-Identifier: Apache-2.0
// raw, null, memory, throttle and inject over a memory disk.
import t from 'tap'
import { type BucketLimits, NO_LIMITS } from '../../../../../daemon/common/throttle-limits.js'
import { testGraph } from '../../../../helpers/graph.js'

const MiB = 1 << 20
const memory = (size = MiB) => ({ driver: 'x-memory', 'node-name': 'm', size })
const only = (rate: number): BucketLimits => ({ rate, burst: 0, burstSeconds: 1 })

t.test('raw shows a window of its child', async (t) => {
  const g = testGraph(t)
  const node = await g.add({ driver: 'raw', 'node-name': 'r', offset: 513, size: 1024, file: memory() })
  await g.write(node, 0, Uint8Array.of(1, 2, 3))
  t.same([...(await g.read(g.graph.node('m'), 512, 5))], [0, 1, 2, 3, 0])
  await t.rejects(g.read(node, 1000, 100), { code: 'EINVAL' })
  await t.rejects(g.graph.resize('r', 2048), { message: 'Cannot resize fixed-size raw disks' })
})

t.test('a raw window that does not fit is refused', async (t) => {
  const g = testGraph(t)
  await g.add(memory())
  for (const [options, message] of [
    [{ offset: 2 * MiB }, 'Offset (2097152) cannot be greater than size of the containing file (1048576)'],
    [{ size: 100 }, 'Specified size is not multiple of 512'],
    [
      { offset: 512, size: MiB },
      'The sum of offset (512) and size (1048576) has to be smaller or equal to the  actual size of the ' +
        'containing file (1048576)',
    ],
  ] as const) {
    await t.rejects(g.graph.add({ driver: 'raw', 'node-name': 'r', file: 'm', ...options }), { message })
  }
})

t.test('raw without a size follows its child when resized', async (t) => {
  const g = testGraph(t)
  await g.add({ driver: 'raw', 'node-name': 'r', offset: 512, file: memory() })
  await g.graph.resize('r', 2 * MiB)
  t.equal(g.reports.get('r')?.size, 2 * MiB)
  t.equal(g.reports.get('m')?.size, 2 * MiB + 512)
})

t.test('null takes everything; read-zeroes makes it all zero', async (t) => {
  const g = testGraph(t)
  const plain = await g.add({ driver: 'null-co', 'node-name': 'n' })
  t.equal(plain.length(), 2 ** 30)
  await g.write(plain, 0, new Uint8Array(4096))
  t.equal((await plain.status(0, 4096)).kind, 'data')
  const zeroes = await g.add({ driver: 'null-aio', 'node-name': 'z', size: 1000, 'read-zeroes': true })
  t.equal(g.reports.get('z')?.size, 1024)
  t.ok((await g.read(zeroes, 0, 1000)).every((byte) => byte === 0))
  t.equal((await zeroes.status(0, 512)).kind, 'zero')
  await t.rejects(g.graph.add({ driver: 'null-co', 'node-name': 'l', 'latency-ns': -1 }), {
    message: 'latency-ns is invalid',
  })
  await t.rejects(g.graph.resize('n', MiB), { message: 'Image format driver does not support resize' })
})

t.test('memory has real zero extents and gives zeroed pieces back', async (t) => {
  const g = testGraph(t)
  const node = await g.add(memory())
  await g.write(node, 65536, Uint8Array.of(1))
  t.match(await node.status(0, MiB), { offset: 0, length: 65536, kind: 'zero' })
  t.match(await node.status(65536, MiB - 65536), { offset: 65536, length: 65536, kind: 'data' })
  await node.zero(65536, 65536, { unmap: true, fast: true })
  t.match(await node.status(0, MiB), { length: MiB, kind: 'zero' })
})

t.test('memory that shrinks and grows again reads as zero there', async (t) => {
  const g = testGraph(t)
  const node = await g.add(memory(1000))
  await g.write(node, 0, new Uint8Array(1000).fill(7))
  await node.resize(500)
  await node.resize(1000)
  const bytes = await g.read(node, 0, 1000)
  t.ok(bytes.subarray(0, 500).every((byte) => byte === 7))
  t.ok(bytes.subarray(500).every((byte) => byte === 0))
})

t.test('inject fails the n-th request of an operation, as often as told', async (t) => {
  const g = testGraph(t)
  const node = await g.add({
    driver: 'x-inject',
    'node-name': 'i',
    file: memory(),
    rules: [
      { op: 'write', nth: 2, count: 2, errno: 28 },
      { op: 'flush', count: 0, errno: 5 },
    ],
  })
  const results: string[] = []
  for (let i = 0; i < 4; i++) {
    await g.write(node, 0, Uint8Array.of(i)).then(
      () => results.push('ok'),
      (error: { code: string }) => results.push(error.code),
    )
  }
  t.same(results, ['ok', 'ENOSPC', 'ENOSPC', 'ok'])
  for (let i = 0; i < 3; i++) await t.rejects(node.flush(), { code: 'EIO' })
})

t.test('inject tears a write: with errno it fails, without it lies', async (t) => {
  const g = testGraph(t)
  const node = await g.add({
    driver: 'x-inject',
    'node-name': 'i',
    file: memory(),
    rules: [
      { op: 'write', tear: 2, errno: 5 },
      { op: 'write', nth: 2, tear: 0 },
    ],
  })
  await t.rejects(g.write(node, 0, Uint8Array.of(1, 1, 1, 1)), { code: 'EIO' })
  await g.write(node, 4, Uint8Array.of(2, 2))
  t.same([...(await g.read(node, 0, 6))], [1, 1, 0, 0, 0, 0])
})

t.test('inject can refuse to open, and delays without failing', async (t) => {
  const g = testGraph(t)
  await t.rejects(
    g.graph.add({
      driver: 'x-inject',
      'node-name': 'i',
      file: memory(),
      rules: [{ op: 'open', errno: 13 }],
    }),
    { code: 'EACCES' },
  )
  t.same(g.graph.nodes(), [])
  const node = await g.add({
    driver: 'x-inject',
    'node-name': 'i',
    file: memory(),
    rules: [{ op: 'status', 'delay-ms': 1 }],
  })
  t.equal((await node.status(0, 512)).kind, 'zero')
})

t.test('numbers that make no sense are refused by name', async (t) => {
  const g = testGraph(t)
  await g.add(memory())
  for (const [spec, message] of [
    [{ driver: 'raw', file: 'm', offset: -512 }, "Value '-512' is out of range for parameter 'offset'"],
    [{ driver: 'null-co', size: -1 }, "Value '-1' is out of range for parameter 'size'"],
    [
      { driver: 'x-inject', file: 'm', rules: [{ op: 'read', nth: 0 }] },
      "Parameter 'rules[0].nth' expects a number not below 1",
    ],
  ] as const) {
    await t.rejects(g.graph.add({ 'node-name': 'x', ...spec }), { message })
  }
})

t.test('a request that reaches its stall after the release goes on', async (t) => {
  const g = testGraph(t)
  const node = await g.add({
    driver: 'x-inject',
    'node-name': 'i',
    file: memory(),
    rules: [{ op: 'flush', 'delay-ms': 5, stall: true }],
  })
  const flush = node.flush()
  node.driver.release?.()
  await flush
  t.pass()
})

t.test('a stalled request goes on when the node is reopened', async (t) => {
  const g = testGraph(t)
  const node = await g.add({
    driver: 'x-inject',
    'node-name': 'i',
    file: memory(),
    rules: [{ op: 'write', stall: true }],
  })
  const write = g.write(node, 0, Uint8Array.of(5))
  while (g.graph.oldest() === undefined) await new Promise(setImmediate)
  await g.graph.reopen([{ driver: 'x-inject', 'node-name': 'i', file: 'm', rules: [] }])
  await write
  t.equal((await g.read(node, 0, 1))[0], 5)
})

t.test('blkdebug rules: by kind, by sector, once or always', async (t) => {
  const g = testGraph(t)
  const node = await g.add({
    driver: 'blkdebug',
    'node-name': 'b',
    image: memory(),
    'inject-error': [
      { event: 'none', iotype: 'write', errno: 28, once: true },
      { event: 'none', iotype: 'read', sector: 8 },
    ],
  })
  await t.rejects(g.write(node, 0, Uint8Array.of(1)), { code: 'ENOSPC' })
  await g.write(node, 0, Uint8Array.of(1))
  await g.read(node, 0, 4096)
  await t.rejects(g.read(node, 4095, 2), { code: 'EIO' })
  await t.rejects(g.read(node, 4095, 2), { code: 'EIO' })
  await g.write(node, 4096, Uint8Array.of(1))
  await node.flush()
  await t.rejects(g.graph.add({ driver: 'blkdebug', 'node-name': 'c', image: 'm', align: 3 }), {
    message: 'Cannot meet constraints with align 3',
  })
})

t.test('throttled requests keep their order, and lifting the limit lets them go', async (t) => {
  const g = testGraph(t)
  g.graph.throttleGroup('tg', { ...NO_LIMITS, bpsWrite: only(1) })
  const node = await g.add({ driver: 'throttle', 'node-name': 'th', 'throttle-group': 'tg', file: memory() })
  const order: number[] = []
  const writes = [0, 1, 2].map((i) =>
    node.zero(i * 512, 512, { unmap: true, fast: false }).then(() => order.push(i)),
  )
  await writes[0]
  await g.read(node, 0, 512)
  t.same(order, [0], 'the bucket is empty for writes, not for reads')
  t.match(g.graph.oldest(), { op: 'write', node: 'th' })
  g.graph.throttleGroup('tg', NO_LIMITS)
  await Promise.all(writes)
  t.same(order, [0, 1, 2])
})

t.test('a forgotten throttle group limits no more', async (t) => {
  const g = testGraph(t)
  g.graph.throttleGroup('tg', { ...NO_LIMITS, iopsTotal: only(1) })
  const node = await g.add({ driver: 'throttle', 'node-name': 'th', 'throttle-group': 'tg', file: memory() })
  const reads = [g.read(node, 0, 1), g.read(node, 1, 1), g.read(node, 2, 1)]
  await reads[0]
  g.graph.throttleGroup('tg', null)
  await Promise.all(reads)
  t.pass()
})
