// SPDX-License-Identifier: Apache-2.0
// Nodes that nobody owns, such as the target of a completed drive-mirror: they go with their last use, whatever that was.

import t from 'tap'
import { type ScriptedDaemon, scriptedDaemon } from '../scripted-daemon.js'
import type { Asked } from '../scripted-worker.js'
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

async function names(daemon: ScriptedDaemon): Promise<unknown[]> {
  return (await daemon.run('query-named-block-nodes', {})).map((node) => node['node-name'])
}

/** Serves a node. */
async function serve(daemon: ScriptedDaemon, node: string): Promise<void> {
  const blockSizes = { minimum: 1, preferred: 4096, maximumPayload: 65536 }
  for (const { replies } of daemon.workers) replies.set('export-add', { blockSizes, contexts: [] })
  const addr = { type: 'inet', data: { host: '127.0.0.1', port: '0' } } as const
  await daemon.run('nbd-server-start', { addr })
  await daemon.run('block-export-add', { type: 'nbd', id: 'e', 'node-name': node })
}

t.test('a node that nobody owns goes with its last use', async (t) => {
  const daemon = await withDisks('src', 'dst')
  const [worker] = daemon.workers
  const jobs = [
    () => daemon.run('blockdev-mirror', { ...mirror, 'auto-dismiss': true }),
    () => daemon.run('x-check', { 'job-id': 'j', node: 'src' }),
  ]
  for (const start of jobs) {
    await start()
    worker?.say({ kind: 'graph', edges: [], kept: [], shared: ['src'], writable: [] })
    await turn()
    t.ok((await names(daemon)).includes('src'), 'a job uses it')
    end(daemon, 'j')
    await turn()
    t.notOk((await names(daemon)).includes('src'))
    await daemon.run('job-dismiss', { id: 'j' }).catch(() => undefined)
    await daemon.run('blockdev-add', disk('src'))
  }
})

t.test('who ends an export does not wait for a node of another disk that could not be closed', async (t) => {
  const daemon = await withDisks('src', 'other')
  await serve(daemon, 'other')
  daemon.script = (_worker, name) => {
    if (name === 'node-del') throw new Error('Input/output error')
  }
  daemon.workers[0]?.say({ kind: 'graph', edges: [], kept: [], shared: ['src'], writable: [] })
  await turn()
  daemon.script = () => {}
  daemon.held = (_worker, name, args) => name === 'node-del' && (args as { node: string }).node === 'src'
  await daemon.run('block-export-del', { id: 'e' })
  await daemon.run('nbd-server-stop', {})
  t.ok(daemon.seen.includes('BLOCK_EXPORT_DELETED'))
  for (const { asked } of daemon.workers)
    for (const { name, answer } of asked) if (name === 'node-del') answer()
  await daemon.shutdown(1000)
})

/** `src` is nobody's, and an export its only use; while a command for it is under way that ends. */
async function left(daemon: ScriptedDaemon, waits: Asked['name'], command: () => Promise<unknown>) {
  await serve(daemon, 'src')
  daemon.workers[0]?.say({ kind: 'graph', edges: [], kept: [], shared: ['src'], writable: [] })
  const asked = () => daemon.workers.flatMap((worker) => worker.asked)
  const before = new Set(asked())
  daemon.held = (_worker, name) => name === waits
  const running = command()
  running.catch(() => undefined)
  await turn()
  daemon.held = () => false
  await daemon.run('block-export-del', { id: 'e' })
  await turn()
  return { running, held: asked().find((each) => each.name === waits && !before.has(each)) }
}

const refused = [
  {
    what: 'a node above it',
    waits: 'node-add',
    run: (daemon: ScriptedDaemon) =>
      daemon.run('blockdev-add', { driver: 'raw', 'node-name': 'above', file: 'src' }),
  },
  {
    what: 'a drive-mirror',
    waits: 'target-create',
    run: (daemon: ScriptedDaemon) => daemon.run('drive-mirror', drive),
  },
  {
    what: 'a backup',
    waits: 'job-start',
    run: (daemon: ScriptedDaemon) => daemon.run('blockdev-backup', mirror),
  },
] as const
for (const { what, waits, run } of refused)
  t.test(`a node that nobody owns stays for ${what}, and goes when that is refused`, async (t) => {
    const daemon = await withDisks('src', 'dst')
    const { running, held } = await left(daemon, waits, () => run(daemon))
    t.ok((await names(daemon)).includes('src'))
    held?.refuse(new Error('No space left on device'))
    await t.rejects(running, { message: 'No space left on device' })
    await turn()
    t.notOk((await names(daemon)).includes('src'))
    await daemon.shutdown(1000)
  })

t.test('an overlay for a node that has gone meanwhile is refused, and nothing is left of it', async (t) => {
  const daemon = await withDisks('src')
  const snapshot = { 'node-name': 'src', 'snapshot-file': '/over', 'snapshot-node-name': 'over' }
  const { running, held } = await left(daemon, 'target-create', () =>
    daemon.run('blockdev-snapshot-sync', snapshot),
  )
  t.notOk((await names(daemon)).includes('src'), 'a snapshot that is being made is no use of it')
  held?.answer()
  await t.rejects(running, { message: "Node 'src' is busy: another command is changing it" })
  await turn()
  t.same(await names(daemon), [])
  await daemon.shutdown(1000)
})
