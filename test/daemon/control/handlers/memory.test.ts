// SPDX-License-Identifier: Apache-2.0
// The jobs of VM memory over real workers: how they are started, slowed, looked at and refused.

import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import type { Arguments } from '../../../../protocol/schema/index.js'
import { unpack } from '../../../helpers/migration/fixtures.js'
import { shortFolder } from '../../../helpers/short-folder.js'
import { realDaemon } from '../real-daemon.js'

const NAME = 'q72-pc-i440fx-7.2-live.stream'

t.test('a slow save gets another speed while it runs', async (t) => {
  const { run, until } = realDaemon(t)
  const folder = shortFolder(t)
  const [path, target] = [join(folder, 'in.sock'), join(folder, 'out')]
  const save = { source: `unix:${path}`, target, format: 'stream', 'max-bandwidth': 4096 } as const
  await run('x-memory-save', { 'job-id': 's', ...save })
  connect(path).resume().end(unpack(NAME))
  while ((await run('query-migrate', { 'x-job-id': 's' })).status !== 'active')
    await new Promise((resolve) => setImmediate(resolve))
  t.match(await run('query-jobs', {}), [{ id: 's', type: 'x-memory-save', status: 'running' }])
  t.notOk(existsSync(target))
  await run('block-job-set-speed', { device: 's', speed: 0 })
  await until('s concluded')
  t.match(await run('query-migrate', { 'x-job-id': 's' }), { status: 'completed' })
  await run('job-dismiss', { id: 's' })
  t.ok(readFileSync(target).equals(unpack(NAME)))
  await t.rejects(run('query-migrate', { 'x-job-id': 's' }), { message: 'Job not found' })
})

t.test('what cannot be is refused by name and leaves nothing', async (t) => {
  const { run } = realDaemon(t)
  const folder = shortFolder(t, { 'vm.xml': '' })
  writeFileSync(join(folder, 'source'), unpack(NAME))
  const at = (name: string) => join(folder, name)
  const save = (args: Partial<Arguments<'x-memory-save'>>) =>
    run('x-memory-save', {
      ...{ 'job-id': 's', source: `unix:${at('s')}`, target: at('out'), format: 'mapped-ram', ...args },
    })
  for (const [args, message] of [
    [{ source: 'nosuch:x' }, 'unknown migration protocol: nosuch:x'],
    [{ source: 'exec:cat' }, "migration transport 'exec' is not supported"],
    [{ target: at('no/out') }, `Could not create '${at('no/out')}': No such file or directory`],
    [{ target: '/dev/fdset/7' }, 'Failed to find fdset /dev/fdset/7'],
    [{ target: undefined }, "Parameter 'target' is missing"],
    [{ format: 'libvirt-raw' }, /xml/],
    [{ channels: 0 }, /channels/],
    [{ 'job-id': '1x' }, "Invalid job ID '1x'"],
  ] as const)
    await t.rejects(save(args as never), { message }, `${message}`)
  await t.rejects(
    run('x-memory-restore', { 'job-id': 'r', source: at('vm.xml'), target: `unix:${at('s')}` }),
    { message: /vm\.xml/ },
  )
  t.same(readdirSync(folder).sort(), ['source', 'vm.xml'])
  t.same(await run('query-jobs', {}), [])
})
