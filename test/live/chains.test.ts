// SPDX-License-Identifier: Apache-2.0
// Commits, streams and overlays of chains that images name themselves, while an NBD client uses the disk. What comes out must
// read as before, name the layers it should, and be clean, as qemu-img tells.

import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { GuestClient } from '../helpers/nbd/guest-client.js'
import { installed } from '../helpers/program.js'
import type { QmpClient } from '../helpers/qmp-client.js'
import { shortFolder } from '../helpers/short-folder.js'

const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'
const MiB = 2 ** 20

function qemu(program: string, ...args: string[]): string {
  return execFileSync(program, args, { encoding: 'utf8' })
}

interface Scene {
  readonly folder: string
  readonly client: QmpClient
  readonly daemon: Daemon
  path(name: string): string
  /** The same content as the chain had at first. */
  readonly before: string
}

/** base ← low ← high ← top, of which each holds a MiB of its own and one over the layer below. */
async function scene(t: Test, { base = 'qcow2', sizes = ['16M', '16M', '16M', '16M'] } = {}): Promise<Scene> {
  const folder = shortFolder(t)
  const path = (name: string) => join(folder, name)
  const names = ['base', 'low', 'high', 'top']
  for (const [index, name] of names.entries()) {
    const format = index === 0 ? base : 'qcow2'
    const below = index === 0 ? [] : ['-b', names[index - 1] ?? '', '-F', index === 1 ? base : 'qcow2']
    qemu('qemu-img', 'create', '-q', '-f', format, ...below, path(name), sizes[index] ?? '')
    const own = [`write -q -P ${index + 1} ${index}M 1M`, `write -q -P ${index + 1} ${index + 4}M 2M`]
    // A shorter layer hides it.
    if (name === 'base' && sizes[0] === '16M') own.push('write -q -P 7 9M 1M')
    qemu('qemu-io', '-f', format, ...own.flatMap((command) => ['-c', command]), path(name))
  }
  qemu('qemu-io', '-f', 'qcow2', '-c', 'write -q -z 5M 64k', path('low'))
  qemu('qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', path('top'), path('before'))
  const daemon = await Daemon.start({ directory: folder })
  t.teardown(() => daemon[Symbol.asyncDispose]())
  await daemon.client.execute('blockdev-add', {
    ...{ driver: 'qcow2', 'node-name': 'top', file: { driver: 'file', filename: path('top') } },
  })
  return { folder, path, daemon, client: daemon.client, before: path('before') }
}

async function exported(s: Scene): Promise<GuestClient> {
  const socket = join(s.folder, 'nbd')
  await s.client.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } })
  const more = { 'node-name': 'top', name: 'x', writable: true }
  await s.client.execute('block-export-add', { type: 'nbd', id: 'e', ...more })
  return GuestClient.connect(socket, 'x')
}

interface NodeInfo {
  readonly 'node-name': string
  readonly file: string
  readonly ro: boolean
  readonly drv: string
  readonly image: { readonly 'backing-filename'?: string; readonly 'backing-filename-format'?: string }
}

async function nodes(client: QmpClient): Promise<NodeInfo[]> {
  return (await client.execute('query-named-block-nodes', { flat: true })) as NodeInfo[]
}

async function images(client: QmpClient): Promise<string[]> {
  const all = (await nodes(client)).filter(({ drv }) => drv !== 'file' && drv !== 'mirror_top')
  return all.map(({ file }) => file.replace(/.*\//, '').replace(/[^a-z0-9.]/g, '')).sort()
}

async function over(t: Test, client: QmpClient, error?: string): Promise<void> {
  const { data } = await client.event('BLOCK_JOB_COMPLETED')
  t.equal(data.error, error)
  await client.event('JOB_STATUS_CHANGE', ({ status }) => status === 'null')
}

function info(path: string): { 'backing-filename'?: string; 'backing-filename-format'?: string } {
  return JSON.parse(qemu('qemu-img', 'info', '-U', '--output=json', path))
}

function same(t: Test, s: Scene, name: string, format = 'qcow2'): void {
  t.match(
    qemu('qemu-img', 'compare', '-f', 'raw', '-F', format, s.before, s.path(name)),
    /Images are identical/,
  )
  if (format === 'qcow2') t.match(qemu('qemu-img', 'check', s.path(name)), /^No errors were found/)
}

for (const base of ['qcow2', 'raw'])
  t.test(`inner images are committed into a ${base} base, and are gone`, { skip }, async (t) => {
    const s = await scene(t, { base })
    const guest = await exported(s)
    await s.client.execute('block-commit', { 'job-id': 'c', device: 'top', top: s.path('high') })
    await over(t, s.client)
    t.same(await images(s.client), ['base', 'top'])
    const all = await nodes(s.client)
    t.equal(all.find(({ file }) => file === s.path('base'))?.ro, true, 'the base is only read again')
    t.equal(all.find((node) => node['node-name'] === 'top')?.image['backing-filename'], s.path('base'))
    t.equal((await guest.read(2 * MiB, 1))[0], 3)
    guest.end()
    t.equal(await s.daemon.stop(), undefined)
    t.match(info(s.path('top')), { 'backing-filename': s.path('base'), 'backing-filename-format': base })
    same(t, s, 'top')
  })

t.test('a shorter layer between two longer ones shows zeroes, after a commit too', { skip }, async (t) => {
  const s = await scene(t, { sizes: ['16M', '8M', '12M', '16M'] })
  qemu('qemu-io', '-f', 'qcow2', '-U', '-r', '-c', 'read -q 0 1M', s.path('top'))
  await s.client.execute('block-commit', { 'job-id': 'c', device: 'top', top: s.path('low') })
  await over(t, s.client)
  t.equal(await s.daemon.stop(), undefined)
  same(t, s, 'top')
})

for (const sizes of [
  ['16M', '8M', '12M', '16M'],
  ['8M', '16M', '16M', '16M'],
])
  for (const base of [undefined, 'base'])
    t.test(`${sizes.join('←')} streamed down to ${base ?? 'nothing'}`, { skip }, async (t) => {
      const s = await scene(t, { sizes })
      const more = base === undefined ? {} : { base: s.path(base) }
      await s.client.execute('block-stream', { 'job-id': 's', device: 'top', ...more })
      await over(t, s.client)
      t.same(await images(s.client), base === undefined ? ['top'] : ['base', 'top'])
      t.equal(await s.daemon.stop(), undefined)
      t.equal(info(s.path('top'))['backing-filename'], base && s.path(base))
      same(t, s, 'top')
    })

const budgeted = [
  { command: 'block-commit', drv: 'commit_top', below: 'high', more: { top: 'high' } },
  { command: 'block-stream', drv: 'copy-on-read', below: 'top', more: {} },
]
for (const { command, drv, below, more } of budgeted)
  t.test(`${command} shares a budget, and has a filter node while it runs`, { skip }, async (t) => {
    const s = await scene(t)
    const guest = await exported(s)
    await s.client.execute('object-add', { 'qom-type': 'x-budget', id: 'wan', bandwidth: 1024 })
    const files = Object.fromEntries(Object.entries(more).map(([name, file]) => [name, s.path(file)]))
    const start = { 'job-id': 'j', device: 'top', 'x-budget': 'wan', 'filter-node-name': 'f', ...files }
    await t.rejects(s.client.execute(command, { ...start, 'x-budget': 'none' }), /none/)
    await t.rejects(s.client.execute(command, { ...start, 'filter-node-name': 'top' }), /Duplicate nodes/)
    t.same(await s.client.execute('query-jobs'), [])
    await s.client.execute(command, start)
    t.match(await s.client.execute('query-jobs'), [{ id: 'j', 'x-budget': 'wan', 'x-share': 1024 }])
    const filter = (await nodes(s.client)).find((node) => node['node-name'] === 'f')
    t.match(filter, { drv, file: s.path(below) })
    await guest.write(0, Buffer.alloc(4096, 9))
    t.equal((await guest.read(2 * MiB, 1))[0], 3)
    await guest.write(0, Buffer.alloc(4096, 1))
    await s.client.execute('qom-set', { path: '/objects/wan', property: 'bandwidth', value: 0 })
    await over(t, s.client)
    t.notOk((await nodes(s.client)).some((node) => node['node-name'] === 'f'))
    t.equal((await guest.read(0, 1))[0], 1)
    guest.end()
    t.equal(await s.daemon.stop(), undefined)
    same(t, s, 'top')
  })

t.test('a guest goes on with the base of an active commit, which stays', { skip }, async (t) => {
  const s = await scene(t, { sizes: ['8M', '16M', '16M', '16M'] })
  const guest = await exported(s)
  await s.client.execute('block-commit', { 'job-id': 'c', device: 'top' })
  await s.client.event('BLOCK_JOB_READY')
  await s.client.execute('job-complete', { id: 'c' })
  await over(t, s.client)
  const [served] = (await s.client.execute('query-block-exports')) as { 'node-name': string }[]
  await s.client.execute('blockdev-del', { 'node-name': 'top' })
  t.same(await images(s.client), ['base'])
  await guest.write(4 * MiB, Buffer.alloc(4096, 9))
  await guest.flush()
  t.equal((await guest.read(2 * MiB, 1))[0], 3)
  await guest.write(4 * MiB, Buffer.alloc(4096, 1))
  guest.end()
  await s.client.execute('block-export-del', { id: 'e', mode: 'hard' })
  await s.client.event('BLOCK_EXPORT_DELETED')
  await s.client.execute('blockdev-del', { 'node-name': served?.['node-name'] })
  t.same(await nodes(s.client), [])
  t.equal(await s.daemon.stop(), undefined)
  same(t, s, 'base')
})

t.test('a base that somebody else reads is not committed into', { skip }, async (t) => {
  const s = await scene(t)
  const other = { driver: 'qcow2', 'node-name': 'other', file: { driver: 'file', filename: s.path('low') } }
  await s.client.execute('blockdev-add', { ...other, 'read-only': true })
  await s.client.execute('nbd-server-start', { addr: { type: 'unix', data: { path: s.path('nbd') } } })
  await s.client.execute('block-export-add', { type: 'nbd', id: 'o', 'node-name': 'other' })
  for (const top of ['high', 'low'])
    await t.rejects(
      s.client.execute('block-commit', { 'job-id': 'c', device: 'top', top: s.path(top) }),
      /Failed to get/,
    )
  await t.rejects(s.client.execute('block-commit', { 'job-id': 'c', device: 'top' }), /Failed to get/)
  t.ok(
    (await nodes(s.client)).filter(({ file }) => file === s.path('base')).every(({ ro }) => ro),
    'it is only read still',
  )
  await s.client.execute('block-export-del', { id: 'o' })
  await s.client.execute('block-commit', { 'job-id': 'c', device: 'top', top: s.path('high') })
  await over(t, s.client)
})

t.test('an overlay that is made for a disk in use takes its writes', { skip }, async (t) => {
  const s = await scene(t)
  const guest = await exported(s)
  await s.client.execute('blockdev-snapshot-sync', {
    ...{ 'node-name': 'top', 'snapshot-file': s.path('new'), 'snapshot-node-name': 'new' },
  })
  await guest.write(0, Buffer.alloc(4096, 9))
  await guest.flush()
  t.match(info(s.path('new')), { 'backing-filename': s.path('top'), 'backing-filename-format': 'qcow2' })
  const [served] = (await s.client.execute('query-block-exports')) as { 'node-name': string }[]
  t.equal(served?.['node-name'], 'new')
  same(t, s, 'top')
  await t.rejects(s.client.execute('blockdev-del', { 'node-name': 'top' }), {
    message: "Node 'top' is busy: node is used as backing hd of 'new'",
  })
  await s.client.execute('block-commit', { 'job-id': 'c', device: 'new', 'base-node': 'top' })
  await s.client.event('BLOCK_JOB_READY')
  await s.client.execute('block-job-complete', { device: 'c' })
  await over(t, s.client)
  await s.client.execute('blockdev-del', { 'node-name': 'new' })
  t.equal((await guest.read(0, 1))[0], 9)
  await guest.write(0, Buffer.alloc(4096, 1))
  guest.end()
  t.equal(await s.daemon.stop(), undefined)
  same(t, s, 'top')
})

t.test('a layer that somebody else reads stays when a stream needs it no more', { skip }, async (t) => {
  const s = await scene(t)
  const low = (await nodes(s.client)).find(({ file }) => file === s.path('low'))?.['node-name']
  await s.client.execute('nbd-server-start', { addr: { type: 'unix', data: { path: s.path('nbd') } } })
  await s.client.execute('block-export-add', { type: 'nbd', id: 'l', 'node-name': low, name: 'l' })
  const reader = await GuestClient.connect(s.path('nbd'), 'l')
  await s.client.execute('block-stream', { 'job-id': 's', device: 'top' })
  await over(t, s.client)
  t.same(await images(s.client), ['base', 'low', 'top'])
  t.equal((await reader.read(0, 1))[0], 1)
  reader.end()
  await s.client.execute('block-export-del', { id: 'l', mode: 'hard' })
  await s.client.event('BLOCK_EXPORT_DELETED')
  await s.client.execute('blockdev-del', { 'node-name': low })
  t.same(await images(s.client), ['top'])
})

t.test('the name of a backing file is changed, and nothing else', { skip }, async (t) => {
  const s = await scene(t)
  const [low] = (await nodes(s.client)).filter(({ file }) => file === s.path('low'))
  const image = low?.['node-name']
  await s.client.execute('change-backing-file', {
    ...{ device: 'top', 'image-node-name': image, 'backing-file': './base' },
  })
  t.equal(await s.daemon.stop(), undefined)
  t.match(info(s.path('low')), { 'backing-filename': './base', 'backing-filename-format': 'qcow2' })
  same(t, s, 'top')
})

/** Opens the chain layer by layer, over storage that fails a write once. */
async function reopened(s: Scene, failing: string): Promise<void> {
  await s.client.execute('blockdev-del', { 'node-name': 'top' })
  const rules = [{ op: 'write', nth: 3, errno: 28 }]
  let backing: string | null = null
  for (const name of ['base', 'low', 'high', 'top']) {
    const stored = { driver: 'file', filename: s.path(name) }
    const file = name === failing ? { driver: 'x-inject', file: stored, rules } : stored
    await s.client.execute('blockdev-add', { driver: 'qcow2', 'node-name': name, file, backing })
    backing = name
  }
}

for (const { command, failing, named, more } of [
  {
    command: 'block-commit',
    failing: 'base',
    named: 'high',
    more: { 'top-node': 'low', 'base-node': 'base' },
  },
  { command: 'block-stream', failing: 'top', named: 'top', more: { 'base-node': 'base' } },
])
  for (const policy of ['report', 'stop', 'ignore'] as const)
    t.test(`${command} over storage that fails once, on-error=${policy}`, { skip }, async (t) => {
      const s = await scene(t)
      await reopened(s, failing)
      const before = info(s.path(named))['backing-filename']
      await s.client.execute(command, { 'job-id': 'c', device: 'top', ...more, 'on-error': policy })
      const { data } = await s.client.event('BLOCK_JOB_ERROR')
      t.match(data, { operation: 'write', action: policy })
      if (policy === 'stop') {
        await s.client.event('JOB_STATUS_CHANGE', ({ status }) => status === 'paused')
        await s.client.execute('job-resume', { id: 'c' })
      }
      await over(t, s.client, policy === 'report' ? 'No space left on device' : undefined)
      t.equal(await s.daemon.stop(), undefined)
      t.equal(info(s.path(named))['backing-filename'], policy === 'report' ? before : s.path('base'))
      same(t, s, 'top')
    })
