// SPDX-License-Identifier: Apache-2.0
// Nodes on sets of descriptors, over real workers and files: opened by access mode, in use as long as the node is there,
// and independent of the set and of the file's name from then on.

import { spawnSync } from 'node:child_process'
import {
  closeSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { installed } from '../../../helpers/program.js'
import { pace } from '../../../helpers/waiting.js'
import { realDaemon } from '../real-daemon.js'

const SIZE = 2 ** 20
const noQemuImg = installed('qemu-img') ? false : 'no qemu-img'

function setUp(t: Test) {
  const folder = t.testdir()
  const daemon = realDaemon(t)
  return {
    ...daemon,
    path: (name: string) => join(folder, name),
    /** A file full of a letter. */
    make(name: string, letter = name[0] ?? '') {
      writeFileSync(join(folder, name), letter.repeat(SIZE))
    },
    /** Puts the file into a set, as a client would. */
    add: (set: number, name: string, flags: 'r' | 'r+' | 'a') =>
      daemon.descriptors.add(openSync(join(folder, name), flags), set, undefined),
    /** Sets as `number:descriptors`. */
    sets: async () =>
      (await daemon.run('query-fdsets', {})).map((set) => `${set['fdset-id']}:${set.fds.length}`).join(' '),
    /** Descriptors of the main thread on files of the test; closing gives no event. */
    async left(wanted = 0) {
      const count = () => readdirSync('/proc/self/fd').filter((fd) => pointsInto(fd, folder)).length
      for (let tries = 0; count() > wanted && tries < 500; tries++) await pace(10)
      return count()
    },
  }
}

function pointsInto(fd: string, folder: string): boolean {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`).startsWith(`${folder}/`)
  } catch {
    return false
  }
}

const file = (name: string, set: number, more: object = {}) =>
  ({ driver: 'file', 'node-name': name, filename: `/dev/fdset/${set}`, ...more }) as const

t.test('a set stays in use until the node is closed', async (t) => {
  const { run, make, add, sets, left } = setUp(t)
  make('disk')
  add(7, 'disk', 'r+')
  await run('blockdev-add', file('d', 7))
  t.match(await run('query-named-block-nodes', {}), [
    { file: '/dev/fdset/7', image: { filename: '/dev/fdset/7', 'virtual-size': SIZE }, ro: false },
  ])
  await run('remove-fd', { 'fdset-id': 7 })
  t.equal(await sets(), '7:0')
  await run('remove-fd', { 'fdset-id': 7 })
  await run('blockdev-del', { 'node-name': 'd' })
  t.equal(await sets(), '')
  t.equal(await left(), 0)
})

t.test('the access mode of the node decides which descriptor is used', async (t) => {
  const { run, make, add } = setUp(t)
  for (const name of ['read', 'both', 'only']) make(name)
  add(1, 'read', 'r')
  add(1, 'both', 'r+')
  add(2, 'only', 'r')
  add(3, 'only', 'a')
  await run('blockdev-add', file('reader', 1, { 'read-only': true }))
  await run('blockdev-add', file('writer', 1))
  await run('blockdev-add', {
    driver: 'raw',
    'node-name': 'above',
    'read-only': true,
    file: file('below', 1),
  })
  await run('blockdev-add', file('auto', 2, { 'auto-read-only': true }))
  const nodes = (await run('query-named-block-nodes', {})).map((node) => [node['node-name'], node.ro])
  t.same(Object.fromEntries(nodes), { reader: true, writer: false, below: true, above: true, auto: true })
  const mismatch = (flags: string) => ({
    message: `Failed to find file descriptor with matching flags=${flags}`,
  })
  await t.rejects(run('blockdev-add', file('x', 2)), mismatch('0x2'))
  await t.rejects(run('blockdev-add', file('x', 3)), mismatch('0x2'))
  await t.rejects(run('blockdev-add', file('x', 3, { 'read-only': true })), mismatch('0x0'))
})

t.test('sets that are not there are named, and nothing is left of the node', async (t) => {
  const { run, make, add, sets, path } = setUp(t)
  make('disk')
  add(1, 'disk', 'r+')
  const bad: readonly (readonly [string, string])[] = [
    ['/dev/fdset/99', 'Failed to find fdset /dev/fdset/99'],
    ['/dev/fdset/x', 'Could not parse fdset /dev/fdset/x'],
    ['/dev/fdset/', 'Could not parse fdset /dev/fdset/'],
    ['/dev/fdset/-1', 'Could not parse fdset /dev/fdset/-1'],
    ['/dev/fdset/9223372036854775808', 'Could not parse fdset /dev/fdset/9223372036854775808'],
  ]
  for (const [filename, message] of bad)
    await t.rejects(run('blockdev-add', { driver: 'file', 'node-name': 'n', filename }), { message })
  await t.rejects(
    run('blockdev-add', { driver: 'qcow2', 'node-name': 'q', file: file('f', 1), backing: file('b', 98) }),
    { message: 'Failed to find fdset /dev/fdset/98' },
  )
  await t.rejects(run('drive-mirror', { device: 'zz', target: '/dev/fdset/1', sync: 'full' }))
  await run('blockdev-add', { driver: 'file', 'node-name': 'f', filename: path('disk') })
  await t.rejects(run('drive-mirror', { device: 'f', target: '/dev/fdset/97', sync: 'full' }), {
    message: 'Failed to find fdset /dev/fdset/97',
  })
  t.equal((await run('query-named-block-nodes', {})).length, 1)
  await run('remove-fd', { 'fdset-id': 1 })
  t.equal(await sets(), '')
})

t.test('a disk goes on, and moves to another worker, when set, name and client are gone', async (t) => {
  const { run, make, add, until, path, left } = setUp(t)
  make('source')
  make('target')
  add(1, 'source', 'r')
  add(2, 'target', 'r+')
  await run('blockdev-add', { driver: 'raw', 'node-name': 's', 'read-only': true, file: file('sf', 1) })
  await run('blockdev-add', { driver: 'raw', 'node-name': 't', file: file('tf', 2) })
  for (const id of [1, 2]) await run('remove-fd', { 'fdset-id': id })
  const keep = openSync(path('target'), 'r')
  for (const name of ['source', 'target']) unlinkSync(path(name))
  await run('blockdev-mirror', {
    ...{ 'job-id': 'j', device: 's', target: 't', sync: 'full', 'x-auto-complete': true },
  })
  await until('j null')
  t.equal(readFileSync(keep, 'utf8'), 's'.repeat(SIZE))
  closeSync(keep)
  for (const name of ['s', 't']) await run('blockdev-del', { 'node-name': name })
  t.equal(await left(), 0)
})

t.test('reopening takes another descriptor of the set, also one that came later', async (t) => {
  const { run, make, add } = setUp(t)
  make('disk')
  add(1, 'disk', 'r+')
  await run('blockdev-add', file('d', 1))
  const reopen = (more: object) => run('blockdev-reopen', { options: [file('d', 1, more)] })
  await t.rejects(reopen({ 'read-only': true }), {
    message: 'Failed to find file descriptor with matching flags=0x0',
  })
  add(1, 'disk', 'r')
  await reopen({ 'read-only': true })
  t.match(await run('query-named-block-nodes', {}), [{ ro: true, file: '/dev/fdset/1' }])
  await run('remove-fd', { 'fdset-id': 1 })
  await reopen({})
  t.match(await run('query-named-block-nodes', {}), [{ ro: false }])
  await t.rejects(run('blockdev-reopen', { options: [file('d', 2)] }), {
    message: "Cannot change the option 'filename'",
  })
})

t.test('a file in a set is emptied and filled like one with a name', async (t) => {
  const { run, make, add, until, path, left } = setUp(t)
  make('source')
  for (const name of ['made', 'copy', 'there']) make(name, 'x')
  add(1, 'made', 'r+')
  add(2, 'copy', 'r+')
  add(3, 'there', 'r+')
  const options = { driver: 'file', filename: '/dev/fdset/1', size: 65536 } as const
  await run('blockdev-create', { 'job-id': 'c', options })
  await until('c concluded')
  await run('job-dismiss', { id: 'c' })
  t.ok(readFileSync(path('made')).equals(Buffer.alloc(65536)))
  await run('blockdev-add', { driver: 'file', 'node-name': 's', filename: path('source') })
  for (const [id, mode] of [[2, 'absolute-paths'] as const, [3, 'existing'] as const]) {
    const how = { sync: 'full', format: 'raw', mode, 'x-auto-complete': true } as const
    await run('drive-mirror', { 'job-id': `m${id}`, device: 's', target: `/dev/fdset/${id}`, ...how })
    await until(`m${id} null`)
  }
  t.equal(readFileSync(path('copy'), 'utf8'), 's'.repeat(SIZE))
  t.equal(readFileSync(path('there'), 'utf8'), 's'.repeat(SIZE))
  for (const id of [1, 2, 3]) await run('remove-fd', { 'fdset-id': id })
  t.equal(await left(), 0)
})

t.test('a set without a descriptor for a new file fails the job', async (t) => {
  const { run, make, add, until, path } = setUp(t)
  make('disk')
  add(1, 'disk', 'r')
  const options = { driver: 'file', filename: '/dev/fdset/1', size: 65536 } as const
  await run('blockdev-create', { 'job-id': 'c', options })
  await until('c concluded')
  t.match(await run('query-jobs', {}), [{ error: 'Failed to find file descriptor with matching flags=0x42' }])
  t.equal(readFileSync(path('disk'), 'utf8'), 'd'.repeat(SIZE))
})

t.test('an image in a set has layers, and names no sets itself', { skip: noQemuImg }, async (t) => {
  const { run, make, add, path, until } = setUp(t)
  const qemuImg = (...args: string[]) => t.equal(spawnSync('qemu-img', args, { stdio: 'ignore' }).status, 0)
  make('base')
  qemuImg('create', '-q', '-f', 'qcow2', '-b', path('base'), '-F', 'raw', path('top'))
  qemuImg('create', '-q', '-f', 'qcow2', '-u', '-b', '/dev/fdset/2', '-F', 'raw', path('sly'), '1M')
  add(1, 'top', 'r+')
  add(2, 'base', 'r+')
  add(2, 'base', 'r')
  add(3, 'sly', 'r+')
  await run('blockdev-add', { driver: 'qcow2', 'node-name': 'q', file: file('f', 1) })
  const top = (await run('query-named-block-nodes', {})).find((node) => node['node-name'] === 'q')
  t.match(top, { file: '/dev/fdset/1', backing_file: path('base') })
  await t.rejects(run('blockdev-add', { driver: 'qcow2', 'node-name': 'sly', file: file('sf', 3) }), {
    message: "Could not open backing file: Could not open '/dev/fdset/2': No such file or directory",
  })
  const how = { sync: 'full', format: 'qcow2', 'x-auto-complete': true } as const
  make('new', 'n')
  add(4, 'new', 'r+')
  await run('drive-mirror', { 'job-id': 'm', device: 'q', target: '/dev/fdset/4', ...how })
  await until('m null')
  qemuImg('compare', '-F', 'qcow2', '-f', 'raw', path('base'), path('new'))
  await run('blockdev-del', { 'node-name': 'q' })
})
