// SPDX-License-Identifier: Apache-2.0
// Commands about nodes: texts of refusals, order of listings, names under concurrent commands, and that one stuck
// command holds up nothing else.

import t from 'tap'
import { scriptedDaemon } from '../scripted-daemon.js'

const file = (name: string, filename = `/${name}`) =>
  ({ driver: 'file', 'node-name': name, filename }) as const
const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

t.test('a definition is refused for its names before a worker is started', async (t) => {
  const daemon = scriptedDaemon()
  await daemon.run('blockdev-add', file('f0'))
  const long = 'a2345678901234567890123456789012'
  for (const [definition, message] of [
    [{ driver: 'file', filename: '/x' }, "'node-name' must be specified for the root node"],
    [file('f0'), "Duplicate nodes with node-name='f0'"],
    [file('1x'), "Invalid node-name: '1x'"],
    [file('#block1'), "Invalid node-name: '#block1'"],
    [file(long), 'Node name too long'],
    [{ driver: 'raw', 'node-name': 'x', file: 'no' }, "Cannot find device='no' nor node-name='no'"],
    [{ driver: 'raw', 'node-name': 'x', file: file('x') }, "Duplicate nodes with node-name='x'"],
    [
      { driver: 'throttle', 'node-name': 'x', 'throttle-group': 'g', file: file('y') },
      "Throttle group 'g' does not exist",
    ],
  ] as const)
    await t.rejects(daemon.run('blockdev-add', definition), { message })
  t.equal(daemon.workers.length, 1)
  await daemon.run('blockdev-add', file(long.slice(0, 31)))
})

t.test('a new disk gets a worker of its own, a parent joins that of its child', async (t) => {
  const daemon = scriptedDaemon()
  await daemon.run('blockdev-add', file('a'))
  await daemon.run('blockdev-add', { driver: 'raw', 'node-name': 'b', file: file('c') })
  await daemon.run('blockdev-add', { driver: 'raw', 'node-name': 'd', file: 'a' })
  t.same(daemon.placement(), ['a d', 'b c'])
})

t.test(
  'nodes are listed newest first with parents before their inline children, counters the other way',
  async (t) => {
    const daemon = scriptedDaemon()
    await daemon.run('blockdev-add', file('f0'))
    await daemon.run('blockdev-add', { driver: 'raw', 'node-name': 'r0', file: 'f0' })
    await daemon.run('blockdev-add', { driver: 'raw', 'node-name': 'r1', file: file('f1') })
    const names = (list: readonly { 'node-name'?: string }[]) =>
      list.map((node) => node['node-name']).join(' ')
    t.equal(names(await daemon.run('query-named-block-nodes', {})), 'r1 f1 r0 f0')
    t.equal(names(await daemon.run('query-blockstats', { 'query-nodes': true })), 'f0 r0 f1 r1')
    t.same(await daemon.run('query-blockstats', {}), [])
  },
)

t.test('a node is deleted only when nobody needs it, with its inline children', async (t) => {
  const daemon = scriptedDaemon()
  await daemon.run('blockdev-add', file('f0'))
  await daemon.run('blockdev-add', { driver: 'raw', 'node-name': 'r0', file: 'f0' })
  await daemon.run('blockdev-add', { driver: 'raw', 'node-name': 'r1', file: file('f1') })
  const del = (name: string) => daemon.run('blockdev-del', { 'node-name': name })
  await t.rejects(del('f0'), { message: 'Block device f0 is in use' })
  await t.rejects(del('f1'), { message: 'Node f1 is not owned by the monitor' })
  await t.rejects(del('no'), { message: "Failed to find node with node-name='no'" })
  for (const name of ['r0', 'f0', 'r1']) await del(name)
  await turn()
  t.same(daemon.placement(), [])
  await daemon.run('blockdev-add', file('f1'))
})

t.test('of two concurrent adds of one name exactly one opens it', async (t) => {
  const daemon = scriptedDaemon()
  const results = await Promise.allSettled([
    daemon.run('blockdev-add', file('x', '/1')),
    daemon.run('blockdev-add', file('x', '/2')),
  ])
  t.same(results.map((result) => result.status).sort(), ['fulfilled', 'rejected'])
  t.same(daemon.placement(), ['x'])
})

t.test('a name is free again after a failed open', async (t) => {
  const daemon = scriptedDaemon()
  daemon.script = () => {
    throw new Error('Could not open')
  }
  await t.rejects(daemon.run('blockdev-add', file('x')), { message: 'Could not open' })
  daemon.script = () => {}
  await daemon.run('blockdev-add', file('x'))
  await turn()
  t.same(daemon.placement(), ['x'])
})

t.test('a stuck close of one node holds up no other node and no query', async (t) => {
  const daemon = scriptedDaemon()
  await daemon.run('blockdev-add', file('a'))
  await daemon.run('blockdev-add', file('b'))
  daemon.held = (_worker, name, args) => name === 'node-del' && (args as { node: string }).node === 'a'
  let closed = false
  const stuck = daemon.run('blockdev-del', { 'node-name': 'a' }).then(() => {
    closed = true
  })
  await daemon.run('blockdev-del', { 'node-name': 'b' })
  await t.rejects(daemon.run('blockdev-del', { 'node-name': 'a' }), {
    message: "Failed to find node with node-name='a'",
  })
  await t.rejects(daemon.run('blockdev-add', file('a')), { message: "Duplicate nodes with node-name='a'" })
  t.equal((await daemon.run('query-named-block-nodes', {})).length, 1)
  t.notOk(closed)
  daemon.workers[0]?.asked.at(-1)?.answer()
  await stuck
  t.same(await daemon.run('query-named-block-nodes', {}), [])
})

t.test('a node whose close failed without effect stays usable', async (t) => {
  const daemon = scriptedDaemon()
  await daemon.run('blockdev-add', file('a'))
  daemon.script = (_worker, name) => {
    if (name === 'node-del') throw new Error('Input/output error')
  }
  await t.rejects(daemon.run('blockdev-del', { 'node-name': 'a' }), { message: 'Input/output error' })
  daemon.script = () => {}
  await daemon.run('blockdev-del', { 'node-name': 'a' })
})

t.test('a lost worker takes its nodes and no others', async (t) => {
  const daemon = scriptedDaemon()
  await daemon.run('blockdev-add', file('a'))
  await daemon.run('blockdev-add', file('b'))
  daemon.workers[0]?.die(new Error('gone'))
  const nodes = await daemon.run('query-named-block-nodes', {})
  t.match(nodes, [{ 'node-name': 'b' }])
  await daemon.run('blockdev-add', file('a'))
})

t.test('resize is refused with the texts of the reference', async (t) => {
  const daemon = scriptedDaemon()
  await daemon.run('blockdev-add', file('a'))
  const resize = (args: object) => daemon.run('block_resize', { size: 512, ...args })
  await resize({ 'node-name': 'a' })
  await resize({ device: 'a', 'node-name': 'a' })
  await t.rejects(resize({ 'node-name': 'a', size: -1 }), { message: "Parameter 'size' expects a >0 size" })
  await t.rejects(resize({ device: 'a' }), { message: "Cannot find device='a' nor node-name=''" })
  await t.rejects(resize({}), { message: "Cannot find device='' nor node-name=''" })
})

t.test('a resize as a job holds its node, and is refused for one that others use', async (t) => {
  const daemon = scriptedDaemon()
  for (const name of ['a', 'b']) await daemon.run('blockdev-add', file(name))
  await daemon.run('blockdev-add', { driver: 'raw', 'node-name': 'above', file: 'b' })
  const resize = (args: object) => daemon.run('x-resize', { 'job-id': 'j', node: 'a', size: 512, ...args })
  await t.rejects(resize({ node: 'no' }), { message: "Cannot find device='no' nor node-name='no'" })
  await t.rejects(resize({ size: -1 }), { message: "Parameter 'size' expects a >0 size" })
  await t.rejects(resize({ node: 'b' }), { message: "Node 'b' is in use" })
  await resize({ preallocation: 'falloc' })
  const spec = { kind: 'resize', node: 'a', size: 512, preallocation: 'falloc' }
  t.match(daemon.workers[0]?.asked.at(-1), { name: 'job-start', args: { spec } })
  await t.rejects(resize({ 'job-id': 'k' }), { message: "Node 'a' is in use" })
  await t.rejects(daemon.run('block_resize', { 'node-name': 'a', size: 512 }), {
    message: "Node 'a' is busy: block device is in use by block job: x-resize",
  })
  const busy = { message: "Node 'a' is busy: another command is changing it" }
  await t.rejects(daemon.run('blockdev-reopen', { options: [file('a')] as never }), busy)
  await t.rejects(daemon.run('blockdev-add', { driver: 'raw', 'node-name': 'over', file: 'a' }), busy)
})

t.test('reopen passes definitions on with every name filled in, and refuses other children', async (t) => {
  const daemon = scriptedDaemon()
  const raw = { driver: 'raw', 'node-name': 'r', file: 'f' } as const
  await daemon.run('blockdev-add', { ...raw, file: file('f') })
  const reopen = (...options: object[]) => daemon.run('blockdev-reopen', { options: options as never })
  await reopen()
  t.equal(daemon.workers[0]?.asked.length, 1)
  await reopen({ ...raw, 'read-only': true, file: { driver: 'file', filename: '/f' } })
  t.match(daemon.workers[0]?.asked.at(-1), {
    name: 'node-reopen',
    args: { specs: [{ 'node-name': 'r', 'read-only': true, file: { 'node-name': 'f' } }] },
  })
  for (const [options, message] of [
    [{ driver: 'raw', file: 'f' }, 'node-name not specified'],
    [{ ...raw, 'node-name': 'zz' }, "Failed to find node with node-name='zz'"],
    [{ ...raw, file: 'r' }, "Cannot change the option 'file'"],
  ] as const)
    await t.rejects(reopen(options), { message })
})

t.test(
  'throttle groups: limits checked and told before the node, in use while a node names them',
  async (t) => {
    const daemon = scriptedDaemon()
    const add = (more: object) => daemon.run('object-add', { 'qom-type': 'throttle-group', ...more } as never)
    await add({ id: 'tg0', limits: { 'bps-total': 100 } })
    await t.rejects(add({ id: '1x' }), { message: "Parameter 'id' expects an identifier" })
    await t.rejects(add({ id: 'tg0' }), {
      message: "attempt to add duplicate property 'tg0' to object (type 'container')",
    })
    await t.rejects(add({ id: 'x', limits: { 'bps-total': -1 } }), {
      message: 'bps/iops/max values must be within [0, 1000000000000000]',
    })
    await daemon.run('blockdev-add', {
      driver: 'throttle',
      'node-name': 't',
      'throttle-group': 'tg0',
      file: file('f'),
    })
    t.same(daemon.workers[0]?.names(), ['throttle-group-set', 'node-add'])
    await daemon.run('blockdev-add', {
      driver: 'throttle',
      'node-name': 'u',
      'throttle-group': 'tg0',
      file: file('g'),
    })
    t.same(daemon.placement(), ['f g t u'])
    await daemon.run('qom-set', { path: '/objects/tg0', property: 'limits', value: { 'iops-total': 7 } })
    t.match(daemon.workers[0]?.asked.at(-1)?.args, {
      id: 'tg0',
      limits: { bpsTotal: { rate: 100 }, iopsTotal: { rate: 7 } },
    })
    t.match(await daemon.run('qom-get', { path: '/objects/tg0', property: 'limits' }), { 'iops-total': 7 })
    await t.rejects(daemon.run('object-del', { id: 'tg0' }), {
      message: "object 'tg0' is in use, can not be deleted",
    })
    await daemon.run('blockdev-del', { 'node-name': 't' })
    await daemon.run('blockdev-del', { 'node-name': 'u' })
    await daemon.run('object-del', { id: 'tg0' })
    await t.rejects(daemon.run('object-del', { id: 'tg0' }), { message: "object 'tg0' not found" })
  },
)

t.test('a worker that ends while it is told of a throttle group fails nobody', async () => {
  const daemon = scriptedDaemon()
  await daemon.run('object-add', { 'qom-type': 'throttle-group', id: 'tg0' })
  const group = { driver: 'throttle', 'node-name': 't', 'throttle-group': 'tg0', file: file('f') } as const
  await daemon.run('blockdev-add', group)
  const [worker] = daemon.workers
  if (worker === undefined) throw new Error('no worker was started')
  worker.held = (name) => name === 'throttle-group-set'
  const told = daemon.run('qom-set', { path: '/objects/tg0', property: 'limits', value: { 'iops-total': 7 } })
  worker.die(new Error('ended'))
  await told
})
