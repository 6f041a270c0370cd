// SPDX-License-Identifier: Apache-2.0
// Mirrors of images with layers below them, for every way to name what is copied and where to. What comes out must read
// equal to the source, name the layers it should, and be clean, as qemu-img tells.
//
//   MiB     0    1    2    3    4    5    6    7    8 … 16
//   base    aaaa aaaa aaaa 0000                aaaa           0: a zero cluster, everything else never written
//   top          bbbb 0000      bbbb                bbbb

import { execFileSync, spawnSync } from 'node:child_process'
import { statSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { installed } from '../helpers/program.js'
import { shortFolder } from '../helpers/short-folder.js'

const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'
const MiB = 2 ** 20

function qemu(program: string, ...args: string[]): string {
  return execFileSync(program, args, { encoding: 'utf8' })
}

function write(path: string, ...commands: string[]): void {
  qemu('qemu-io', '-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), path)
}

/** An overlay and its base in a folder of their own. */
function chain(t: Test, version = '1.1'): { folder: string; top: string; base: string } {
  const folder = shortFolder(t)
  const [top, base] = [join(folder, 'top.qcow2'), join(folder, 'base.qcow2')]
  const create = ['create', '-q', '-f', 'qcow2', '-o', `compat=${version}`]
  qemu('qemu-img', ...create, base, '16M')
  write(base, 'write -P 10 0 3M', 'write -z 3M 1M', 'write -P 10 7M 1M')
  qemu('qemu-img', ...create, '-b', 'base.qcow2', '-F', 'qcow2', top)
  write(top, 'write -P 11 1M 1M', 'write -z 2M 1M', 'write -P 11 4M 1M', 'write -P 11 8M 1M')
  return { folder, top, base }
}

interface Info {
  readonly 'backing-filename'?: string
  readonly 'full-backing-filename'?: string
}

function info(path: string): Info {
  return JSON.parse(qemu('qemu-img', 'info', '--output=json', path)) as Info
}

async function mirrored(
  t: Test,
  folder: string,
  top: string,
  command: string,
  args: object,
  nodes: object[] = [],
) {
  const daemon = await Daemon.start({ directory: folder })
  t.teardown(() => daemon[Symbol.asyncDispose]())
  const { client } = daemon
  const add = (node: object) => client.execute('blockdev-add', node)
  await add({ driver: 'qcow2', 'node-name': 'src', file: { driver: 'file', filename: top } })
  for (const node of nodes) await add(node)
  await client.execute(command, { 'job-id': 'j', device: 'src', 'x-auto-complete': true, ...args })
  const { data } = await client.event('BLOCK_JOB_COMPLETED')
  t.equal(data.error, undefined)
  t.equal(await daemon.stop(), undefined, 'the daemon ends well')
  return data
}

function same(t: Test, top: string, target: string, format = 'qcow2'): void {
  const compare = spawnSync('qemu-img', ['compare', '-f', 'qcow2', '-F', format, top, target], {
    encoding: 'utf8',
  })
  t.equal(compare.stdout, 'Images are identical.\n')
  if (format === 'qcow2') t.match(qemu('qemu-img', 'check', target), /^No errors were found/)
}

// Version 2 has no zero clusters: those of the base, which has nothing below, are not stored.
for (const { version, stored } of [
  { version: '1.1', stored: 7 },
  { version: '0.10', stored: 6 },
]) {
  t.test(`sync full makes one layer of a chain of version ${version}`, { skip }, async (t) => {
    const { folder, top } = chain(t, version)
    const target = join(folder, 'new.qcow2')
    const data = await mirrored(t, folder, top, 'drive-mirror', { target, sync: 'full', format: 'qcow2' })
    same(t, top, target)
    t.equal(info(target)['backing-filename'], undefined)
    t.equal(data.len, stored * MiB, 'what was never written is no work')
  })

  t.test(
    `sync top copies the uppermost layer of version ${version} alone, its zeroes too`,
    { skip },
    async (t) => {
      const { folder, top, base } = chain(t, version)
      const target = join(folder, 'new.qcow2')
      const data = await mirrored(t, folder, top, 'drive-mirror', { target, sync: 'top', format: 'qcow2' })
      same(t, top, target)
      t.equal(info(target)['full-backing-filename'], base)
      t.equal(data.len, 4 * MiB)
      t.ok(statSync(target).size < 5 * MiB, 'nothing of the layers below')
    },
  )
}

t.test('sync full to a raw file fills it with the whole chain', { skip }, async (t) => {
  const { folder, top } = chain(t)
  const target = join(folder, 'new.raw')
  await mirrored(t, folder, top, 'drive-mirror', { target, sync: 'full', format: 'raw' })
  same(t, top, target, 'raw')
})

for (const sync of ['full', 'top']) {
  t.test(`sync ${sync} into an overlay that is there hides what shows through`, { skip }, async (t) => {
    const { folder, top } = chain(t)
    const target = join(folder, 'there.qcow2')
    qemu('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', target)
    await mirrored(t, folder, top, 'drive-mirror', { target, sync, format: 'qcow2', mode: 'existing' })
    same(t, top, target)
    t.equal(info(target)['backing-filename'], 'base.qcow2')
  })
}

t.test(
  'sync full into an image full of old data above another one leaves nothing of either',
  { skip },
  async (t) => {
    const { folder, top } = chain(t)
    const [other, target] = [join(folder, 'other.qcow2'), join(folder, 'there.qcow2')]
    qemu('qemu-img', 'create', '-q', '-f', 'qcow2', other, '16M')
    write(other, 'write -P 20 0 16M')
    qemu('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', 'other.qcow2', '-F', 'qcow2', target)
    write(target, 'write -P 21 5M 6M')
    await mirrored(t, folder, top, 'drive-mirror', {
      target,
      sync: 'full',
      format: 'qcow2',
      mode: 'existing',
    })
    same(t, top, target)
  },
)

t.test('a node above the same layers is a target', { skip }, async (t) => {
  const { folder, top } = chain(t)
  const target = join(folder, 'there.qcow2')
  qemu('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', target)
  const node = { driver: 'qcow2', 'node-name': 'dst', file: { driver: 'file', filename: target } }
  const data = await mirrored(t, folder, top, 'blockdev-mirror', { target: 'dst', sync: 'top' }, [node])
  same(t, top, target)
  t.equal(data.len, 4 * MiB)
})

for (const size of ['8M', '17M']) {
  t.test(`a node of ${size} is refused by the job, and not touched`, { skip }, async (t) => {
    const { folder, top } = chain(t)
    const target = join(folder, 'there.qcow2')
    qemu('qemu-img', 'create', '-q', '-f', 'qcow2', target, size)
    const daemon = await Daemon.start({ directory: folder })
    t.teardown(() => daemon[Symbol.asyncDispose]())
    for (const [name, filename] of Object.entries({ src: top, dst: target }))
      await daemon.client.execute('blockdev-add', {
        driver: 'qcow2',
        'node-name': name,
        file: { driver: 'file', filename },
      })
    await daemon.client.execute('blockdev-mirror', {
      'job-id': 'j',
      device: 'src',
      target: 'dst',
      sync: 'full',
    })
    const { data } = await daemon.client.event('BLOCK_JOB_COMPLETED')
    t.equal(data.error, 'Source and target image have different sizes')
    t.equal(await daemon.stop(), undefined)
    t.match(qemu('qemu-img', 'map', '--output=json', target), /"present": false/)
  })
}

t.test('an image of the layers below is no target', { skip }, async (t) => {
  const { folder, top, base } = chain(t)
  const daemon = await Daemon.start({ directory: folder })
  t.teardown(() => daemon[Symbol.asyncDispose]())
  await daemon.client.execute('blockdev-add', {
    driver: 'qcow2',
    'node-name': 'src',
    file: { driver: 'file', filename: top },
  })
  const args = { 'job-id': 'j', device: 'src', target: base, sync: 'top', format: 'qcow2' }
  await t.rejects(daemon.client.execute('drive-mirror', args), { message: /lock/ })
  await t.rejects(daemon.client.execute('drive-mirror', { ...args, mode: 'existing' }), {
    message: /lock|conflict/,
  })
  t.match(qemu('qemu-img', 'check', base), /^No errors were found/)
})
