// SPDX-License-Identifier: Apache-2.0
// The migration commands over a real memory worker: what comes in by migrate-incoming goes where migrate says. What is refused
// at once stands in the recorded sessions 84 and 85.

import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { streamNamed, unpack } from '../../../helpers/migration/fixtures.js'
import { Replay } from '../../../helpers/migration/replay.js'
import { shortFolder } from '../../../helpers/short-folder.js'
import { realDaemon } from '../real-daemon.js'

const NAME = 'q10-pc-q35-10.0-live.stream'

/** A daemon whose events are told, and a stream in a file. `seen` has each status as 'undefined STATUS'. */
async function setUp(t: Test) {
  const daemon = realDaemon(t)
  const folder = shortFolder(t)
  const source = join(folder, 'source.stream')
  writeFileSync(source, unpack(NAME))
  await daemon.run('migrate-set-capabilities', { capabilities: [{ capability: 'events', state: true }] })
  const status = (name: string) => daemon.until(`undefined ${name}`)
  return { ...daemon, folder, source, status }
}

function statuses(seen: readonly string[]): string[] {
  return seen.filter((line) => !line.includes('MIGRATION_PASS')).map((line) => line.replace('undefined ', ''))
}

t.test('a stream in a file becomes a mapped-ram file', async (t) => {
  const { run, seen, status, folder, source } = await setUp(t)
  await run('migrate-incoming', { uri: `file:${source}` })
  t.match(await run('query-migrate', {}), { status: 'setup' })
  await run('migrate-set-capabilities', { capabilities: [{ capability: 'mapped-ram', state: true }] })
  await run('migrate-set-parameters', { 'direct-io': true })
  await run('migrate', { uri: `file:${folder}/out.mem,offset=4k` })
  await status('completed')
  t.same(statuses(seen), ['setup', 'setup', 'active', 'device', 'completed'])
  const info = await run('query-migrate', {})
  const total = streamNamed(NAME).blocks?.reduce((sum, { used_length }) => sum + used_length, 0)
  t.match(info, {
    status: 'completed',
    'total-time': Number,
    'setup-time': Number,
    downtime: Number,
    ram: { total, remaining: 0, normal: Number, duplicate: Number, mbps: Number, 'page-size': 4096 },
    'x-phases': {
      'pages-ms': Number,
      'tail-ms': Number,
      'flush-ms': Number,
      'longest-stall-ms': Number,
      'longest-iteration-ms': Number,
    },
  })
  t.equal(info.ram?.transferred, unpack(NAME).length)
  const iterations = info['x-phases']?.iterations.reduce((sum, { count }) => sum + count, 0) ?? 0
  t.ok(iterations >= 2, 'a live stream comes in parts')
  const written = new Replay(readFileSync(join(folder, 'out.mem')), 4096)
  t.same(
    written.blocks.map(({ name, memory }) => [name, memory.length]),
    streamNamed(NAME).blocks?.map(({ name, used_length }) => [name, used_length]),
  )
})

t.test('a QEMU that migrates waits until it is said where it goes', async (t) => {
  const { run, status, folder } = await setUp(t)
  const path = join(folder, 'in.sock')
  await run('migrate-incoming', { uri: `unix:${path}` })
  t.match(await run('query-migrate', {}), { status: 'setup' })
  const socket = connect(path)
  socket.resume().end(unpack(NAME))
  await run('migrate', { uri: `file:${folder}/out.stream` })
  await status('completed')
  t.ok(readFileSync(join(folder, 'out.stream')).equals(unpack(NAME)), 'byte for byte')
  t.notOk(existsSync(path), 'the socket is gone')
})

t.test('a target that is refused leaves the source for another', async (t) => {
  const { run, status, folder, source } = await setUp(t)
  await run('migrate-incoming', { uri: `file:${source}` })
  await t.rejects(run('migrate-incoming', { uri: `file:${source}` }), {
    message: 'The incoming migration has already been started',
  })
  const nowhere = `${folder}/no/dir/vm.mem`
  await t.rejects(run('migrate', { uri: `file:${nowhere}` }), {
    message: `Could not create '${nowhere}': No such file or directory`,
  })
  t.match(await run('query-migrate', {}), {
    status: 'failed',
    'error-desc': `Could not create '${nowhere}': No such file or directory`,
  })
  await run('migrate', { uri: `file:${folder}/out.stream` })
  await status('completed')
  t.ok(readFileSync(join(folder, 'out.stream')).equals(unpack(NAME)))
})

t.test('migrate_cancel leaves nothing behind, and another migration begins', async (t) => {
  const { run, seen, status, folder, source } = await setUp(t)
  await run('migrate_cancel', {})
  t.same(await run('query-migrate', {}), {}, 'there is nothing to cancel')
  await run('migrate-incoming', { uri: `file:${source}` })
  await run('migrate-set-parameters', { 'max-bandwidth': 4096 })
  await run('migrate', { uri: `file:${folder}/out.mem` })
  await status('active')
  await t.rejects(run('migrate', { uri: `file:${folder}/x` }), {
    message: "There's a migration process in progress",
  })
  const capabilities = [{ capability: 'xbzrle', state: true }] as const
  await t.rejects(run('migrate-set-capabilities', { capabilities }), {
    message: "There's a migration process in progress",
  })
  await run('migrate_cancel', {})
  await status('cancelled')
  t.same(await run('query-migrate', {}), { status: 'cancelled' })
  t.same(statuses(seen), ['setup', 'setup', 'active', 'cancelling', 'cancelled'])
  t.same(readdirSync(folder), ['source.stream'])
  await run('migrate-set-parameters', { 'max-bandwidth': 0 })
  await run('migrate-incoming', { uri: `file:${source}` })
  await run('migrate', { uri: `file:${folder}/out.stream` })
  await status('completed')
})

t.test('what comes while the source is being opened finds a state it can go on from', async (t) => {
  const { run, status, seen, folder, source } = await setUp(t)
  const opening = run('migrate-incoming', { uri: `file:${source}` })
  await t.rejects(run('migrate', { uri: `file:${folder}/out.stream` }), {
    message: 'There is nothing to migrate yet: its source is being opened',
  })
  await opening
  await run('migrate', { uri: `file:${folder}/out.stream` })
  await status('completed')
  seen.length = 0
  const other = run('migrate-incoming', { uri: `file:${source}` })
  other.catch(() => undefined)
  await run('migrate_cancel', {})
  await t.rejects(other)
  t.same(statuses(seen), ['setup', 'cancelling', 'cancelled'])
  await run('migrate-incoming', { uri: `file:${source}` })
  await run('migrate_cancel', {})
  t.match(await run('query-migrate', {}), { status: /cancelling|cancelled/ })
})

t.test('nothing is told without the capability events', async (t) => {
  const { run, seen, folder, source } = await setUp(t)
  await run('migrate-set-capabilities', { capabilities: [{ capability: 'events', state: false }] })
  await run('migrate-incoming', { uri: `file:${source}` })
  await run('migrate', { uri: `file:${folder}/out.stream` })
  while ((await run('query-migrate', {})).status !== 'completed')
    await new Promise((resolve) => setImmediate(resolve))
  t.same(seen, [])
})
