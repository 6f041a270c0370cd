// SPDX-License-Identifier: Apache-2.0
// A daemon behind --socket that runs in another folder than the command: relative names are the user's.

import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import t from 'tap'
import { socketPlace } from '../../../daemon/cli/storage.js'
import { Daemon } from '../../helpers/daemon.js'
import { installed } from '../../helpers/program.js'
import { Scratch } from '../../helpers/scratch.js'
import { run } from './run.js'

const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'

/** A daemon, and the folder in which commands for it run. */
async function started() {
  const scratch = new Scratch()
  const daemon = await Daemon.start({ directory: scratch.path })
  const cwd = scratch.path
  return {
    scratch,
    command: (...args: string[]) => run([...args, '--socket', daemon.socket], { cwd }),
    tool: (program: string, ...args: string[]) => {
      const { status, stdout, stderr } = spawnSync(program, args, { cwd, encoding: 'utf8' })
      if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${stderr}`)
      return stdout
    },
    async [Symbol.asyncDispose]() {
      await daemon[Symbol.asyncDispose]()
      scratch[Symbol.dispose]()
    },
  }
}

t.test('images and their backing files', { skip }, async (t) => {
  await using place = await started()
  const { scratch, command, tool } = place
  tool('qemu-img', 'create', '-q', '-f', 'qcow2', 'base', '4M')
  tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 1 0 64k', 'base')
  for (const [backing, recorded] of [
    ['base', 'base'],
    ['file:base', `file:${scratch.file('base')}`],
    [`file:${scratch.file('base')}`, `file:${scratch.file('base')}`],
  ] as const) {
    const named = (name: string) =>
      (JSON.parse(tool('qemu-img', 'info', '--output=json', name)) as { 'backing-filename': string })[
        'backing-filename'
      ]
    const made = await command('create', '-q', '-f', 'qcow2', '-b', backing, '-F', 'qcow2', 'made')
    t.same(made, { status: 0, stdout: '', stderr: '' })
    t.equal(named('made'), recorded)
    t.match(await command('info', '--backing-chain', 'file:made'), { status: 0, stdout: /^image: .*base$/m })
    const words = ['-O', 'qcow2', '-B', backing, '-F', 'qcow2']
    t.match(await command('convert', '-q', ...words, 'file:base', 'file:copy'), { status: 0, stderr: '' })
    t.equal(named('copy'), recorded)
    t.match(await command('compare', 'base', 'copy'), { status: 0, stderr: '' })
  }
})

t.test('the name of a socket stays short enough for the kernel', async (t) => {
  t.equal(socketPlace('s'), resolve('s'))
  const long = 's'.repeat(107)
  t.equal(socketPlace(long), long)
  t.equal(socketPlace('\0s'), '\0s', 'no path')
})

t.test('sockets of NBD servers', { skip }, async (t) => {
  await using place = await started()
  const { scratch, command } = place
  writeFileSync(scratch.file('disk'), Buffer.alloc(1 << 20, 5))
  const exported = { type: 'nbd', id: 'e', 'node-name': 'disk', name: '' }
  const file = { driver: 'file', 'node-name': 'disk', filename: scratch.file('disk'), 'read-only': true }
  const server = { addr: { type: 'unix', data: { path: scratch.file('nbd') } } }
  for (const [name, args] of [
    ['blockdev-add', file],
    ['nbd-server-start', server],
    ['block-export-add', exported],
  ] as const)
    t.match(await command('qmp', name, JSON.stringify(args)), { status: 0 })
  const options = { driver: 'nbd', server: { type: 'unix', path: 'nbd' } }
  for (const name of ['nbd+unix:///?socket=nbd', 'nbd:unix:nbd', `json:${JSON.stringify(options)}`])
    t.match(await command('info', name), { status: 0, stdout: /virtual size: 1 MiB/, stderr: '' }, name)
})
