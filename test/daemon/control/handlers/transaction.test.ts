// SPDX-License-Identifier: Apache-2.0
// Transactions on the main thread: who comes in between while actions are prepared, and workers that do not answer. What workers
// do is tested in iothread/transactions.test.ts and with a daemon.

import t from 'tap'
import { CommandError } from '../../../../daemon/errors.js'
import { scriptedDaemon } from '../scripted-daemon.js'
import { progress, receipt } from '../scripted-worker.js'

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))
const file = (filename: string) => ({ driver: 'file', filename }) as const
const snapshot = (node: string, overlay: string) =>
  ({ type: 'blockdev-snapshot', data: { node, overlay } }) as const
const made = (node: string) =>
  ({
    type: 'blockdev-snapshot-sync',
    data: { 'node-name': node, 'snapshot-file': `/o${node}`, 'snapshot-node-name': `o${node}` },
  }) as const

/** Disks a, b and t, and an overlay for a. */
async function scene() {
  const daemon = scriptedDaemon()
  for (const name of ['a', 'b', 't'])
    await daemon.run('blockdev-add', { driver: 'raw', 'node-name': name, file: file(`/${name}`) })
  await daemon.run('blockdev-add', {
    driver: 'qcow2',
    'node-name': 'over',
    file: file('/over'),
    backing: null,
  })
  const asked = (name: string) =>
    daemon.workers.flatMap((worker) => worker.asked.filter((each) => each.name === name))
  const untilAsked = async (name: string) => {
    while (asked(name).length === 0) await turn()
    return asked(name)
  }
  const names = async () => (await daemon.run('query-named-block-nodes', {})).map((node) => node['node-name'])
  return { daemon, asked, untilAsked, names }
}

const newcomers = [
  { name: 'the node', ends: { device: 'a', target: 't' }, message: /^Node 'a' is busy/ },
  { name: 'the overlay', ends: { device: 't', target: 'over' }, message: 'The overlay is already in use' },
] as const
for (const { name, ends, message } of newcomers)
  t.test(`${name} of a snapshot that somebody comes to use while another action is prepared`, async (t) => {
    const { daemon, asked, untilAsked, names } = await scene()
    daemon.held = (_worker, name) => name === 'target-create'
    const running = daemon.run('transaction', { actions: [snapshot('a', 'over'), made('b')] })
    running.catch(() => undefined)
    const [making] = await untilAsked('target-create')
    await daemon.run('blockdev-mirror', { 'job-id': 'j', sync: 'full', ...ends })
    making?.answer()
    await t.rejects(running, { message })
    t.same(asked('transaction-quiesce'), [], 'no worker was asked to do anything')
    t.notOk((await names()).includes('ob'), 'what was made for it is closed')
    t.match(await daemon.run('query-jobs', {}), [{ id: 'j', status: 'running' }])
    for (const worker of daemon.workers)
      worker.say({
        ...({ kind: 'job-ended', id: 'j', progress: progress(1, 64), receipt } as const),
        outcome: { kind: 'cancelled' },
      })
    daemon.held = () => false
    await daemon.run('transaction', { actions: [snapshot('a', 'over'), made('b')] })
  })

t.test('an overlay that cannot be closed again does not keep the failure from being told', async (t) => {
  const { daemon, asked } = await scene()
  daemon.held = (_worker, name, args) => name === 'node-del' && (args as { node: string }).node === 'oa'
  daemon.script = (_worker, name) => {
    if (name === 'transaction-prepare') throw new CommandError('No space left on device')
  }
  await t.rejects(daemon.run('transaction', { actions: [made('a')] }), { message: 'No space left on device' })
  const [closing] = asked('node-del').slice(-1)
  t.match(closing?.args, { node: 'oa' })
  await t.rejects(daemon.run('blockdev-del', { 'node-name': 'oa' }), {
    message: "Failed to find node with node-name='oa'",
  })
  closing?.answer()
  await turn()
  daemon.script = () => {}
  await daemon.run('transaction', { actions: [made('a')] })
})
