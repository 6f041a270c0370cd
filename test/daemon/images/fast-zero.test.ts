// SPDX-License-Identifier: Apache-2.0
// What zeroing leaves behind on real file systems and devices: a hole where the ticket is sparse, else storage that stays or
// becomes allocated, without data being written where the file system can do that.

import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { type FileSystem, fileSystemAbsent, MountedImage } from '../../helpers/loop.js'
import { installed } from '../../helpers/program.js'
import { empty, fill, MiB, Scratch } from '../../helpers/scratch.js'

const SIZE = 16 * MiB
/** Blocks of 512 bytes that a file system may need to keep track of a file. */
const SOME = 64

interface Case {
  readonly name: string
  readonly make: (path: string) => void
}

const cases: readonly Case[] = [
  { name: 'data', make: (path) => fill(path, SIZE) },
  { name: 'a hole', make: (path) => empty(path, SIZE) },
  { name: 'nothing yet', make: (path) => writeFileSync(path, '') },
]

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
const daemon = await ImagesDaemon.start(scratch)
t.teardown(() => daemon[Symbol.asyncDispose]())
let tickets = 0

/** Zeroes a range of a file, with a flush. */
async function zero(path: string, sparse: boolean, offset: number, size: number): Promise<number> {
  const id = `t${tickets++}`
  const facts = statSync(path)
  const most = facts.isFile() ? Math.max(facts.size, offset + size) : offset + size
  await daemon.ticket(id, '', most, { url: `file://${path}`, sparse })
  const body = JSON.stringify({ op: 'zero', offset, size, flush: true })
  const { status } = await daemon.images('PATCH', id, {}, body)
  await daemon.tickets('DELETE', id)
  return status
}

/** Whether all extents of a file are allocated and hold no data. */
function unwritten(path: string): boolean {
  spawnSync('sync', [path])
  const lines = spawnSync('filefrag', ['-v', path], { encoding: 'utf8' }).stdout.split('\n')
  const extents = lines.filter((line) => /^\s*\d+:/.test(line))
  return extents.length > 0 && extents.every((line) => line.includes('unwritten'))
}

function isZero(path: string, from: number, to: number): boolean {
  return readFileSync(path)
    .subarray(from, to)
    .every((byte) => byte === 0)
}

const kinds: readonly FileSystem[] = ['ext4', 'xfs', 'btrfs', 'tmpfs']
for (const kind of kinds) {
  const skip = fileSystemAbsent(kind)
  t.test(`zeroing on ${kind}`, { skip }, async (t) => {
    using mounted = MountedImage.make(scratch.path, kind, 512 * MiB)
    for (const { name, make } of cases) {
      const file = join(mounted.path, 'sparse')
      make(file)
      t.equal(await zero(file, true, 0, SIZE), 200)
      t.equal(statSync(file).size, SIZE)
      t.ok(isZero(file, 0, SIZE), `${name} reads as zeroes`)
      t.ok(statSync(file).blocks <= SOME, `${name} becomes or stays a hole where the ticket is sparse`)
      const kept = join(mounted.path, 'kept')
      make(kept)
      t.equal(await zero(kept, false, 0, SIZE), 200)
      t.equal(statSync(kept).size, SIZE)
      t.ok(isZero(kept, 0, SIZE), `${name} reads as zeroes`)
      t.ok(statSync(kept).blocks >= SIZE / 512, `${name} becomes or stays allocated where it is not`)
      if (kind !== 'tmpfs' && installed('filefrag')) t.ok(unwritten(kept), `${name} is not written`)
    }
    const edges = join(mounted.path, 'edges')
    fill(edges, SIZE)
    const model = readFileSync(edges)
    for (const [sparse, offset, length] of [
      [true, 100, 10000],
      [false, MiB + 1, 3 * MiB],
      [true, SIZE - 5, 5],
    ] as const) {
      t.equal(await zero(edges, sparse, offset, length), 200)
      model.fill(0, offset, offset + length)
    }
    t.equal(Buffer.compare(readFileSync(edges), model), 0, 'what lies beside unaligned ranges stays')
  })
}

t.test(
  'ext4 without extents is zeroed by writing where storage is to stay',
  { skip: fileSystemAbsent('ext4') },
  async (t) => {
    const image = scratch.file('old.img')
    const folder = scratch.file('old')
    mkdirSync(folder)
    empty(image, 256 * MiB)
    t.equal(spawnSync('mkfs.ext4', ['-q', '-F', '-O', '^extents,^64bit,^metadata_csum', image]).status, 0)
    t.equal(spawnSync('mount', ['-o', 'loop', image, folder]).status, 0)
    t.teardown(() => spawnSync('umount', [folder]))
    const file = join(folder, 'disk')
    fill(file, SIZE)
    t.equal(await zero(file, false, 0, SIZE), 200)
    t.ok(statSync(file).blocks >= SIZE / 512)
    t.ok(isZero(file, 0, SIZE))
    t.equal(await zero(file, true, 0, SIZE), 200)
    t.ok(statSync(file).blocks <= SOME)
  },
)

t.test('a block device is zeroed and written', { skip: fileSystemAbsent('ext4') }, async (t) => {
  const backing = scratch.file('backing')
  fill(backing, SIZE)
  const device = spawnSync('losetup', ['--find', '--show', '--direct-io=on', backing], {
    encoding: 'utf8',
  }).stdout.trim()
  t.teardown(() => spawnSync('losetup', ['--detach', device]))
  const model = readFileSync(backing)
  for (const [sparse, offset, length] of [
    [false, 0, 4 * MiB],
    [true, 8 * MiB, MiB],
    [true, 5 * MiB + 3, 1000],
  ] as const) {
    t.equal(await zero(device, sparse, offset, length), 200)
    model.fill(0, offset, offset + length)
  }
  await daemon.ticket('device', '', SIZE, { url: `file://${device}` })
  const put = await daemon.images('PUT', 'device', { 'content-range': 'bytes 100-*/*' }, Buffer.alloc(MiB, 9))
  t.equal(put.status, 200)
  model.fill(9, 100, 100 + MiB)
  t.equal(Buffer.compare((await daemon.images('GET', 'device')).bytes, model), 0)
  await daemon.tickets('DELETE', 'device')
  t.equal(Buffer.compare(readFileSync(device), model), 0)
})
