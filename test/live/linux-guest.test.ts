// SPDX-License-Identifier: Apache-2.0
// A real guest whose disk is an export: a Linux kernel in QEMU writes, reads back and compares while its disk is mirrored and
// its export moves to the copy, is backed up, and gets an overlay that is merged back. The guest must see no error, copies
// must hold what the guest flushed last, and a backup what was there when it began.

import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { closeSync, openSync, readFileSync, readSync } from 'node:fs'
import t, { type Test } from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { type GuestProgram, guestKernel, initialFileSystem } from '../helpers/linux-guest.js'
import { Guest } from '../helpers/migration/guest.js'
import { qemuSystem } from '../helpers/migration/qemu-system.js'
import { installed } from '../helpers/program.js'
import { empty, MiB, rawNode, Scratch } from '../helpers/scratch.js'

t.setTimeout(240_000)

const SIZE = 64 * MiB
const BLOCK = 4096
const BOOT_MS = 120_000
const WRITER_DONE = /^DONE rounds=(\d+) errors=(\d+) stall_ms=(\d+) hash=([0-9a-f]+)\r?\n/m

const system = [qemuSystem('7.2'), qemuSystem('10')].find(({ absent }) => absent === false)
const kernel = guestKernel()
const skip = typeof kernel === 'string' ? kernel : system === undefined ? 'no QEMU' : false

/** The hash of what the guest says it wrote, from what a file holds; or which block is damaged. */
function hashOf(path: string): string {
  const fd = openSync(path, 'r')
  const block = Buffer.alloc(BLOCK)
  let hash = 14695981039346656037n
  try {
    for (let at = 0; at < SIZE / BLOCK; at++) {
      readSync(fd, block, 0, BLOCK, at * BLOCK)
      const [index, generation] = [block.readBigUInt64LE(0), block.readBigUInt64LE(8)]
      if (index !== BigInt(generation === 0n ? 0 : at)) return `block ${at} says it is ${index}`
      for (let word = 16; word < BLOCK; word += 16)
        if (block.compare(block, 0, 16, word, word + 16) !== 0) return `block ${at} is torn`
      hash = BigInt.asUintN(64, (hash ^ generation) * 1099511628211n)
    }
  } finally {
    closeSync(fd)
  }
  return hash.toString(16).padStart(16, '0')
}

interface Scene {
  readonly daemon: Daemon
  readonly guest: Guest
  readonly file: (name: string) => string
}

/** With a guest that has begun to write to node `old`, which is exported as `e`. */
async function booted(program: GuestProgram, work: (scene: Scene) => Promise<void>): Promise<void> {
  if (typeof kernel === 'string' || system === undefined) throw new Error('skipped')
  using scratch = new Scratch()
  const file = (name: string) => scratch.file(name)
  empty(file('old'), SIZE)
  await using daemon = await Daemon.start({ directory: scratch.path })
  const { client } = daemon
  const socket = file('nbd')
  await client.execute('blockdev-add', rawNode('old', file('old'), true))
  await client.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } })
  const export_ = { type: 'nbd', id: 'e', 'node-name': 'old', name: 'disk', writable: true }
  await client.execute('block-export-add', export_)
  const disk = `driver=nbd,node-name=disk,server.type=unix,server.path=${socket},export=disk,cache.direct=on`
  await using guest = await Guest.start({
    qemu: system,
    folder: scratch.path,
    name: 'guest',
    machine: 'q35',
    memory: program === 'verifier' ? '768M' : '256M',
    kernel: kernel.kernel,
    append: 'console=ttyS0 quiet panic=-1 random.trust_cpu=on',
    args: [
      ...['-initrd', initialFileSystem(scratch.path, kernel, program), '-no-reboot', '-blockdev', disk],
      ...['-device', 'virtio-blk-pci,drive=disk,werror=report,rerror=report'],
    ],
  })
  await guest.says(/^ROUND 1\r?\n/m, BOOT_MS)
  await work({ daemon, guest, file })
}

/** Waits for rounds that begin from now on. */
async function more(guest: Guest, rounds: number): Promise<void> {
  const before = Number(/ROUND (\d+)\r?\n(?!.*ROUND)/s.exec(guest.serial())?.[1] ?? 0)
  await guest.says(new RegExp(`^ROUND ${before + 1 + rounds}\\r?\\n`, 'm'))
}

function digestOf(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex')
}

/** Waits for the end of a job, which is to be a good one. */
async function over({ client }: Daemon, t: Test, id: string): Promise<void> {
  await client.status(id, 'concluded', 60_000)
  const jobs = (await client.execute('query-jobs')) as { id: string; error?: string }[]
  t.equal(jobs.find((job) => job.id === id)?.error, undefined, `${id} went well`)
  await client.execute('job-dismiss', { id })
}

/** Mirrors `old` to `new` in the way given, and moves the export there. */
async function move({ daemon, file }: Scene, t: Test, mode: 'background' | 'write-blocking'): Promise<void> {
  const { client } = daemon
  empty(file('new'), SIZE)
  await client.execute('blockdev-add', rawNode('new', file('new'), true))
  const job = { 'job-id': 'move', device: 'old', target: 'new', sync: 'full', 'auto-dismiss': false }
  await client.execute('blockdev-mirror', { ...job, 'copy-mode': mode })
  await client.event('BLOCK_JOB_READY', () => true, 60_000)
  await client.execute('job-complete', { id: 'move' })
  await over(daemon, t, 'move')
  t.match(await client.execute('query-block-exports'), [{ id: 'e', 'node-name': 'new' }])
  await client.execute('blockdev-del', { 'node-name': 'old' })
}

/** Copies `new` as it is at one moment, at which the guest stands still, while the guest goes on. */
async function backUp({ daemon, guest, file }: Scene, t: Test): Promise<void> {
  const { client } = daemon
  empty(file('backup'), SIZE)
  await client.execute('blockdev-add', rawNode('backup', file('backup'), true))
  await guest.stop()
  const then = digestOf(file('new'))
  const job = { 'job-id': 'backup', device: 'new', target: 'backup', sync: 'full', 'auto-dismiss': false }
  await client.execute('blockdev-backup', { ...job, speed: MiB })
  await client.execute('job-pause', { id: 'backup' })
  await guest.cont()
  await more(guest, 1)
  await client.execute('job-resume', { id: 'backup' })
  await client.execute('block-job-set-speed', { device: 'backup', speed: 0 })
  await over(daemon, t, 'backup')
  await client.execute('blockdev-del', { 'node-name': 'backup' })
  t.equal(digestOf(file('backup')), then, 'the backup is the disk as it was at that moment')
  t.not(digestOf(file('new')), then, 'and the guest went on')
}

/** Lets the guest write into an overlay for a while, and merges that into `new`. */
async function commit({ daemon, guest, file }: Scene, t: Test): Promise<void> {
  const { client } = daemon
  const below = ['-b', file('new'), '-F', 'raw']
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...below, file('overlay'), String(SIZE)])
  const over_ = { driver: 'qcow2', 'node-name': 'overlay', backing: null }
  await client.execute('blockdev-add', { ...over_, file: { driver: 'file', filename: file('overlay') } })
  await client.execute('blockdev-snapshot', { node: 'new', overlay: 'overlay' })
  t.match(await client.execute('query-block-exports'), [{ id: 'e', 'node-name': 'overlay' }])
  await more(guest, 2)
  await client.execute('block-commit', { 'job-id': 'commit', device: 'overlay', 'auto-dismiss': false })
  await client.event('BLOCK_JOB_READY', ({ device }) => device === 'commit', 60_000)
  await more(guest, 1)
  await client.execute('job-complete', { id: 'commit' })
  await over(daemon, t, 'commit')
  t.match(await client.execute('query-block-exports'), [{ id: 'e', 'node-name': 'new' }])
  await client.execute('blockdev-del', { 'node-name': 'overlay' })
}

t.test('a guest writes while its disk moves in write-blocking mode', { skip }, async (t) => {
  await booted('writer', async (scene) => {
    const { guest, file } = scene
    await more(guest, 1)
    await move(scene, t, 'write-blocking')
    await more(guest, 2)
    await guest.press('q\n')
    const [, rounds, errors, stall, hash] = await guest.says(WRITER_DONE)
    t.comment(`${rounds} rounds, longest wait of the guest ${stall} ms`)
    t.equal(errors, '0', 'the guest saw no error')
    t.equal(hashOf(file('new')), hash, 'the copy holds what was flushed last')
  })
})

t.test(
  'a guest writes while its disk moves, is backed up, gets an overlay and loses it',
  { skip },
  async (t) => {
    await booted('writer', async (scene) => {
      const { guest, file } = scene
      await more(guest, 1)
      await move(scene, t, 'background')
      await backUp(scene, t)
      await commit(scene, t)
      await more(guest, 1)
      await guest.press('q\n')
      const [, rounds, errors, stall, hash] = await guest.says(WRITER_DONE)
      t.comment(`${rounds} rounds, longest wait of the guest ${stall} ms`)
      t.equal(errors, '0', 'the guest saw no error')
      t.equal(hashOf(file('new')), hash, 'the disk holds what was flushed last')
      t.match(hashOf(file('backup')), /^[0-9a-f]{16}$/, 'no block of the backup is torn')
    })
  },
)

const noFio = installed('fio') ? skip : 'no fio'
t.test("a guest's fio verifies what it writes through all that", { skip: noFio }, async (t) => {
  await booted('verifier', async (scene) => {
    const { guest } = scene
    await move(scene, t, 'background')
    await backUp(scene, t)
    await commit(scene, t)
    await guest.press('q\n')
    const [, rounds, errors] = await guest.says(/^DONE rounds=(\d+) errors=(\d+)\r?\n/m, 120_000)
    t.equal(errors, '0', `fio verified ${rounds} runs`)
    if (errors !== '0') t.comment(guest.serial())
  })
})
