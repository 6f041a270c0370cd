// SPDX-License-Identifier: Apache-2.0
// The command handlers over real workers and real files: what the scripted workers of the other tests stand for.

import { readFileSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { realDaemon } from '../real-daemon.js'

const SIZE = 3 * 2 ** 20 + 512

/** Data, then zeroes, then a little data in the last sector. */
function image(path: string, fill: number): string {
  const bytes = Buffer.alloc(SIZE)
  bytes.fill(fill, 0, 2 ** 20)
  bytes.fill(fill + 1, SIZE - 100)
  writeFileSync(path, bytes)
  return path
}

const disk = (name: string, filename: string) =>
  ({ driver: 'raw', 'node-name': name, file: { driver: 'file', filename } }) as const

t.test('a drive-mirror typed without a job id ends with an equal file', async (t) => {
  const { run, seen, until } = realDaemon(t)
  const source = image(`${t.testdir()}/src`, 5)
  const target = `${source}.mirror`
  await run('blockdev-add', disk('drive0', source))
  await run('drive-mirror', { device: 'drive0', target, sync: 'full', format: 'raw' })
  await until('drive0 BLOCK_JOB_READY')
  await run('block-job-complete', { device: 'drive0' })
  await until('drive0 null')
  t.equal(
    seen.map((line) => line.slice('drive0 '.length)).join(' '),
    'created running ready BLOCK_JOB_READY waiting pending BLOCK_JOB_COMPLETED concluded null',
  )
  t.ok(readFileSync(source).equals(readFileSync(target)))
  t.match(await run('query-named-block-nodes', {}), [{ 'node-name': 'drive0' }, { drv: 'file' }])
})

t.test(
  'mirrors between the same disks in both directions run one after the other, then no worker is left',
  async (t) => {
    const { run, until, alive } = realDaemon(t)
    const folder = t.testdir()
    await run('blockdev-add', disk('a', image(`${folder}/a`, 1)))
    await run('blockdev-add', disk('b', image(`${folder}/b`, 2)))
    const copy = async (id: string, device: string, target: string) => {
      await run('blockdev-mirror', { 'job-id': id, device, target, sync: 'full', 'x-auto-complete': true })
      await until(`${id} null`)
    }
    await copy('there', 'a', 'b')
    t.ok(readFileSync(`${folder}/a`).equals(readFileSync(`${folder}/b`)))
    await copy('back', 'b', 'a')
    await run('blockdev-del', { 'node-name': 'a' })
    await run('blockdev-del', { 'node-name': 'b' })
    while (alive.size > 0) await new Promise<void>((resolve) => setImmediate(resolve))
    t.same(await run('query-named-block-nodes', {}), [])
  },
)

t.test('a target on the file of the source is refused and the source keeps its contents', async (t) => {
  const { run } = realDaemon(t)
  const source = image(`${t.testdir()}/src`, 7)
  const before = readFileSync(source)
  await run('blockdev-add', disk('s', source))
  for (const mode of ['absolute-paths', 'existing'] as const)
    await t.rejects(run('drive-mirror', { device: 's', target: source, sync: 'full', mode }), {
      message: /lock/,
    })
  t.ok(before.equals(readFileSync(source)))
  await run('blockdev-del', { 'node-name': 's' })
})

t.test('shutdown cancels a slow job, tells its end, and leaves no worker', async (t) => {
  const { run, seen, alive, shutdown } = realDaemon(t)
  const folder = t.testdir()
  await run('blockdev-add', disk('a', image(`${folder}/a`, 1)))
  await run('blockdev-add', disk('b', image(`${folder}/b`, 2)))
  const slow = { speed: 65536, 'buf-size': 65536, 'auto-dismiss': false }
  await run('blockdev-mirror', { 'job-id': 'j', device: 'a', target: 'b', sync: 'full', ...slow })
  await shutdown(3000)
  t.same(seen.slice(2), ['j aborting', 'j BLOCK_JOB_CANCELLED', 'j concluded', 'j null'])
  t.equal(alive.size, 0)
})
