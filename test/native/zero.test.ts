// SPDX-License-Identifier: Apache-2.0
// The zero ladder: every rung on every file system that can be had, and on a block device.

import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import t from 'tap'
import { createEngine } from '../../native/engine.js'
import { type Capability, ZeroRung } from '../../native/types.js'
import { type FileSystem, fileSystemAbsent, MountedImage } from '../helpers/loop.js'
import { difference, engineFor, factsOf, get, MIB, pattern, put } from './kinds.js'

const ENOTSUP = -95

interface Case {
  readonly name: string
  readonly unmap: boolean
  readonly without: readonly Capability[]
  readonly offset: number
  readonly length: number
  readonly rung: keyof typeof ZeroRung
}

/** On a file with 4 MiB of data. */
const ladder: readonly Case[] = [
  { name: 'unmap', unmap: true, without: [], offset: MIB, length: MIB, rung: 'hole' },
  { name: 'unmap, odd edges', unmap: true, without: [], offset: 100, length: 10_000, rung: 'hole' },
  { name: 'unmap across the end', unmap: true, without: [], offset: 3 * MIB, length: 3 * MIB, rung: 'hole' },
  { name: 'unmap beyond the end', unmap: true, without: [], offset: 5 * MIB, length: MIB + 7, rung: 'hole' },
  { name: 'keep', unmap: false, without: [], offset: MIB, length: MIB, rung: 'zeroRange' },
  { name: 'keep, odd edges', unmap: false, without: [], offset: 777, length: 2 * MIB, rung: 'zeroRange' },
  {
    name: 'keep across the end',
    unmap: false,
    without: [],
    offset: 3 * MIB,
    length: 2 * MIB,
    rung: 'zeroRange',
  },
  {
    name: 'keep without zero-range',
    unmap: false,
    without: ['zero-range'],
    offset: MIB + 1,
    length: MIB,
    rung: 'punchThenAllocate',
  },
  {
    name: 'keep beyond the end without punch-hole',
    unmap: false,
    without: ['zero-range', 'punch-hole'],
    offset: 4 * MIB,
    length: 2 * MIB,
    rung: 'allocateBeyondEnd',
  },
  {
    name: 'unmap without punch-hole',
    unmap: true,
    without: ['punch-hole'],
    offset: MIB,
    length: MIB,
    rung: 'zeroRange',
  },
  {
    name: 'keep without anything',
    unmap: false,
    without: ['zero-range', 'punch-hole', 'fallocate'],
    offset: MIB - 5,
    length: 2 * MIB,
    rung: 'written',
  },
]

const fileSystems: readonly { readonly kind: FileSystem | 'here'; readonly size: number }[] = [
  { kind: 'here', size: 0 },
  { kind: 'tmpfs', size: 64 * MIB },
  { kind: 'ext4', size: 64 * MIB },
  { kind: 'xfs', size: 320 * MIB },
  { kind: 'btrfs', size: 160 * MIB },
]

for (const { kind, size } of fileSystems) {
  t.test(`files on ${kind}`, { skip: kind === 'here' ? false : fileSystemAbsent(kind) }, async (t) => {
    const folder = t.testdir()
    const mounted = kind === 'here' ? undefined : MountedImage.make(folder, kind, size)
    const engine = createEngine({ aio: 'threads' })
    const place = mounted?.path ?? folder

    for (const { name, unmap, without, offset, length, rung } of ladder) {
      await t.test(`${name}: the range reads as zero and nothing else changes`, async (t) => {
        const path = join(place, 'disk.img')
        const file = await engine.open(path, { write: true, create: true, direct: true, without })
        await put(engine, file, 0, pattern(4 * MIB))
        const reached = await engine.zero(file, offset, length, { unmap, fast: false })
        // tmpfs has no ZERO_RANGE; what a host's own file system has is its own affair.
        const wantedRung = kind === 'tmpfs' && rung === 'zeroRange' ? tmpfsRung(without) : ZeroRung[rung]
        if (kind !== 'here') t.equal(reached, wantedRung)
        else t.ok(reached >= 0)
        const wanted = new Uint8Array(Math.max(4 * MIB, offset + length))
        wanted.set(pattern(4 * MIB))
        wanted.fill(0, offset, offset + length)
        t.equal(difference(await get(engine, file, 0, wanted.length + 1), wanted), undefined)
        if (reached === ZeroRung.hole) t.ok((await factsOf(engine, file)).allocated <= 4 * MIB)
        await engine.close(file)
        await engine.unlink(path)
      })
    }
    await engine.shutdown(10_000)
    mounted?.[Symbol.dispose]()
  })
}

function tmpfsRung(without: readonly Capability[]): number {
  return without.includes('punch-hole') ? ZeroRung.written : ZeroRung.punchThenAllocate
}

t.test('a fast zero fails rather than writing', async (t) => {
  const engine = engineFor(t, { aio: 'threads' })
  const without: readonly Capability[] = ['zero-range', 'punch-hole', 'fallocate']
  const path = join(t.testdir(), 'disk.img')
  const file = await engine.open(path, { write: true, create: true, without })
  await put(engine, file, 0, pattern(MIB))
  t.equal(await engine.zero(file, 0, MIB, { unmap: true, fast: true }), ENOTSUP)
  t.equal(await engine.zero(file, 0, MIB, { unmap: false, fast: true }), ENOTSUP)
  t.equal(difference(await get(engine, file, 0, MIB), pattern(MIB)), undefined)
  t.equal(await engine.discard(file, 0, MIB), ENOTSUP)
})

t.test('a range of several steps is zeroed whole', async (t) => {
  const engine = engineFor(t, { aio: 'threads' })
  const file = await engine.open(join(t.testdir(), 'disk.img'), { write: true, create: true })
  await put(engine, file, 0, pattern(MIB))
  await put(engine, file, 300 * MIB, pattern(MIB))
  t.equal(await engine.zero(file, 10, 300.5 * MIB, { unmap: true, fast: false }), ZeroRung.hole)
  const wanted = pattern(MIB)
  wanted.fill(0, 0, MIB / 2 + 10)
  t.equal(difference(await get(engine, file, 300 * MIB, MIB), wanted), undefined)
  t.equal(difference(await get(engine, file, 0, 10), pattern(10)), undefined)
})

const noLoop = fileSystemAbsent('ext4')

for (const { name, unmap, without, offset, length, fast, wanted } of [
  { name: 'unmap', unmap: true, without: [], offset: MIB, length: MIB, fast: true, wanted: ZeroRung.hole },
  { name: 'keep', unmap: false, without: [], offset: MIB, length: MIB, fast: true, wanted: ZeroRung.device },
  {
    name: 'odd edges',
    unmap: true,
    without: [],
    offset: 100,
    length: MIB,
    fast: false,
    wanted: ZeroRung.hole,
  },
  {
    name: 'without punch-hole, fast',
    unmap: true,
    without: ['punch-hole'],
    offset: 0,
    length: MIB,
    fast: true,
    wanted: ENOTSUP,
  },
  {
    name: 'without punch-hole',
    unmap: true,
    without: ['punch-hole'],
    offset: 0,
    length: MIB,
    fast: false,
    wanted: ZeroRung.device,
  },
  {
    name: 'keep, without blkzeroout',
    unmap: false,
    without: ['blkzeroout'],
    offset: MIB,
    length: MIB,
    fast: true,
    wanted: ZeroRung.hole,
  },
  {
    name: 'without anything',
    unmap: false,
    without: ['punch-hole', 'blkzeroout'],
    offset: 512,
    length: 2 * MIB,
    fast: false,
    wanted: ZeroRung.written,
  },
] as const) {
  t.test(`block device, ${name}: reads as zero as promised`, { skip: noLoop }, async (t) => {
    const engine = engineFor(t, { aio: 'threads' })
    const backing = join(t.testdir(), 'backing.img')
    const file = await engine.open(backing, { write: true, create: true })
    await put(engine, file, 0, pattern(4 * MIB))
    const attached = spawnSync('losetup', ['-f', '--show', backing], { encoding: 'utf8' })
    const device = attached.stdout.trim()
    t.teardown(() => spawnSync('losetup', ['-d', device]))
    const disk = await engine.open(device, { write: true, direct: true, without })
    const { kind, size, requestAlign, direct } = await factsOf(engine, disk)
    t.same([kind, size, requestAlign, direct], ['block', 4 * MIB, 512, true])
    t.equal(await engine.zero(disk, offset, length, { unmap, fast }), wanted)
    const content = pattern(4 * MIB)
    if (wanted >= 0) content.fill(0, offset, offset + length)
    t.equal(difference(await get(engine, disk, 0, 4 * MIB), content), undefined)
    t.same([...((await engine.extents(disk, MIB, MIB, 9)) as Float64Array)], [MIB, 3 * MIB, 1])
    t.equal(await engine.discard(disk, 0, MIB), 0)
    t.equal(await engine.flush(disk, true), 0)
    await engine.close(disk)
  })
}
