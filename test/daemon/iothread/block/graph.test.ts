// SPDX-License-Identifier: Apache-2.0
import { readdirSync, readlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { testGraph } from '../../../helpers/graph.js'

const MiB = 1 << 20

t.test('inline children are opened before and closed with their parent', async (t) => {
  const g = testGraph(t)
  await g.add({ driver: 'raw', 'node-name': 'r', file: { driver: 'x-memory', 'node-name': 'm', size: MiB } })
  t.same([...g.reports.keys()], ['m', 'r'])
  t.same(g.reports.get('r')?.children, { file: 'm' })
  await t.rejects(g.graph.remove('m'), { message: 'Block device m is in use' })
  await g.graph.remove('r')
  t.same([...g.reports.keys()], [])
  t.same(g.graph.nodes(), [])
})

t.test('a named child stays when its parent goes', async (t) => {
  const g = testGraph(t)
  await g.add({ driver: 'x-memory', 'node-name': 'm', size: MiB })
  await g.add({ driver: 'raw', 'node-name': 'r', file: 'm' })
  await g.graph.remove('r')
  t.same([...g.reports.keys()], ['m'])
})

t.test('a node that cannot be opened leaves nothing behind', async (t) => {
  const g = testGraph(t)
  const bad = {
    driver: 'raw',
    'node-name': 'r',
    size: 100,
    file: { driver: 'x-memory', 'node-name': 'm', size: MiB },
  }
  await t.rejects(g.graph.add(bad), { message: 'Specified size is not multiple of 512' })
  t.same(g.graph.nodes(), [])
  await g.add({ ...bad, size: 512 })
})

t.test('unknown children, names in use and unknown drivers are refused by name', async (t) => {
  const g = testGraph(t)
  await g.add({ driver: 'x-memory', 'node-name': 'm', size: MiB })
  await t.rejects(g.graph.add({ driver: 'raw', 'node-name': 'r', file: 'none' }), {
    message: "Cannot find device='none' nor node-name='none'",
  })
  await t.rejects(g.graph.add({ driver: 'x-memory', 'node-name': 'm' }), {
    message: "Duplicate nodes with node-name='m'",
  })
  await t.rejects(g.graph.add({ driver: 'vmdk', 'node-name': 'q', file: 'm' }), {
    message: "Unknown driver 'vmdk'",
  })
  await t.rejects(g.graph.add({ driver: 'throttle', 'node-name': 'x', file: 'm', 'throttle-group': 'tg' }), {
    message: "Throttle group 'tg' does not exist",
  })
})

t.test('two adds of one name at once: one of them is refused', async (t) => {
  const g = testGraph(t)
  const results = await Promise.allSettled([
    g.graph.add({ driver: 'x-memory', 'node-name': 'm' }),
    g.graph.add({ driver: 'x-memory', 'node-name': 'm' }),
  ])
  t.same(results.map((result) => result.status).sort(), ['fulfilled', 'rejected'])
})

t.test('reports show file names, sizes in sectors, identity and allocation', async (t) => {
  const g = testGraph(t)
  const file = path.join(t.testdir({}), 'a.img')
  writeFileSync(file, Buffer.alloc(1000, 1))
  await g.add({ driver: 'file', 'node-name': 'f', filename: file })
  await g.add({ driver: 'raw', 'node-name': 'plain', file: 'f' })
  await g.add({ driver: 'raw', 'node-name': 'window', file: 'f', size: 512 })
  await g.add({
    driver: 'blkdebug',
    'node-name': 'b',
    image: 'f',
    'inject-error': [{ event: 'none', iotype: 'read', once: true }],
  })
  t.match(g.reports.get('f'), { size: 1024, filename: file, allocated: 4096, identity: /^\d+:\d+$/ })
  t.equal(g.reports.get('plain')?.filename, file)
  t.equal(
    g.reports.get('window')?.filename,
    `json:{"driver": "raw", "size": 512, "file": {"driver": "file", "filename": "${file}"}}`,
  )
  t.match(g.reports.get('b')?.filename, /"inject-error\.0\.event": "none", "inject-error\.0\.iotype": "read"/)
})

t.test('refresh reports what has changed, and only that', async (t) => {
  const g = testGraph(t)
  const file = path.join(t.testdir({}), 'a.img')
  writeFileSync(file, '')
  const node = await g.add({ driver: 'file', 'node-name': 'f', filename: file })
  await g.add({ driver: 'x-memory', 'node-name': 'm', size: MiB })
  await g.graph.resize('f', MiB)
  await g.write(node, 0, new Uint8Array(8192).fill(1))
  g.reports.clear()
  await g.graph.refresh()
  t.same([...g.reports.keys()], ['f'])
  t.match(g.reports.get('f'), { size: MiB, allocated: 8192, stats: { writes: 1, writeBytes: 8192 } })
})

t.test('a child inherits read-only, cache mode and unmapping, where it says nothing itself', async (t) => {
  const g = testGraph(t)
  await g.add({
    driver: 'raw',
    'node-name': 'r',
    'read-only': true,
    cache: { 'no-flush': true },
    file: { driver: 'x-memory', 'node-name': 'm' },
  })
  t.match(g.graph.node('m').options, { readOnly: true, noFlush: true, direct: false, discard: 'unmap' })
  await g.add({
    driver: 'raw',
    'node-name': 'r2',
    'read-only': true,
    file: { driver: 'x-memory', 'node-name': 'm2', 'read-only': false },
  })
  t.equal(g.graph.node('m2').readOnly, false)
})

t.test('a filter shows the dirty bitmap while it is there, and claims see it', async (t) => {
  const g = testGraph(t)
  const source = await g.add({ driver: 'x-memory', 'node-name': 'm', size: MiB })
  const claim = await g.graph.claim('an export', source, { use: ['consistent read'], share: ['write'] })
  let count = 4096
  const filter = g.graph.insertFilter('top', source, () => [{ granularity: 65536, count }], {
    driver: 'mirror_top',
  })
  t.equal(claim.node.name, 'top')
  t.match(g.reports.get('top'), {
    driver: 'mirror_top',
    children: { file: 'm' },
    size: MiB,
    dirtyBitmaps: [{ recording: false, persistent: false, busy: false, granularity: 65536, count: 4096 }],
  })
  count = 0
  await g.graph.refresh()
  t.equal(g.reports.get('top')?.dirtyBitmaps[0]?.count, 0)
  await g.write(g.graph.node('top'), 0, Uint8Array.of(9))
  t.equal((await g.read(source, 0, 1))[0], 9)
  filter.remove()
  filter.remove()
  t.equal(claim.node.name, 'm')
  t.notOk(g.reports.has('top'))
  await claim.release()
})

t.test('a stalled request is the oldest one, by node and operation', async (t) => {
  const g = testGraph(t)
  const node = await g.add({
    driver: 'x-inject',
    'node-name': 'i',
    file: { driver: 'x-memory', 'node-name': 'm', size: MiB },
    rules: [{ op: 'flush', stall: true }],
  })
  t.equal(g.graph.oldest(), undefined)
  const flush = node.flush()
  await Promise.resolve()
  t.match(g.graph.oldest(), { op: 'flush', node: 'i' })
  node.driver.release?.()
  await flush
  t.equal(g.graph.oldest(), undefined)
})

t.test('a failed flush on removal is logged and the node goes', async (t) => {
  const g = testGraph(t)
  await g.add({
    driver: 'x-inject',
    'node-name': 'i',
    file: { driver: 'x-memory', 'node-name': 'm', size: MiB },
    rules: [{ op: 'flush', errno: 5 }],
  })
  await g.graph.remove('i')
  t.same(g.log, ['error i: flush failed: Input/output error'])
  t.same(g.graph.nodes(), [])
})

t.test(
  'a node that is being removed can neither be used nor removed again, and its name is free after',
  async (t) => {
    const g = testGraph(t)
    const spec = { driver: 'x-memory', 'node-name': 'm', size: MiB }
    const node = await g.add(spec)
    const removal = g.graph.remove('m')
    const message = "Cannot find device='m' nor node-name='m'"
    await t.rejects(g.graph.remove('m'), { message })
    await t.rejects(g.graph.claim('a job', node, { use: [], share: [] }), { message })
    await t.rejects(g.graph.add({ driver: 'raw', 'node-name': 'r', file: 'm' }), { message })
    await removal
    await g.add(spec)
  },
)

t.test('a node removed while it is being reopened is closed once, with its new handle', async (t) => {
  const g = testGraph(t)
  const filename = path.join(t.testdir({}), 'a.img')
  writeFileSync(filename, Buffer.alloc(4096))
  const spec = { driver: 'file', 'node-name': 'f', filename }
  for (let i = 0; i < 20; i++) {
    await g.add(spec)
    const [reopened, removed] = await Promise.allSettled([
      g.graph.reopen([{ ...spec, 'read-only': true }]),
      g.graph.remove('f'),
    ])
    t.equal(removed.status, 'fulfilled')
    if (reopened.status === 'rejected') t.match(reopened.reason, { message: /^Failed to find node/ })
  }
  const open = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`)
    } catch {
      return ''
    }
  })
  t.notOk(open.includes(filename))
  t.same(g.log, [])
})

t.test('a node whose flush is to stall can be removed', async (t) => {
  const { graph, add } = testGraph(t)
  const file = { driver: 'null-co', 'node-name': 'below' }
  await add({ driver: 'x-inject', 'node-name': 'n', file, rules: [{ op: 'flush', stall: true }] })
  await graph.remove('n')
  t.same(graph.nodes(), [])
})

t.test('a node whose child is removed while it is opened is not there', async (t) => {
  const g = testGraph(t)
  await g.add({ driver: 'x-memory', 'node-name': 'disk', size: 512 })
  const rules = [{ op: 'open', 'delay-ms': 500 }]
  const file = { driver: 'x-inject', 'node-name': 'between', file: 'disk', rules }
  const adding = g.add({ driver: 'raw', 'node-name': 'above', file })
  await g.graph.remove('disk')
  const message = "Cannot find device='disk' nor node-name='disk'"
  await t.rejects(adding, { message })
  t.strictSame([...g.reports.keys()], [])
  await g.add({ driver: 'x-memory', 'node-name': 'disk', size: 512 })
  await g.add({ driver: 'raw', 'node-name': 'above', file })
})
