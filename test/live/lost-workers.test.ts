// SPDX-License-Identifier: Apache-2.0
// Workers that die or never come up: their own jobs end with the reason, other disks live on.

import { writeFileSync } from 'node:fs'
import t from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { blockferryd } from '../helpers/program.js'
import { difference, empty, fill, MiB, rawNode, Scratch } from '../helpers/scratch.js'

/** Runs in every thread of the daemon: a worker throws once a file with its name is there. */
const saboteur = `
import { existsSync } from 'node:fs'
import { isMainThread, workerData } from 'node:worker_threads'
const look = () => { if (existsSync(process.env.SABOTAGE + workerData.name)) throw new Error('sabotage') }
if (!isMainThread) setInterval(look, 5).unref()`

t.test('a bug in one worker ends its job with the reason, and no other', async (t) => {
  using scratch = new Scratch()
  writeFileSync(scratch.file('saboteur.mjs'), saboteur)
  const env = { SABOTAGE: scratch.file('kill-'), NODE_OPTIONS: `--import ${scratch.file('saboteur.mjs')}` }
  await using daemon = await Daemon.start({ directory: scratch.path, env })
  const { client } = daemon
  // The source's worker is the first of the two that a disk gets, and the job's.
  for (const name of ['a', 'b']) {
    fill(scratch.file(name), 4 * MiB)
    empty(scratch.file(`${name}t`), 4 * MiB)
    await client.execute('blockdev-add', rawNode(name, scratch.file(name)))
    await client.execute('blockdev-add', rawNode(`${name}t`, scratch.file(`${name}t`)))
    const args = { 'job-id': `j${name}`, device: name, target: `${name}t`, sync: 'full', speed: MiB }
    await client.execute('blockdev-mirror', args)
  }
  // The thread was made before there was a disk for it.
  writeFileSync(scratch.file('kill-spare0'), '')
  const { data } = await client.event('BLOCK_JOB_COMPLETED')
  t.match(data, { device: 'ja', error: "iothread 'disk0' ended: sabotage" })
  await client.status('ja', 'null')
  t.match(await client.execute('query-jobs'), [{ id: 'jb', status: 'running' }])
  await client.execute('block-job-set-speed', { device: 'jb', speed: 0 })
  await client.event('BLOCK_JOB_READY')
  await client.execute('job-complete', { id: 'jb' })
  await client.status('jb', 'null')
  t.equal(difference(scratch.file('b'), scratch.file('bt')), undefined)
  await client.execute('blockdev-add', rawNode('a', scratch.file('a')))
  t.equal(await daemon.stop(), undefined)
})

t.test('a daemon out of descriptors refuses a disk with the reason and keeps the others', async (t) => {
  using scratch = new Scratch()
  const limited = {
    name: 'blockferryd',
    command: (directory: string) =>
      // Without the test runner's loader, which tells of packages that are not there when a file cannot be opened.
      [
        'sh',
        '-c',
        'unset NODE_OPTIONS; ulimit -n 120; exec "$0" "$@"',
        ...blockferryd.command(directory),
      ] as const,
  }
  await using daemon = await Daemon.start({ directory: scratch.path, program: limited })
  empty(scratch.file('disk'), MiB)
  let refusal = ''
  let open = 0
  for (; refusal === '' && open < 60; open++)
    await daemon.client
      .execute('blockdev-add', rawNode(`d${open}`, scratch.file('disk')))
      .catch((error: Error) => {
        refusal = error.message
      })
  t.match(refusal, /EMFILE|ENFILE|descriptor|Too many open files/i)
  await daemon.client.execute('blockdev-del', { 'node-name': 'd0' })
  t.equal(((await daemon.client.execute('query-named-block-nodes')) as unknown[]).length, 2 * (open - 2))
  t.equal(await daemon.stop(), undefined)
})
