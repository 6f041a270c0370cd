// SPDX-License-Identifier: Apache-2.0
// Starting backups and transactions: what is refused and that it changes nothing, and what is undone.

import t from 'tap'
import { type ScriptedDaemon, scriptedDaemon } from '../scripted-daemon.js'

const disk = (name: string) =>
  ({ driver: 'raw', 'node-name': name, file: { driver: 'file', filename: `/${name}` } }) as const
const backup = { 'job-id': 'j', device: 'src', target: 'dst', sync: 'full' } as const
const drive = { 'job-id': 'j', device: 'src', target: '/out', sync: 'full' } as const

async function withDisks(...names: string[]): Promise<ScriptedDaemon> {
  const daemon = scriptedDaemon()
  for (const name of names) await daemon.run('blockdev-add', disk(name))
  return daemon
}

const refused = [
  [{ device: 'zz' }, "Cannot find device='zz' nor node-name='zz'"],
  [{ sync: 'incremental' }, "must provide a valid bitmap name for 'incremental' sync mode"],
  [{ sync: 'bitmap' }, "must provide a valid bitmap name for 'bitmap' sync mode"],
  [
    { sync: 'incremental', bitmap: 'b', 'bitmap-mode': 'never' },
    "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'",
  ],
  [{ bitmap: 'b' }, "Bitmap 'b' could not be found"],
  [{ 'bitmap-mode': 'always' }, 'Cannot specify bitmap sync mode without a bitmap'],
  [{ 'x-perf': { 'max-workers': 0 } }, 'max-workers must be between 1 and 2147483647'],
  [{ 'x-perf': { 'max-chunk': -1 } }, 'max-chunk must be zero (which means no limit) or positive'],
  [{ 'x-perf': { 'max-chunk': 4096 } }, 'Required max-chunk (4096) is less than backup cluster size (65536)'],
  [{ 'x-perf': { 'min-cluster-size': 3000 } }, 'min-cluster-size needs to be a power of 2'],
  [{ 'x-cbw-timeout': -1 }, "Parameter 'x-cbw-timeout' expects a non-negative value"],
  [{ speed: -1 }, "Parameter 'speed' expects a non-negative value"],
  [{ 'job-id': '1j' }, "Invalid job ID '1j'"],
  [{ 'filter-node-name': 'src' }, "Duplicate nodes with node-name='src'"],
] as const

const refusedNodes = [
  [{ target: 'zz' }, "Cannot find device='zz' nor node-name='zz'"],
  [{ target: 'src' }, 'Source and target cannot be the same'],
  [{ compress: true }, 'Compression is not supported for this drive dst'],
  [{ 'job-id': undefined }, "Invalid job ID ''"],
  [{ target: 'ro' }, 'Block node is read-only'],
] as const

t.test('what is refused says so in the words of the reference and changes nothing', async (t) => {
  const daemon = await withDisks('src', 'dst')
  await daemon.run('blockdev-add', { ...disk('ro'), 'read-only': true })
  const asked = () => daemon.workers.map((worker) => worker.asked.length)
  const before = asked()
  for (const [change, message] of [...refused, ...refusedNodes])
    await t.rejects(daemon.run('blockdev-backup', { ...backup, ...change } as never), { message })
  for (const [change, message] of refused)
    await t.rejects(daemon.run('drive-backup', { ...drive, ...change } as never), { message })
  t.same(asked(), before)
  t.same(daemon.seen, [])
})

t.test('nodes of a running backup are busy in the words of the reference', async (t) => {
  const daemon = await withDisks('src', 'dst', 'third')
  await daemon.run('blockdev-backup', backup)
  const busy = (name: string) => `Node '${name}' is busy: block device is in use by block job: backup`
  const again = (change: object) => daemon.run('blockdev-backup', { ...backup, 'job-id': 'k', ...change })
  await t.rejects(again({ target: 'third' }), { message: busy('src') })
  await t.rejects(again({ device: 'third' }), { message: busy('dst') })
  await t.rejects(daemon.run('blockdev-del', { 'node-name': 'src' }), { message: busy('src') })
})

t.test('a transaction claims nothing when a later action is refused', async (t) => {
  const daemon = await withDisks('src', 'dst')
  const first = { type: 'blockdev-backup', data: backup } as const
  const abort = { type: 'abort', data: {} } as const
  await t.rejects(daemon.run('transaction', { actions: [first, abort] }), {
    message: 'Transaction aborted using Abort action',
  })
  await t.rejects(daemon.run('transaction', { actions: [first, first] }), {
    message: "Node 'src' is busy: block device is in use by block job: backup",
  })
  await daemon.run('blockdev-backup', backup)
  t.same(daemon.seen, ['S:created', 'S:running'])
})

t.test('only backups are done together or not at all', async (t) => {
  const daemon = await withDisks('src')
  const add = { type: 'block-dirty-bitmap-add', data: { node: 'src', name: 'b' } } as const
  const properties = { 'completion-mode': 'grouped' } as const
  await t.rejects(daemon.run('transaction', { actions: [add], properties }), {
    message:
      "Action 'block-dirty-bitmap-add' does not support transaction property completion-mode = grouped",
  })
})
