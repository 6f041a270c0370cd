// SPDX-License-Identifier: Apache-2.0
// `blockferry resize`, with qemu-img as judge of what it leaves.

import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, statSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { installed } from '../../helpers/program.js'
import { run } from './run.js'

const MiB = 2 ** 20
const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'

function tool(program: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${stderr}`)
  return stdout
}

/** 4 MiB, written at both ends. */
function image(t: Test): string {
  const path = join(t.testdir({}), 'a.qcow2')
  tool('qemu-img', 'create', '-q', '-f', 'qcow2', path, '4M')
  tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 1 0 64k', '-c', 'write -P 2 3M 1M', path)
  return path
}

function sizeOf(path: string): number {
  return (JSON.parse(tool('qemu-img', 'info', '--output=json', path)) as { 'virtual-size': number })[
    'virtual-size'
  ]
}

const changes = [
  { args: ['8M'], size: 8 * MiB },
  { args: ['+1M'], size: 5 * MiB },
  { args: ['--shrink', '2M'], size: 2 * MiB },
  { args: ['--shrink', '-1M'], size: 3 * MiB },
  { args: ['-q', '4M'], size: 4 * MiB },
]

for (const { args, size } of changes)
  t.test(`resize ${args.join(' ')}`, { skip }, async (t) => {
    const path = image(t)
    const stdout = args.includes('-q') ? '' : 'Image resized.\n'
    t.same(await run(['resize', path, ...args]), { status: 0, stdout, stderr: '' })
    t.equal(sizeOf(path), size)
    tool('qemu-img', 'check', path)
    tool('qemu-io', '-r', '-c', 'read -P 1 0 64k', path)
    if (size > 4 * MiB) tool('qemu-io', '-r', '-c', 'read -P 2 3M 1M', '-c', 'read -P 0 4M 1M', path)
  })

const refusals = [
  {
    args: ['3M'],
    status: 1,
    text: /what lies beyond 3145728 bytes would be lost; --shrink does it all the same/,
  },
  { args: ['-1M'], status: 1, text: /would be lost/ },
  { args: ['--shrink', '-4M'], status: 1, text: /New image size must be positive/ },
  { args: ['--shrink', '0'], status: 1, text: /New image size must be positive/ },
  { args: ['+1000'], status: 1, text: /cannot resize '.*': The new size must be a multiple of 512/ },
  { args: ['--frob'], status: 2, text: /unknown option '--frob'/ },
  { args: ['8M', '--frob'], status: 2, text: /unknown option '--frob'/ },
  { args: ['8M', '9M'], status: 2, text: /expected an image and a size, found '9M' too/ },
  { args: ['8X'], status: 2, text: /expected a size such as 10G, \+1G or -512M, found '8X'/ },
  { args: ['100P'], status: 2, text: /expected a size below 8 PiB, found '100P'/ },
  { args: ['+8P'], status: 2, text: /expected a size below 8 PiB, found '\+8P'/ },
  { args: [`+${2 ** 53 - 512}`], status: 1, text: /New image size must be below 8 PiB/ },
  { args: ['-U', '8M'], status: 2, text: /not with -U/ },
]

for (const { args, status, text } of refusals)
  t.test(`refused, and nothing is changed: resize ${args.join(' ')}`, { skip }, async (t) => {
    const path = image(t)
    const before = readFileSync(path)
    const refused = await run(['resize', path, ...args])
    t.equal(refused.status, status)
    t.match(refused.stderr, text)
    t.ok(readFileSync(path).equals(before))
  })

t.test('a raw file', async (t) => {
  const path = join(t.testdir({ 'a.img': '' }), 'a.img')
  truncateSync(path, MiB)
  t.equal((await run(['resize', '-f', 'raw', path, '+512k'])).status, 0)
  t.equal(statSync(path).size, 1.5 * MiB)
})

t.test('an image that another program has is left as it is', { skip }, async (t) => {
  const path = image(t)
  const user = spawn('qemu-io', ['-f', 'qcow2', path], { stdio: ['pipe', 'pipe', 'inherit'] })
  const ended = once(user, 'exit')
  t.teardown(() => user.kill())
  user.stdin.write('read 0 64k\n')
  await once(user.stdout, 'data')
  const refused = await run(['resize', path, '8M'])
  t.equal(refused.status, 1)
  t.match(refused.stderr, /lock\. Is another process using the image/)
  user.stdin.end()
  await ended
  t.equal(sizeOf(path), 4 * MiB)
})
