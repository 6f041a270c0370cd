// SPDX-License-Identifier: Apache-2.0
import { statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import type { Permissions } from '../../../../daemon/iothread/block/driver.js'
import { testGraph } from '../../../helpers/graph.js'
import { Scratch } from '../../../helpers/scratch.js'
import { SlowFs, slowfsAbsent } from '../../../helpers/slowfs.js'

const MiB = 1 << 20
const writer: Permissions = { use: ['write'], share: ['write unchanged'] }

function image(dir: string): string {
  const file = path.join(dir, 'a.img')
  writeFileSync(file, Buffer.alloc(MiB, 1))
  return file
}

t.test('what may not change is named, and nothing is reopened', async (t) => {
  const g = testGraph(t)
  const filename = image(t.testdir({}))
  const f = { driver: 'file', 'node-name': 'f', filename }
  await g.add(f)
  await g.add({ driver: 'raw', 'node-name': 'r', file: 'f' })
  await g.add({ driver: 'x-memory', 'node-name': 'm', size: MiB })
  const cases: [object, string][] = [
    [{ ...f, 'node-name': 'zz' }, "Failed to find node with node-name='zz'"],
    [{ driver: 'host_device', 'node-name': 'f', filename }, "Cannot change the option 'driver'"],
    [{ ...f, filename: `${filename}2` }, "Cannot change the option 'filename'"],
    [{ driver: 'x-memory', 'node-name': 'm', size: 512 }, "Cannot change the option 'size'"],
    [{ driver: 'raw', 'node-name': 'r', file: 'm' }, "Cannot change the option 'file'"],
  ]
  for (const [spec, message] of cases) {
    const good = { ...f, 'read-only': true }
    await t.rejects(g.graph.reopen([good, spec as typeof f]), { message })
    t.equal(g.graph.node('f').readOnly, false)
  }
})

t.test('options left out return to their defaults; contents stay', async (t) => {
  const g = testGraph(t)
  const filename = image(t.testdir({}))
  const node = await g.add({
    driver: 'file',
    'node-name': 'f',
    filename,
    'read-only': true,
    cache: { direct: true, 'no-flush': true },
  })
  t.match(g.reports.get('f'), { readOnly: true, cache: { direct: true, noFlush: true } })
  await g.graph.reopen([{ driver: 'file', 'node-name': 'f', filename }])
  t.match(g.reports.get('f'), { readOnly: false, cache: { direct: false, noFlush: false } })
  await g.write(node, 0, Uint8Array.of(9))
  t.same([...(await g.read(node, 0, 2))], [9, 1])
})

t.test('an inline child follows its parent into read-only and does not come back with it', async (t) => {
  const g = testGraph(t)
  const filename = image(t.testdir({}))
  const file = { driver: 'file', 'node-name': 'f', filename }
  await g.add({ driver: 'raw', 'node-name': 'r', file })
  const states = () => [g.graph.node('r').readOnly, g.graph.node('f').readOnly]
  await g.graph.reopen([{ driver: 'raw', 'node-name': 'r', 'read-only': true, file: 'f' }])
  t.same(states(), [true, true])
  await g.graph.reopen([{ driver: 'raw', 'node-name': 'r', file: 'f' }])
  t.same(states(), [false, true])
  await t.rejects(g.graph.claim('a job', g.graph.node('r'), writer), { message: 'Block node is read-only' })
  await g.graph.reopen([file])
  t.same(states(), [false, false])
})

t.test('an inline child may be reopened in the definition of its parent', async (t) => {
  const g = testGraph(t)
  const filename = image(t.testdir({}))
  const file = { driver: 'file', 'node-name': 'f', filename }
  await g.add({ driver: 'raw', 'node-name': 'r', file })
  await g.graph.reopen([
    { driver: 'raw', 'node-name': 'r', offset: 512, file: { ...file, cache: { direct: true } } },
  ])
  t.equal(g.graph.node('f').options.direct, true)
  t.equal(g.reports.get('r')?.size, MiB - 512)
})

t.test('when one cannot be opened none is reopened', async (t) => {
  const g = testGraph(t)
  const filename = image(t.testdir({}))
  const f = { driver: 'file', 'node-name': 'f', filename }
  await g.add(f)
  await g.add({ driver: 'raw', 'node-name': 'r', file: 'f' })
  await t.rejects(
    g.graph.reopen([
      { ...f, 'read-only': true },
      { driver: 'raw', 'node-name': 'r', file: 'f', size: 100 },
    ]),
    { message: 'Specified size is not multiple of 512' },
  )
  t.equal(g.graph.node('f').readOnly, false)
  await g.write(g.graph.node('r'), 0, Uint8Array.of(4))
})

t.test('a node with a writer does not become read-only', async (t) => {
  const g = testGraph(t)
  const node = await g.add({ driver: 'x-memory', 'node-name': 'm' })
  const claim = await g.graph.claim('a job', node, writer)
  const readOnly = { driver: 'x-memory', 'node-name': 'm', 'read-only': true }
  await t.rejects(g.graph.reopen([readOnly]), { message: 'Block node is read-only' })
  await claim.release()
  await g.graph.reopen([readOnly])
  t.ok(node.readOnly)
})

t.test('image locks go with the node to its new handle', async (t) => {
  const g = testGraph(t)
  const filename = image(t.testdir({}))
  const f = { driver: 'file', 'node-name': 'f', filename }
  const node = await g.add(f)
  const other = await g.add({ ...f, 'node-name': 'other' })
  const claim = await g.graph.claim('a job', node, writer)
  await g.graph.reopen([{ ...f, cache: { direct: true } }])
  await t.rejects(g.graph.claim('another', other, writer), { message: 'Failed to get "write" lock' })
  await claim.release()
  await (await g.graph.claim('another', other, writer)).release()
})

t.test('requests in flight end before the switch, later ones use the new handle', async (t) => {
  const g = testGraph(t)
  const filename = image(t.testdir({}))
  const f = { driver: 'file', 'node-name': 'f', filename }
  const node = await g.add(f)
  const slots = g.engine.takeSlots(8)
  for (const slot of slots) g.engine.slotBytes(slot).fill(7, 0, 65536)
  const write = (slot: number, i: number) => node.write(i * 65536, { slot, offset: 0, length: 65536 })
  const before = slots.slice(0, 4).map(write)
  const reopening = g.graph.reopen([{ ...f, cache: { direct: true } }])
  const after = slots.slice(4).map((slot, i) => write(slot, i + 4))
  await Promise.all([...before, reopening, ...after])
  g.engine.giveSlots(slots)
  t.ok((await g.read(node, 0, 8 * 65536)).every((byte) => byte === 7))
  t.equal(statSync(filename).size, MiB)
})

t.test('a handle that cannot be flushed is not replaced', { skip: slowfsAbsent() }, async (t) => {
  using scratch = new Scratch()
  const slow = await SlowFs.mount(scratch.path)
  try {
    writeFileSync(`${slow.files}/a.img`, Buffer.alloc(MiB, 1))
    const g = testGraph(t)
    const node = { driver: 'file', 'node-name': 'f', filename: `${slow.mount}/a.img` }
    await g.add(node)
    slow.rules({ op: 'fsync', delayMs: 0, error: 'EIO' })
    await t.rejects(g.graph.reopen([{ ...node, 'read-only': true }]), { message: 'Input/output error' })
    t.equal(g.graph.node('f').readOnly, false)
  } finally {
    await slow.unmount()
  }
})

t.test('a node that gets another child while it is opened anew stays as it is', async (t) => {
  const g = testGraph(t)
  for (const name of ['one', 'other']) await g.add({ driver: 'x-memory', 'node-name': name, size: MiB })
  await g.write(g.graph.node('other'), 0, Uint8Array.of(2))
  const spec = { driver: 'x-inject', 'node-name': 'above', file: 'one' }
  const above = await g.add({ ...spec, rules: [] })
  const reopening = g.graph.reopen([{ ...spec, rules: [{ op: 'open', 'delay-ms': 500 }] }])
  const top = g.graph.insertFilter('top', g.graph.node('one'), () => [], { driver: 'mirror_top' })
  {
    using _users = await top.node.drain()
    const [one, other] = [g.graph.node('one'), g.graph.node('other')]
    using held = await g.graph.surgery.hold(one, [top.node], other, { moving: true })
    using _quiet = await one.drain()
    await g.graph.surgery.pivot(top, one, other, { held: held.nodes, ending: [] })
  }
  top.remove()
  await t.rejects(reopening, { message: "Node 'above' has got another node below it meanwhile" })
  t.same(g.reports.get('above')?.children, { file: 'other' })
  t.equal((await g.read(above, 0, 1))[0], 2)
})

t.test('a node that somebody begins to write while it is opened for reading stays writable', async (t) => {
  const g = testGraph(t)
  await g.add({ driver: 'x-memory', 'node-name': 'memory', size: MiB })
  const spec = { driver: 'x-inject', 'node-name': 'above', file: 'memory' }
  const above = await g.add({ ...spec, rules: [] })
  const slow = { ...spec, 'read-only': true, rules: [{ op: 'open', 'delay-ms': 500 }] }
  const reopening = g.graph.reopen([slow])
  const claim = await g.graph.claim('a guest', above, writer)
  await t.rejects(reopening, { message: 'Block node is read-only' })
  await g.write(above, 0, Uint8Array.of(1))
  await claim.release()
  await g.graph.reopen([slow])
  t.ok(above.readOnly)
})

t.test('a node that does not come to rest is not reopened, and its requests go on', async (t) => {
  const g = testGraph(t)
  await g.add({ driver: 'x-memory', 'node-name': 'm', size: MiB })
  const spec = { driver: 'raw', 'node-name': 'r', file: 'm' }
  const node = await g.add(spec)
  let go = () => {}
  const stuck = new Promise<void>((resolve) => {
    go = resolve
  })
  const under = node.withDriver(() => stuck)
  const own = { ...spec, 'read-only': true }
  const reopening = g.graph.reopen([own], 5)
  await t.rejects(Promise.all([reopening, node.status(0, 512)]), {
    message: "node 'r' did not come to rest within 0.005 s; nothing was changed",
  })
  t.notOk(node.readOnly)
  await node.status(0, 512)
  go()
  await under
  await g.graph.reopen([own])
  t.ok(node.readOnly)
})
