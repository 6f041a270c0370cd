// SPDX-License-Identifier: Apache-2.0
// A real guest whose disk is an export: a Linux kernel in QEMU writes, reads back and compares while its disk is mirrored and
// its export moves to the copy. The guest must see no error, and the copy must hold what the guest flushed last.

import { closeSync, openSync, readSync } from 'node:fs'
import t from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { guestKernel, initialFileSystem } from '../helpers/linux-guest.js'
import { Guest } from '../helpers/migration/guest.js'
import { qemuSystem } from '../helpers/migration/qemu-system.js'
import { empty, MiB, rawNode, Scratch } from '../helpers/scratch.js'

t.setTimeout(240_000)

const SIZE = 64 * MiB
const BLOCK = 4096
const BOOT_MS = 120_000

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

for (const mode of ['background', 'write-blocking'] as const)
  t.test(`a guest writes while its disk moves (${mode})`, { skip }, async (t) => {
    if (typeof kernel === 'string' || system === undefined) throw new Error('skipped')
    using scratch = new Scratch()
    const file = (name: string) => scratch.file(name)
    empty(file('old'), SIZE)
    empty(file('new'), SIZE)
    await using daemon = await Daemon.start({ directory: scratch.path })
    const { client } = daemon
    const socket = file('nbd')
    await client.execute('blockdev-add', rawNode('old', file('old'), true))
    await client.execute('blockdev-add', rawNode('new', file('new'), true))
    await client.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } })
    const export_ = { type: 'nbd', id: 'e', 'node-name': 'old', name: 'disk', writable: true }
    await client.execute('block-export-add', export_)
    const disk = `driver=nbd,node-name=disk,server.type=unix,server.path=${socket},export=disk,cache.direct=on`
    await using guest = await Guest.start({
      qemu: system,
      folder: scratch.path,
      name: 'guest',
      machine: 'q35',
      memory: '256M',
      kernel: kernel.kernel,
      append: 'console=ttyS0 quiet panic=-1 random.trust_cpu=on',
      args: [
        ...['-initrd', initialFileSystem(scratch.path, kernel), '-no-reboot', '-blockdev', disk],
        ...['-device', 'virtio-blk-pci,drive=disk,werror=report,rerror=report'],
      ],
    })
    await guest.says(/^ROUND 3\r?\n/m, BOOT_MS)

    const job = { 'job-id': 'move', device: 'old', target: 'new', sync: 'full', 'auto-dismiss': false }
    await client.execute('blockdev-mirror', { ...job, 'copy-mode': mode })
    await client.event('BLOCK_JOB_READY', () => true, 60_000)
    await client.execute('job-complete', { id: 'move' })
    await client.status('move', 'concluded', 60_000)
    t.match(await client.execute('query-jobs'), [{ id: 'move', error: undefined }])
    t.match(await client.execute('query-block-exports'), [{ id: 'e', 'node-name': 'new' }])
    await client.execute('job-dismiss', { id: 'move' })
    await client.execute('blockdev-del', { 'node-name': 'old' })

    // It goes on for a while on the copy.
    const before = Number(/ROUND (\d+)\r?\n(?!.*ROUND)/s.exec(guest.serial())?.[1] ?? 0)
    await guest.says(new RegExp(`^ROUND ${before + 3}\\r?\\n`, 'm'))
    await guest.press('q\n')
    const [, rounds, errors, stall, hash] = await guest.says(
      /^DONE rounds=(\d+) errors=(\d+) stall_ms=(\d+) hash=([0-9a-f]+)\r?\n/m,
    )
    t.comment(`${rounds} rounds, longest wait of the guest ${stall} ms`)
    t.equal(errors, '0', 'the guest saw no error')
    t.equal(hashOf(file('new')), hash, 'the copy holds what was flushed last')
  })
