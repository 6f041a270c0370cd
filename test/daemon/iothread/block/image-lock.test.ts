// SPDX-License-Identifier: Apache-2.0
// Image locks against QEMU's own programs, in both directions, and against ourselves.
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import t, { type Test } from 'tap'
import type { Permissions } from '../../../../daemon/iothread/block/driver.js'
import { lockBytes } from '../../../../daemon/iothread/block/image-lock.js'
import { testGraph } from '../../../helpers/graph.js'

const MiB = 1 << 20
/** As a mirror uses its source and its target. */
const source: Permissions = {
  use: ['consistent read'],
  share: ['consistent read', 'write', 'write unchanged'],
}
const target: Permissions = { use: ['write'], share: ['write unchanged'] }

const missing = (tool: string) =>
  spawnSync(tool, ['--version']).status === 0 ? false : `${tool} is not installed`

function image(t: Test): string {
  const file = path.join(t.testdir({}), 'a.img')
  writeFileSync(file, Buffer.alloc(MiB, 1))
  return file
}

/** Locked bytes of the file, all holders together, ascending. */
function locked(file: string): number[] {
  const inode = String(statSync(file).ino)
  const bytes = new Set<number>()
  for (const line of readFileSync('/proc/locks', 'utf8').split('\n')) {
    const [, , , , , id, first, last] = line.split(/\s+/)
    if (id?.split(':')[2] !== inode) continue
    for (let byte = Number(first); byte <= Number(last); byte++) bytes.add(byte)
  }
  return [...bytes].sort((a, b) => a - b)
}

function qemuIo(file: string, ...options: string[]): string {
  const { stdout, stderr } = spawnSync('qemu-io', ['-f', 'raw', ...options, file], { encoding: 'utf8' })
  return stdout + stderr
}

t.test('bytes of permissions', async (t) => {
  t.same([...lockBytes(source)], [100, 203])
  t.same([...lockBytes(target)], [200, 101, 201, 203])
  t.same([...lockBytes(undefined)], [])
})

t.test('only a claimed node holds locks, through raw down to its file', async (t) => {
  const g = testGraph(t)
  const filename = image(t)
  const node = await g.add({
    driver: 'raw',
    'node-name': 'r',
    file: { driver: 'file', 'node-name': 'f', filename },
  })
  t.same(locked(filename), [])
  const one = await g.graph.claim('a job', node, source)
  const two = await g.graph.claim('another', node, source)
  t.same(locked(filename), [100, 203])
  await one.release()
  t.same(locked(filename), [100, 203])
  await two.release()
  t.same(locked(filename), [])
})

t.test('two nodes of one process refuse each other the file, and the loser holds nothing', async (t) => {
  const g = testGraph(t)
  const filename = image(t)
  const a = await g.add({ driver: 'file', 'node-name': 'a', filename })
  const b = await g.add({ driver: 'file', 'node-name': 'b', filename })
  const claim = await g.graph.claim('a job', a, target)
  await t.rejects(g.graph.claim('another', b, target), { message: 'Failed to get "write" lock' })
  await t.rejects(g.graph.claim('another', b, source), { message: 'Failed to get "consistent read" lock' })
  await claim.release()
  t.same(locked(filename), [])
  const reader = await g.graph.claim('another', b, source)
  await t.rejects(g.graph.claim('a job', a, target), {
    message: 'Failed to get shared "consistent read" lock',
  })
  await reader.release()
})

t.test('locking=off takes no locks, force-share asks for none of others', async (t) => {
  const g = testGraph(t)
  const filename = image(t)
  const writer = await g.add({ driver: 'file', 'node-name': 'w', filename })
  await g.graph.claim('a job', writer, { use: ['write'], share: source.share })
  const off = await g.add({ driver: 'file', 'node-name': 'off', filename, locking: 'off' })
  await g.graph.claim('another', off, target)
  const shared = await g.add({
    driver: 'file',
    'node-name': 'fs',
    filename,
    'read-only': true,
    'force-share': true,
  })
  await g.graph.claim('a reader', shared, { use: ['consistent read'], share: [] })
  t.same(locked(filename), [100, 101, 203])
})

t.test(
  'qemu-io is kept off a mirror target, and may write to a mirror source',
  { skip: missing('qemu-io') },
  async (t) => {
    const g = testGraph(t)
    const filename = image(t)
    const node = await g.add({ driver: 'file', 'node-name': 'f', filename })
    const asTarget = await g.graph.claim('a job', node, target)
    t.match(qemuIo(filename, '-c', 'write 0 512'), /Failed to get "(consistent read|write)" lock/)
    t.match(qemuIo(filename, '-r', '-c', 'read 0 512'), /Failed to get "consistent read" lock/)
    await asTarget.release()
    const asSource = await g.graph.claim('a job', node, source)
    t.match(qemuIo(filename, '-c', 'write 0 512'), /wrote 512\/512/)
    t.match(
      spawnSync('qemu-img', ['resize', '-f', 'raw', filename, '2M'], { encoding: 'utf8' }).stderr,
      /Failed to get "resize" lock/,
    )
    await asSource.release()
    t.match(qemuIo(filename, '-c', 'write 0 512'), /wrote 512\/512/)
  },
)

async function failure(daemon: ChildProcess): Promise<never> {
  const [status] = await once(daemon, 'exit')
  throw new Error(`the storage daemon ended with status ${status}`)
}

/** A storage daemon that exports the file; ended with the test. Resolves when it holds the file. */
async function exporting(t: Test, filename: string, writable: 'on' | 'off'): Promise<ChildProcess> {
  // Socket names are short: not in the test's own folder.
  const folder = mkdtempSync(path.join(tmpdir(), 'locks-'))
  const socket = path.join(folder, 'nbd.sock')
  const daemon = spawn(
    'qemu-storage-daemon',
    [
      ['--blockdev', `file,node-name=f,filename=${filename}`],
      ['--nbd-server', `addr.type=unix,addr.path=${socket}`],
      ['--export', `nbd,id=e,node-name=f,writable=${writable}`],
      ['--chardev', 'stdio,id=c', '--monitor', 'chardev=c'],
    ].flat(),
    { stdio: ['pipe', 'pipe', 'inherit'] },
  )
  t.teardown(async () => {
    if (daemon.exitCode === null && daemon.kill()) await once(daemon, 'exit')
    rmSync(folder, { recursive: true })
  })
  // The greeting comes after the options of the command line took effect.
  await Promise.race([once(daemon.stdout, 'data'), failure(daemon)])
  return daemon
}

t.test(
  'a file exported for writing by a storage daemon is no mirror target',
  { skip: missing('qemu-storage-daemon') },
  async (t) => {
    const g = testGraph(t)
    const filename = image(t)
    await exporting(t, filename, 'on')
    const node = await g.add({ driver: 'file', 'node-name': 'f', filename })
    await t.rejects(g.graph.claim('a job', node, target), {
      message: 'Failed to get shared "consistent read" lock',
    })
    await t.rejects(g.graph.claim('a job', node, { use: ['resize'], share: source.share }), {
      message: 'Failed to get "resize" lock',
    })
    await (await g.graph.claim('a job', node, source)).release()
  },
)

t.test(
  'what a storage daemon only reads can be our source, not our target',
  { skip: missing('qemu-storage-daemon') },
  async (t) => {
    const g = testGraph(t)
    const filename = image(t)
    await exporting(t, filename, 'off')
    const node = await g.add({ driver: 'file', 'node-name': 'f', filename })
    await (await g.graph.claim('a job', node, source)).release()
    await t.rejects(g.graph.claim('a job', node, target), {
      message: 'Failed to get shared "consistent read" lock',
    })
  },
)

t.test('an image of ours stays intact for qemu-img', { skip: missing('qemu-img') }, async (t) => {
  const g = testGraph(t)
  const filename = image(t)
  const node = await g.add({ driver: 'file', 'node-name': 'f', filename })
  const claim = await g.graph.claim('a job', node, source)
  const info = JSON.parse(execFileSync('qemu-img', ['info', '--output=json', filename], { encoding: 'utf8' }))
  t.equal(info['virtual-size'], MiB)
  await claim.release()
})
