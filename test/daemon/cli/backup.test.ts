// SPDX-License-Identifier: Apache-2.0
// `blockferry backup`: of images with a daemon of its own, and of a node that a running daemon has open.

import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { Daemon } from '../../helpers/daemon.js'
import { installed } from '../../helpers/program.js'
import { MiB, rawNode, Scratch } from '../../helpers/scratch.js'
import { run } from './run.js'

const skip = installed('qemu-img') ? false : 'no qemu-img'

function disk(scratch: Scratch): string {
  const path = scratch.file('disk')
  writeFileSync(path, Buffer.concat([randomBytes(MiB), Buffer.alloc(3 * MiB)]))
  return path
}

const compare = (one: string, other: string) =>
  execFileSync('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', one, other], { encoding: 'utf8' }).trim()

t.test('a file is backed up to a new file, and the command says what it did', async (t) => {
  using scratch = new Scratch()
  const [from, to] = [disk(scratch), scratch.file('out')]
  const { status, stdout, stderr } = await run(['backup', from, to, '--no-progress'])
  t.equal(stderr, '')
  t.equal(status, 0)
  t.match(
    stdout,
    /^backed up '.*disk' to '.*out': 1\.00 MiB copied, 0 B zeroed, 3\.00 MiB skipped in .*, flushed\n$/,
  )
  t.ok(readFileSync(from).equals(readFileSync(to)))
})

t.test('a compressed backup is the disk, and smaller', { skip }, async (t) => {
  using scratch = new Scratch()
  const [from, to] = [scratch.file('disk'), scratch.file('out')]
  writeFileSync(from, Buffer.alloc(4 * MiB, 'text that is compressed '))
  const { status, stderr } = await run(['backup', from, to, '-O', 'qcow2', '--compress', '--no-progress'])
  t.equal(stderr, '')
  t.equal(status, 0)
  t.equal(compare(from, to), 'Images are identical.')
  t.ok(readFileSync(to).length < MiB)
})

t.test('a node of a running daemon is backed up, and stays', { skip }, async (t) => {
  using scratch = new Scratch()
  await using daemon = await Daemon.start({ directory: scratch.path })
  const [from, to] = [disk(scratch), scratch.file('out')]
  await daemon.client.execute('blockdev-add', rawNode('d0', from))
  const args = ['backup', 'd0', to, '-O', 'qcow2', '--node', '--socket', daemon.socket, '--no-progress']
  const { status, stderr } = await run(args)
  t.equal(stderr, '')
  t.equal(status, 0)
  t.equal(compare(from, to), 'Images are identical.')
  const nodes = (await daemon.client.execute('query-named-block-nodes')) as { 'node-name': string }[]
  t.ok(nodes.some((node) => node['node-name'] === 'd0'))
})

const usage = [
  { args: ['--node'], text: '--node needs the --socket of the daemon that has the node' },
  { args: ['--sync', 'incremental'], text: '--sync incremental needs a --bitmap' },
  { args: ['--bitmap-mode', 'never'], text: '--bitmap-mode needs a --bitmap' },
  { args: ['--compress'], text: '--compress needs -O qcow2' },
]
for (const { args, text } of usage)
  t.test(`backup ${args.join(' ')} is a usage error`, async (t) => {
    const { status, stderr } = await run(['backup', 'a', 'b', ...args])
    t.equal(status, 2)
    t.match(stderr, text)
  })
