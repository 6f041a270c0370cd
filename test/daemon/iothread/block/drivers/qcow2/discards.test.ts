// SPDX-License-Identifier: Apache-2.0
// Which options make discards, zeroes and other changes give storage back: what the disk is then, and how much storage
// the file takes up for clusters that nobody uses, is what qemu-io leaves with the same options.

import { spawnSync } from 'node:child_process'
import path from 'node:path'
import t, { type Test } from 'tap'
import type { BlockNode } from '../../../../../../daemon/iothread/block/node.js'
import { mustQemuImg, oracle, qemuIo } from '../../../../../helpers/check-image.js'
import { freeStorage } from '../../../../../helpers/free-storage.js'
import { type TestGraph, testGraph } from '../../../../../helpers/graph.js'
import { openImage } from '../../../../../helpers/opened-image.js'
import { installed } from '../../../../../helpers/program.js'
import { type QemuTools, qemuTools } from '../../../../../helpers/qemu-tools.js'

const [KiB, MiB] = [2 ** 10, 2 ** 20]
const skip = installed('qemu-img') && installed('qemu-io') ? false : 'qemu-img is not installed'

type Options = Readonly<Record<string, string | boolean>>

/** What is done to the disk, as both can do it. */
type Step =
  | { readonly kind: 'discard' | 'zero' | 'unmap'; readonly offset: number; readonly length: number }
  | { readonly kind: 'write'; readonly offset: number; readonly length: number; readonly byte: number }
  | { readonly kind: 'resize'; readonly length: number }

interface Case {
  readonly name: string
  readonly options: Options
  readonly steps: readonly Step[]
  /** Bytes that clusters nobody uses take up then. */
  readonly free: number
  /** Without it: a disk of 8 MiB whose first 4 are written. */
  readonly make?: (file: string) => void
  /** QEMU of this version or later knows the option. */
  readonly since?: 10
  /** What is shown is all of a large disk: it is not looked at. */
  readonly large?: true
  /** Here what was freed has another use at once; QEMU looks for room in one piece. */
  readonly reused?: true
}

const written = (file: string) => {
  mustQemuImg('create', '-q', '-f', 'qcow2', file, '8M')
  qemuIo(file, 'write -P 1 0 4M')
}
const over = (more: (file: string) => void) => (file: string) => {
  written(file)
  more(file)
}

const discard: Step = { kind: 'discard', offset: MiB, length: MiB }
const unmap: Step = { kind: 'unmap', offset: MiB, length: MiB }
const zero: Step = { kind: 'zero', offset: MiB, length: MiB }
const zeroes: Step = { kind: 'write', offset: MiB, length: MiB, byte: 0 }

const on = { discard: 'unmap' } as const
const kept = { ...on, 'pass-discard-request': false } as const
const stays = { ...on, 'discard-no-unref': true } as const

const cases: readonly Case[] = [
  { name: 'a discard', options: on, steps: [discard], free: 0 },
  {
    name: 'a discard of parts of clusters',
    options: on,
    steps: [{ kind: 'discard', offset: MiB + 4 * KiB, length: MiB }],
    free: 0,
  },
  { name: 'a discard that is ignored', options: {}, steps: [discard], free: 0 },
  {
    name: 'a discard that is ignored and would be passed on',
    options: { 'pass-discard-request': true },
    steps: [discard],
    free: 0,
  },
  { name: 'a discard that is not passed on', options: kept, steps: [discard], free: MiB },
  {
    name: 'a discard that leaves clusters their places',
    ...{ options: stays, steps: [discard], free: 0, since: 10 },
  },
  {
    name: 'a discard that leaves places and is not passed on',
    ...{ options: { ...stays, 'pass-discard-request': false }, steps: [discard], free: 0, since: 10 },
  },
  { name: 'zeroes that may unmap', options: on, steps: [unmap], free: 0 },
  {
    name: 'zeroes that may unmap where discards are ignored',
    ...{ options: {}, steps: [unmap], free: 0, since: 10 },
  },
  { name: 'zeroes that may unmap and are not passed on', options: kept, steps: [unmap], free: MiB },
  {
    name: 'zeroes that may unmap and leave clusters their places',
    ...{ options: stays, steps: [unmap], free: 0, since: 10 },
  },
  { name: 'zeroes', options: on, steps: [zero], free: 0 },
  { name: 'zeroes that are not looked for', options: on, steps: [zeroes], free: 0 },
  {
    name: 'zeroes that are looked for',
    options: { ...on, 'detect-zeroes': 'on' },
    steps: [zeroes],
    free: 0,
  },
  {
    name: 'zeroes that are looked for and may unmap',
    options: { ...on, 'detect-zeroes': 'unmap' },
    steps: [zeroes],
    free: 0,
  },
  {
    name: 'zeroes that are looked for, may unmap and are not passed on',
    options: { ...kept, 'detect-zeroes': 'unmap' },
    steps: [zeroes],
    free: MiB,
  },
  {
    name: 'zeroes that are looked for in parts of clusters',
    options: { ...on, 'detect-zeroes': 'unmap' },
    steps: [{ kind: 'write', offset: MiB + 4 * KiB, length: MiB - 8 * KiB, byte: 0 }],
    free: 0,
  },
  {
    name: 'a discard of what a snapshot shows',
    make: over((file) => mustQemuImg('snapshot', '-c', 'one', file)),
    ...{ options: on, steps: [discard], free: 0 },
  },
  {
    name: 'a discard of what replaced what a snapshot shows',
    make: over((file) => {
      mustQemuImg('snapshot', '-c', 'one', file)
      qemuIo(file, 'write -P 2 1M 1M')
    }),
    ...{ options: on, steps: [discard], free: 0 },
  },
  {
    name: 'a discard of compressed clusters',
    make: over((file) => qemuIo(file, 'write -c -P 3 4M 64k', 'write -c -P 4 4160k 64k')),
    ...{ options: on, steps: [{ ...discard, offset: 4 * MiB }], free: 0 },
  },
  {
    name: 'a smaller disk',
    make: (file) => {
      mustQemuImg('create', '-q', '-f', 'qcow2', file, '8M')
      qemuIo(file, 'write -P 1 4M 4M', 'write -P 1 0 1M')
    },
    options: { ...on, 'pass-discard-other': false },
    steps: [{ kind: 'resize', length: 4 * MiB }],
    free: 0,
  },
  {
    name: 'a smaller disk, where discards are ignored',
    make: (file) => {
      mustQemuImg('create', '-q', '-f', 'qcow2', file, '8M')
      qemuIo(file, 'write -P 1 4M 4M', 'write -P 1 0 1M')
    },
    options: {},
    steps: [{ kind: 'resize', length: 4 * MiB }],
    free: 0,
  },
  ...[true, false].map((other) => ({
    name: `an L1 table that moves, pass-discard-other ${other}`,
    make: (file: string) => {
      mustQemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', file, '1G')
      qemuIo(file, 'write -P 1 0 64k')
    },
    options: { 'pass-discard-other': other },
    steps: [{ kind: 'resize', length: 3 * 1024 * MiB }] as const,
    free: other ? 0 : 4 * KiB,
  })),
  ...[true, false].map((other) => ({
    name: `a refcount table that moves, pass-discard-other ${other}`,
    make: (file: string) => {
      const options = 'cluster_size=4k,refcount_bits=64,preallocation=metadata'
      mustQemuImg('create', '-q', '-f', 'qcow2', '-o', options, file, '1016M')
      mustQemuImg('resize', '-q', file, '1100M')
    },
    options: { 'pass-discard-other': other },
    steps: [{ kind: 'write', offset: 1020 * MiB, length: 12 * MiB, byte: 7 }] as const,
    ...{ free: other ? 0 : 4 * KiB, large: true as const, reused: true as const },
  })),
]

async function ourStep(g: TestGraph, node: BlockNode, step: Step): Promise<void> {
  if (step.kind === 'discard') return node.discard(step.offset, step.length)
  if (step.kind === 'resize') return g.graph.resize(node.name, step.length)
  const { offset, length } = step
  if (step.kind !== 'write') return node.zero(offset, length, { unmap: step.kind === 'unmap', fast: false })
  for (let at = 0; at < length; at += MiB)
    await g.write(node, offset + at, new Uint8Array(Math.min(MiB, length - at)).fill(step.byte))
}

function theirStep(step: Step): string {
  if (step.kind === 'resize') return `truncate ${step.length}`
  const where = `${step.offset} ${step.length}`
  const commands = { discard: 'discard', unmap: 'write -z -u', zero: 'write -z' }
  return step.kind === 'write' ? `write -P ${step.byte} ${where}` : `${commands[step.kind]} ${where}`
}

interface Shown {
  readonly start: number
  length: number
  readonly zero: boolean
  readonly data: boolean
}

/** What the disk says of itself, without places; neighbours with one answer are one. */
function shown(file: string): Shown[] {
  const all: Shown[] = []
  const found = JSON.parse(mustQemuImg('map', '-f', 'qcow2', '--output=json', file)) as Shown[]
  for (const { start, length, zero, data } of found) {
    const last = all.at(-1)
    if (last?.zero === zero && last.data === data) last.length += length
    else all.push({ start, length, zero, data })
  }
  return all
}

async function ours(t: Test, file: string, { options, steps }: Case, more: object = {}): Promise<void> {
  const g = testGraph(t)
  const node = await openImage(g, file, { discard: 'ignore', ...options, ...more })
  for (const step of steps) await ourStep(g, node, step)
  await g.graph.remove(node.name)
  t.match(oracle(file), { corruptions: 0, leaks: 0, checkErrors: 0 })
}

function theirs(tools: QemuTools, file: string, { options, steps }: Case): void {
  const given = Object.entries({ discard: 'ignore', ...options }).map(([name, value]) => {
    return `${name}=${typeof value === 'boolean' ? (value ? 'on' : 'off') : value}`
  })
  const opts = ['driver=qcow2', 'file.driver=file', `file.filename=${file}`, ...given].join()
  tools.run(
    path.dirname(file),
    'qemu-io',
    ...['--image-opts', ...steps.flatMap((step) => ['-c', theirStep(step)]), opts],
  )
}

/** Copies a file with its holes. */
function copySparse(from: string, to: string): void {
  if (spawnSync('cp', ['--sparse=auto', from, to]).status !== 0) throw new Error(`cannot copy ${from}`)
}

for (const c of cases) {
  const tools = qemuTools.filter(({ absent, name }) => absent === false && (!c.since || name.endsWith('10')))
  t.test(`storage is given back as QEMU gives it back: ${c.name}`, { skip }, async (t) => {
    const folder = t.testdir({})
    const [mine, whole] = [path.join(folder, 'ours.qcow2'), path.join(folder, 'whole.qcow2')]
    const make = c.make ?? written
    make(whole)
    copySparse(whole, mine)
    await ours(t, mine, c)
    t.equal(freeStorage(mine), c.reused ? 0 : c.free, 'storage of clusters that nobody uses')
    for (const one of tools) {
      const other = path.join(folder, 'theirs.qcow2')
      copySparse(whole, other)
      theirs(one, other, c)
      if (!c.large) t.same(shown(mine), shown(other), `the disk of ${one.name}`)
      t.equal(freeStorage(other), c.free, `storage of ${one.name}`)
      // Tables may be elsewhere, and less or more of the last one be written.
      if (!c.large) t.ok(Math.abs(stored(mine) - stored(other)) < 256 * KiB, `storage as with ${one.name}`)
    }
  })
}

/** Bytes of storage that a file takes up, without what its file system adds. */
function stored(file: string): number {
  const extents = JSON.parse(mustQemuImg('map', '-f', 'raw', '--output=json', file)) as Shown[]
  return extents.reduce((sum, { length, data }) => sum + (data ? length : 0), 0)
}

interface DataFileCase extends Case {
  /** Of the 4 MiB that the data file had. */
  readonly left: number
  readonly raw?: true
}

const dataFileCases: readonly DataFileCase[] = [
  {
    name: 'a discard of the first cluster',
    ...{ options: on, steps: [{ ...discard, offset: 0 }], free: 0, left: 3 * MiB },
  },
  { name: 'a discard', options: on, steps: [discard], free: 0, left: 3 * MiB },
  { name: 'a discard that is ignored', options: {}, steps: [discard], free: 0, left: 4 * MiB },
  { name: 'a discard that is not passed on', options: kept, steps: [discard], free: 0, left: 4 * MiB },
  { name: 'zeroes', options: on, steps: [zero], free: 0, left: 4 * MiB },
  { name: 'zeroes that may unmap', options: on, steps: [unmap], free: 0, left: 3 * MiB },
  {
    name: 'zeroes that may unmap and are not passed on',
    options: kept,
    steps: [unmap],
    free: 0,
    left: 4 * MiB,
  },
  {
    name: 'zeroes that may unmap, and the data file is raw',
    ...{ options: on, steps: [unmap], free: 0, left: 3 * MiB, raw: true },
  },
]

for (const c of dataFileCases) {
  t.test(`storage of a data file is given back as QEMU gives it back: ${c.name}`, { skip }, async (t) => {
    const tools = qemuTools.filter(({ absent }) => absent === false)
    const folders = ['ours', ...tools.keys()].map(String)
    const top = t.testdir(Object.fromEntries(folders.map((name) => [name, {}])))
    const [mine = '', ...others] = folders.map((name) => path.join(top, name))
    for (const folder of [mine, ...others]) {
      const options = `data_file=${folder}/data${c.raw ? ',data_file_raw=on' : ''}`
      mustQemuImg('create', '-q', '-f', 'qcow2', '-o', options, `${folder}/image`, '8M')
      qemuIo(`${folder}/image`, 'write -P 1 0 4M')
    }
    const data = { driver: 'file', 'node-name': 'data', filename: `${mine}/data`, discard: 'unmap' }
    await ours(t, `${mine}/image`, c, { 'data-file': data })
    t.equal(stored(`${mine}/data`), c.left, 'storage of the data file')
    for (const [index, one] of tools.entries()) {
      const folder = others[index] ?? ''
      theirs(one, `${folder}/image`, c)
      t.same(shown(`${mine}/image`), shown(`${folder}/image`), `the disk of ${one.name}`)
      t.equal(stored(`${folder}/data`), c.left, `storage of ${one.name}`)
    }
  })
}

for (const snapshot of [true, false]) {
  t.test(`what an image held when it is emptied, pass-discard-snapshot ${snapshot}`, { skip }, async (t) => {
    const g = testGraph(t)
    const file = path.join(t.testdir({}), 'a.qcow2')
    mustQemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', file, '8M')
    // A table of the disk's second half lies behind the data of the first.
    qemuIo(file, 'write -P 1 0 1M', 'write -P 1 7M 4k')
    const node = await openImage(g, file, { 'pass-discard-snapshot': snapshot })
    await node.driver.empty?.()
    await g.graph.remove(node.name)
    t.match(oracle(file), { corruptions: 0, leaks: 0, checkErrors: 0, allocatedClusters: 0 })
    t.equal(freeStorage(file), snapshot ? 0 : MiB)
  })
}

for (const other of [true, false]) {
  t.test(`storage of a bitmap that is removed, pass-discard-other ${other}`, { skip }, async (t) => {
    const file = path.join(t.testdir({}), 'a.qcow2')
    mustQemuImg('create', '-q', '-f', 'qcow2', file, '64M')
    mustQemuImg('bitmap', '--add', '-g', '4k', file, 'b')
    qemuIo(file, 'write -P 1 0 1M')
    const g = testGraph(t)
    const node = await openImage(g, file, { 'pass-discard-other': other })
    // What lies behind the bitmap keeps the file from being cut there.
    await g.write(node, 32 * MiB, new Uint8Array(MiB).fill(2))
    await node.driver.bitmapStore?.hold('b')
    node.bitmaps.remove(node.bitmaps.get('b')).keep()
    await node.driver.bitmapStore?.remove('b')
    await g.graph.remove(node.name)
    t.match(oracle(file), { corruptions: 0, leaks: 0, checkErrors: 0 })
    t.equal(freeStorage(file), other ? 0 : 8 * KiB, 'its table and the directory; its bits are always told')
  })
}
