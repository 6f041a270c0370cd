// SPDX-License-Identifier: Apache-2.0
// Bits of a bitmap that an NBD server tells in place of what is allocated (x-dirty-bitmap), beside QEMU's own client.

import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { run } from '../daemon/cli/run.js'
import { Daemon } from '../helpers/daemon.js'
import { installed } from '../helpers/program.js'
import { empty, MiB, rawNode } from '../helpers/scratch.js'
import { shortFolder } from '../helpers/short-folder.js'
import { pace } from '../helpers/waiting.js'

t.setTimeout(120_000)

const skip = ['qemu-nbd', 'qemu-img', 'qemu-io'].every((name) => installed(name)) ? false : 'no qemu-nbd'

/** An image of 8 MiB with a backing file and a bitmap, served with both contexts. */
async function served(t: Test, folder: string): Promise<string> {
  const [base, image] = [join(folder, 'base'), join(folder, 'image')]
  const quiet = { stdio: 'ignore' } as const
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', base, '8M'])
  execFileSync('qemu-io', ['-f', 'qcow2', '-c', 'write -P 5 4M 1M', base], quiet)
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', image])
  execFileSync('qemu-img', ['bitmap', '--add', '--enable', '-g', '64k', image, 'b0'])
  const writes = ['write -P 1 64k 128k', 'write -z 1M 64k', 'write -P 2 6M 1M', 'write -P 3 8388096 512']
  execFileSync('qemu-io', ['-f', 'qcow2', ...writes.flatMap((each) => ['-c', each]), image], quiet)
  const [socket, pid] = [join(folder, 's'), join(folder, 'pid')]
  const args = [
    '-r',
    '-t',
    '-k',
    socket,
    `--pid-file=${pid}`,
    '-f',
    'qcow2',
    '-x',
    'e',
    '-A',
    '-B',
    'b0',
    '-e',
    '8',
    image,
  ]
  const child = spawn('qemu-nbd', args, { stdio: 'ignore' })
  const orphaned = () => void child.kill('SIGKILL')
  process.once('exit', orphaned)
  t.teardown(async () => {
    process.removeListener('exit', orphaned)
    child.kill('SIGKILL')
    await once(child, 'exit')
  })
  while (!existsSync(pid) || readFileSync(pid, 'utf8') === '') await pace(5)
  return socket
}

t.test('what is dirty is mapped as QEMU maps it, and copied as ever', { skip }, async (t) => {
  const folder = shortFolder(t)
  const socket = await served(t, folder)
  const opts = (context: string) =>
    `driver=nbd,server.type=unix,server.path=${socket},export=e,x-dirty-bitmap=${context}`
  const bitmap = opts('qemu:dirty-bitmap:b0')
  const json = ['map', '--output=json', '--image-opts', bitmap]
  const theirs = spawnSync('qemu-img', json, { encoding: 'utf8' })
  const ours = await run(['map', '--json', '--image-opts', bitmap])
  t.match(ours, { status: 0, stderr: '' })
  // qemu-img 7.2 does not tell what is compressed.
  const extents = (JSON.parse(ours.stdout) as { compressed: boolean }[]).map(
    ({ compressed: _, ...rest }) => rest,
  )
  t.same(extents, JSON.parse(theirs.stdout))
  for (const context of ['qemu:dirty-bitmap:b0', 'base:allocation']) {
    const table = spawnSync('qemu-img', ['map', '--image-opts', opts(context)], { encoding: 'utf8' })
    t.equal((await run(['map', '--image-opts', opts(context)])).stdout, table.stdout, context)
  }
  const gone = await run(['map', '--image-opts', opts('qemu:dirty-bitmap:b1')])
  t.match(gone, { status: 1, stderr: /requested x-dirty-bitmap qemu:dirty-bitmap:b1 not found/ })

  empty(join(folder, 'copy'), 8 * MiB)
  const daemon = await Daemon.start({ directory: folder })
  t.teardown(() => daemon[Symbol.asyncDispose]())
  const { client } = daemon
  const server = { type: 'unix', path: socket }
  const net = { driver: 'nbd', 'node-name': 'net', server, export: 'e', 'read-only': true }
  await client.execute('blockdev-add', { ...net, 'x-dirty-bitmap': 'qemu:dirty-bitmap:b0' })
  await client.execute('blockdev-add', rawNode('copy', join(folder, 'copy')))
  for (const sync of ['full', 'top']) {
    const job = { 'job-id': sync, device: 'net', target: 'copy', sync, 'auto-dismiss': false }
    await client.execute('blockdev-mirror', { ...job, 'x-auto-complete': true })
    await client.status(sync, 'concluded')
    await client.execute('job-dismiss', { id: sync })
    const { stdout } = spawnSync(
      'qemu-img',
      ['compare', '-F', 'qcow2', '-f', 'raw', join(folder, 'copy'), join(folder, 'image'), '-U'],
      { encoding: 'utf8' },
    )
    t.match(stdout, /identical/, sync)
  }
})
