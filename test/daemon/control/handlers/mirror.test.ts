// SPDX-License-Identifier: Apache-2.0
// Starting mirrors: what is refused and that it changes nothing, who moves where, what is undone, and the end of it all.

import t from 'tap'
import { type ScriptedDaemon, scriptedDaemon } from '../scripted-daemon.js'
import { progress, receipt } from '../scripted-worker.js'

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))
const disk = (name: string) =>
  ({ driver: 'raw', 'node-name': name, file: { driver: 'file', filename: `/${name}` } }) as const
const mirror = { 'job-id': 'j', device: 'src', target: 'dst', sync: 'full' } as const
const drive = { 'job-id': 'j', device: 'src', target: '/out', sync: 'full' } as const

async function withDisks(...names: string[]): Promise<ScriptedDaemon> {
  const daemon = scriptedDaemon()
  for (const name of names) await daemon.run('blockdev-add', disk(name))
  return daemon
}

function end(daemon: ScriptedDaemon, id: string): void {
  const outcome = { kind: 'cancelled' } as const
  for (const worker of daemon.workers)
    worker.say({ kind: 'job-ended', id, progress: progress(1, 64), outcome, receipt })
}

const refused = [
  [{ granularity: 100 }, "Parameter 'granularity' expects a value in range [512B, 64MB]"],
  [{ granularity: 3000 }, "Parameter 'granularity' expects a power of 2"],
  [{ granularity: 134217728 }, "Parameter 'granularity' expects a value in range [512B, 64MB]"],
  [{ 'buf-size': -1 }, "Invalid parameter 'buf-size'"],
  [{ speed: -1 }, "Parameter 'speed' expects a non-negative value"],
  [{ 'job-id': '' }, "Invalid job ID ''"],
  [{ 'job-id': '1j' }, "Invalid job ID '1j'"],
  [{ 'job-id': 'j k' }, "Invalid job ID 'j k'"],
  [{ sync: 'incremental' }, "Sync mode 'incremental' not supported"],
  [{ sync: 'bitmap' }, "Sync mode 'bitmap' not supported"],
  [{ device: 'zz' }, "Cannot find device='zz' nor node-name='zz'"],
] as const

const refusedNodes = [
  [{ 'job-id': undefined }, "Invalid job ID ''"],
  [{ target: 'zz' }, "Cannot find device='zz' nor node-name='zz'"],
  [{ target: 'src' }, "Can't mirror node into itself"],
  [{ replaces: 'zz' }, "Failed to find node with node-name='zz'"],
  [{ replaces: 'dst' }, /^Cannot replace 'dst' by a node mirrored from 'src', because/],
  [{ 'filter-node-name': 'src' }, "Duplicate nodes with node-name='src'"],
  [{ 'filter-node-name': '1' }, "Invalid node-name: '1'"],
  [{ target: 'ro' }, 'Block node is read-only'],
  [{ target: 'same' }, 'Failed to get shared "consistent read" lock'],
] as const

const refusedFiles = [
  [{ format: 'nosuch' }, "Unknown file format 'nosuch'"],
  [{ format: 'nosuch', mode: 'existing' }, "Unknown driver 'nosuch'"],
  [{ 'node-name': '1x' }, "Invalid node-name: '1x'"],
  [{ 'node-name': 'src' }, "Duplicate nodes with node-name='src'"],
  [{ replaces: 'src' }, 'a node-name must be provided when replacing a named node of the graph'],
  [{ replaces: 'zz', 'node-name': 'new' }, "Failed to find node with node-name='zz'"],
] as const

t.test(
  'what is refused says so in the words of the reference, emits nothing and asks no worker',
  async (t) => {
    const daemon = await withDisks('src', 'dst')
    await daemon.run('blockdev-add', { ...disk('ro'), 'read-only': true })
    await daemon.run('blockdev-add', { ...disk('same'), file: { driver: 'file', filename: '/src' } })
    const asked = () => daemon.workers.map((worker) => worker.asked.length)
    const before = asked()
    for (const [change, message] of [...refused, ...refusedNodes])
      await t.rejects(daemon.run('blockdev-mirror', { ...mirror, ...change } as never), { message })
    for (const [change, message] of [...refused, ...refusedFiles])
      await t.rejects(daemon.run('drive-mirror', { ...drive, ...change } as never), { message })
    t.same(asked(), before)
    t.same(daemon.seen, [])
  },
)

t.test('a mirror brings the target into the worker of the source and shows its filter', async (t) => {
  const daemon = await withDisks('src', 'dst')
  await daemon.run('blockdev-mirror', { ...mirror, 'filter-node-name': 'top' })
  await turn()
  t.same(daemon.placement(), ['#block1 #block2 dst src'])
  t.same(daemon.workers[1]?.names(), ['node-add', 'node-del', 'rest', 'shutdown'])
  t.same(daemon.seen, ['S:created', 'S:running'])
  t.match(daemon.workers[0]?.asked.at(-1), {
    name: 'job-start',
    args: { spec: { filter: 'top', unmap: true } },
  })
})

t.test('nodes of a running mirror are busy in the words of the reference', async (t) => {
  const daemon = await withDisks('src', 'dst', 'third')
  await daemon.run('blockdev-mirror', { ...mirror, 'filter-node-name': 'top' })
  const busy = (name: string) => `Node '${name}' is busy: block device is in use by block job: mirror`
  const again = (change: object) => daemon.run('blockdev-mirror', { ...mirror, ...change })
  await t.rejects(again({}), { message: 'Need a root block node' })
  await t.rejects(again({ target: 'third' }), { message: 'Need a root block node' })
  await t.rejects(again({ device: 'dst', target: 'third' }), { message: 'Need a root block node' })
  await t.rejects(again({ device: 'third' }), { message: busy('dst') })
  await t.rejects(again({ device: 'third', target: '#block1' }), { message: busy('#block1') })
  const del = (name: string) => daemon.run('blockdev-del', { 'node-name': name })
  await t.rejects(del('src'), { message: busy('src') })
  await t.rejects(del('dst'), { message: 'Node dst is in use' })
  await t.rejects(del('top'), { message: 'Node top is in use' })
  for (const name of ['src', 'dst'])
    await t.rejects(daemon.run('block_resize', { 'node-name': name, size: 512 }), { message: busy(name) })
  end(daemon, 'j')
  await del('dst')
  await del('src')
})

t.test('a target that cannot be opened in the other worker stays where it was', async (t) => {
  const daemon = await withDisks('src', 'dst')
  const [first] = daemon.workers
  daemon.script = (worker, name) => {
    if (worker === first && name === 'node-add') throw new Error('Could not open')
  }
  await t.rejects(daemon.run('blockdev-mirror', mirror), { message: 'Could not open' })
  t.same(daemon.placement(), ['#block1 src', '#block2 dst'])
  daemon.script = () => {}
  await daemon.run('blockdev-mirror', mirror)
})

t.test('two graphs that are both busy in different workers are refused by name', async (t) => {
  const daemon = scriptedDaemon()
  for (const name of ['a', 'b']) {
    await daemon.run('blockdev-add', { driver: 'file', 'node-name': name, filename: `/${name}` })
    for (const up of ['1', '2'])
      await daemon.run('blockdev-add', { driver: 'raw', 'node-name': name + up, file: name })
    await daemon.run('blockdev-add', disk(`${name}t`))
    await daemon.run('blockdev-mirror', { ...mirror, 'job-id': name, device: `${name}1`, target: `${name}t` })
  }
  await t.rejects(daemon.run('blockdev-mirror', { ...mirror, device: 'a2', target: 'b2' }), {
    message: "Nodes 'a2' and 'b2' are both busy in different iothreads and cannot be joined",
  })
  t.equal((await daemon.run('query-jobs', {})).length, 2)
})

t.test('of two concurrent starts with one id, or on one target, exactly one runs', async (t) => {
  const daemon = await withDisks('a', 'b', 'c', 'd')
  const start = (id: string, device: string, target: string) =>
    daemon.run('blockdev-mirror', { ...mirror, 'job-id': id, device, target })
  const results = await Promise.allSettled([start('j', 'a', 'b'), start('j', 'c', 'd'), start('k', 'd', 'b')])
  t.same(
    results.map((result) => (result.status === 'rejected' ? String(result.reason.message) : 'started')),
    ['started', "Job ID 'j' already in use", "Node 'b' is busy: block device is in use by block job: mirror"],
  )
})

t.test('two mirrors on disks of one worker end up in two workers', async (t) => {
  const daemon = await withDisks('a', 'b', 'c')
  await daemon.run('blockdev-mirror', { ...mirror, device: 'a', target: 'b' })
  end(daemon, 'j')
  t.equal(daemon.placement().length, 2)
  await daemon.run('blockdev-mirror', { ...mirror, 'job-id': 'k', device: 'a', target: 'c' })
  await daemon.run('drive-mirror', { ...drive, device: 'b' })
  const home = (name: string) => daemon.placement().findIndex((nodes) => nodes.split(' ').includes(name))
  t.equal(home('a'), home('c'))
  t.not(home('a'), home('b'))
})

t.test(
  'a drive-mirror makes its file, opens it beside the source and names the job after the node',
  async (t) => {
    const daemon = await withDisks('src')
    await daemon.run('drive-mirror', { device: 'src', target: '/out', sync: 'full' })
    const [worker] = daemon.workers
    t.same(worker?.names(), ['node-add', 'target-create', 'node-add', 'job-start'])
    t.match(worker?.asked[1]?.args, { spec: { filename: '/out', size: 64 }, refuse: ['1:/src'] })
    t.match(worker?.asked[3]?.args, { id: 'src', spec: { ownsTarget: true, unmap: true } })
  },
)

t.test('a drive-mirror that is refused late closes its target and frees every name', async (t) => {
  const daemon = await withDisks('src')
  const run = () => daemon.run('drive-mirror', { ...drive, 'node-name': 'tgt' })
  for (const failing of ['target-create', 'node-add', 'job-start'] as const) {
    daemon.script = (_worker, name) => {
      if (name === failing) throw new Error(failing)
    }
    await t.rejects(run(), { message: failing })
    t.same(daemon.placement(), ['#block1 src'], failing)
  }
  t.same(daemon.seen, [])
  daemon.script = () => {}
  await run()
  t.same(daemon.seen, ['S:created', 'S:running'])
})

t.test('the target of a drive-mirror is gone from the directory when the worker closed it', async (t) => {
  const daemon = await withDisks('src')
  await daemon.run('drive-mirror', { ...drive, 'node-name': 'tgt' })
  const names = async () => (await daemon.run('query-named-block-nodes', {})).map((node) => node['node-name'])
  t.same(await names(), ['tgt', '#block3', 'src', '#block1'])
  daemon.workers[0]?.say({ kind: 'nodes', nodes: [], gone: ['tgt', '#block3'] })
  end(daemon, 'j')
  t.same(await names(), ['src', '#block1'])
  await daemon.run('drive-mirror', { ...drive, 'node-name': 'tgt' })
})

t.test('blockdev-create runs in a worker of its own, which ends with the job', async (t) => {
  const daemon = scriptedDaemon()
  const options = { driver: 'file', filename: '/new', size: 64 } as const
  await t.rejects(daemon.run('blockdev-create', { 'job-id': '5', options }), {
    message: "Invalid job ID '5'",
  })
  await t.rejects(daemon.run('blockdev-create', { 'job-id': 'c', options: { driver: 'raw' } }), {
    message: 'Driver does not support blockdev-create',
  })
  await daemon.run('blockdev-create', { 'job-id': 'c', options })
  t.equal(daemon.placement().length, 1)
  end(daemon, 'c')
  await turn()
  t.equal(daemon.placement().length, 0)
  t.same(daemon.seen, ['S:created', 'S:running', 'S:aborting', 'S:concluded'])
  await daemon.run('job-dismiss', { id: 'c' })
})

t.test('shutdown refuses new work, ends jobs with their events and then the workers', async (t) => {
  const daemon = await withDisks('src', 'dst', 'other')
  await daemon.run('blockdev-mirror', { ...mirror, 'auto-dismiss': false })
  daemon.script = (_worker, name) => {
    if (name === 'job-cancel') setImmediate(() => end(daemon, 'j'))
  }
  const down = daemon.shutdown(5000)
  await t.rejects(daemon.run('blockdev-add', disk('late')), { message: 'the daemon is shutting down' })
  await down
  t.same(daemon.seen, ['S:created', 'S:running', 'S:aborting', 'CANCELLED', 'S:concluded', 'S:null'])
  t.same(daemon.placement(), [])
})

t.test('shutdown ends by its deadline although a job is stuck, and tells its end', async (t) => {
  const daemon = await withDisks('src', 'dst')
  await daemon.run('blockdev-mirror', mirror)
  await daemon.shutdown(20)
  t.same(daemon.seen.slice(2), ['S:aborting', 'CANCELLED', 'S:concluded', 'S:null'])
  t.same(daemon.placement(), [])
})

t.test('nobody builds on a node while it moves to another worker', async (t) => {
  const daemon = await withDisks('src', 'dst')
  daemon.held = (_worker, name, args) => name === 'node-add' && JSON.stringify(args).includes('/dst')
  const started = daemon.run('blockdev-mirror', mirror)
  await turn()
  await t.rejects(daemon.run('blockdev-add', { driver: 'raw', 'node-name': 'above', file: 'dst' }), {
    message: "Node 'dst' is busy: another command is changing it",
  })
  daemon.held = () => false
  for (const { name, answer } of daemon.workers[0]?.asked ?? []) if (name === 'node-add') answer()
  await started
  t.same(daemon.placement().filter(Boolean), ['#block1 #block2 dst src'])
})

t.test('nobody builds on the filter or the own target of a job', async (t) => {
  const daemon = await withDisks('src', 'dst', 'other')
  await daemon.run('blockdev-mirror', { ...mirror, 'filter-node-name': 'top' })
  await daemon.run('drive-mirror', { ...drive, 'job-id': 'd', device: 'other', 'node-name': 'own' })
  for (const [file, job] of [
    ['top', 'j'],
    ['own', 'd'],
  ] as const)
    await t.rejects(daemon.run('blockdev-add', { driver: 'raw', 'node-name': 'above', file }), {
      message: `Node '${file}' is busy: it belongs to job '${job}'`,
    })
})
