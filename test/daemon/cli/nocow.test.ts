// SPDX-License-Identifier: Apache-2.0
// `-o nocow=on`: files on Btrfs get the mark before they hold anything; elsewhere it changes nothing.

import { spawnSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { fileSystemAbsent, MountedImage } from '../../helpers/loop.js'
import { installed } from '../../helpers/program.js'
import { run } from './run.js'

const skip = fileSystemAbsent('btrfs') || (installed('lsattr') ? false : 'no lsattr')

/** Mounted as long as the result lives. */
function btrfs(t: Test): MountedImage {
  return MountedImage.make(t.testdir({}), 'btrfs', 256 * 2 ** 20)
}

function isMarked(file: string): boolean {
  const [flags = ''] = spawnSync('lsattr', [file], { encoding: 'utf8' }).stdout.split(' ')
  return flags.includes('C')
}

const made = [
  { name: 'raw', args: ['-f', 'raw', '-o', 'preallocation=full,nocow=on'] },
  { name: 'qcow2', args: ['-f', 'qcow2', '-o', 'nocow=on'] },
]
for (const { name, args } of made)
  for (const before of ['missing', 'full'])
    t.test(`create of a ${name} image in a file that is ${before}`, { skip }, async (t) => {
      using mounted = btrfs(t)
      const file = join(mounted.path, 'image')
      if (before === 'full') writeFileSync(file, 'x'.repeat(8192))
      const { status, stdout, stderr } = await run(['create', ...args, file, '1M'])
      t.same([status, stderr], [0, ''])
      t.match(stdout, /nocow=on/)
      t.ok(isMarked(file))
      t.equal((await run(['create', ...args.slice(0, 2), file, '1M'])).status, 0)
    })

t.test('a data file is marked too', { skip }, async (t) => {
  using mounted = btrfs(t)
  const folder = mounted.path
  const [file, data] = [join(folder, 'image'), join(folder, 'data')]
  const options = `nocow=on,data_file=${data}`
  t.equal((await run(['create', '-q', '-f', 'qcow2', '-o', options, file, '1M'])).status, 0)
  t.ok(isMarked(file))
  t.ok(isMarked(data))
})

t.test('convert makes such files', { skip }, async (t) => {
  using mounted = btrfs(t)
  const folder = mounted.path
  const source = join(folder, 'source')
  writeFileSync(source, 'x'.repeat(65536))
  for (const format of ['raw', 'qcow2']) {
    const target = join(folder, format)
    const args = ['convert', '-q', '-O', format, '-o', 'nocow=on', source, target]
    t.same(await run(args), { status: 0, stdout: '', stderr: '' })
    t.ok(isMarked(target))
    t.equal((await run(['compare', '-q', '-f', 'raw', '-F', format, source, target])).status, 0)
  }
  t.notOk(isMarked(source))
})

t.test('without it nothing is marked', { skip }, async (t) => {
  using mounted = btrfs(t)
  const file = join(mounted.path, 'image')
  t.equal((await run(['create', '-q', '-o', 'nocow=off', file, '1M'])).status, 0)
  t.notOk(isMarked(file))
})

t.test('a file system without it makes the image all the same', async (t) => {
  const file = join(t.testdir({}), 'image')
  for (const format of ['raw', 'qcow2']) {
    const args = ['create', '-q', '-f', format, '-o', 'nocow=on', file, '1M']
    t.same(await run(args), { status: 0, stdout: '', stderr: '' })
  }
})

t.test('what is no switch is refused, and nothing is made', async (t) => {
  const file = join(t.testdir({}), 'image')
  const { status, stderr } = await run(['create', '-o', 'nocow=maybe', file, '1M'])
  t.equal(status, 2)
  t.equal(stderr, "blockferry: 'nocow' expects 'on' or 'off', found 'maybe'\n")
  t.notOk(existsSync(file))
})
