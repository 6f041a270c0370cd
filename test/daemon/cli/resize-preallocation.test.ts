// SPDX-License-Identifier: Apache-2.0
// `blockferry resize --preallocation`, beside qemu-img doing the same to the same image.

import { mkdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { mustQemuImg, oracle, qemuImg, qemuIo } from '../../helpers/check-image.js'
import { fileSystemAbsent, MountedImage } from '../../helpers/loop.js'
import { installed } from '../../helpers/program.js'
import { run } from './run.js'

const MiB = 2 ** 20
const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'

interface Kind {
  readonly name: string
  /** For qemu-img create; FOLDER is where the image is. */
  readonly options: readonly string[]
  readonly write?: string
  readonly snapshot?: true
  readonly dataFile?: true
  /** Shows more than the disk has. */
  readonly covers?: true
}

const kinds: readonly Kind[] = [
  { name: 'an empty disk', options: [] },
  { name: 'a disk with data', options: [], write: 'write -P 1 0 1M' },
  { name: 'version 2', options: ['-o', 'compat=0.10'], write: 'write -P 1 64k 64k' },
  { name: 'small clusters', options: ['-o', 'cluster_size=4k'], write: 'write -P 1 8k 64k' },
  { name: 'subclusters', options: ['-o', 'extended_l2=on'], write: 'write -P 1 0 4k' },
  { name: 'a snapshot', options: [], write: 'write -P 1 0 1M', snapshot: true },
  { name: 'a longer backing file', options: ['-b', 'FOLDER/base', '-F', 'raw'], covers: true },
  { name: 'a shorter backing file', options: ['-b', 'FOLDER/short', '-F', 'raw'] },
  {
    name: 'subclusters over a longer backing file',
    options: ['-o', 'extended_l2=on', '-b', 'FOLDER/base', '-F', 'raw'],
    covers: true,
  },
  { name: 'a data file', options: ['-o', 'data_file=FOLDER/data'], dataFile: true },
  { name: 'a raw data file', options: ['-o', 'data_file=FOLDER/data,data_file_raw=on'], dataFile: true },
]

const GROWN = 4 * MiB

/** @returns its folder */
function image(t: Test, kind: Kind, name: string): string {
  const folder = join(t.testdirName, name)
  mkdirSync(folder)
  writeFileSync(join(folder, 'base'), Buffer.alloc(3 * MiB, 7))
  writeFileSync(join(folder, 'short'), Buffer.alloc(MiB / 2, 7))
  const path = join(folder, 'image')
  const options = kind.options.map((option) => option.replace('FOLDER', folder))
  mustQemuImg('create', '-q', '-f', 'qcow2', ...options, path, '1M')
  if (kind.write !== undefined) qemuIo(path, kind.write)
  if (kind.snapshot) mustQemuImg('snapshot', '-c', 'one', path)
  return folder
}

interface Extent {
  readonly start: number
  readonly length: number
  readonly depth: number
  readonly zero: boolean
  readonly data: boolean
  readonly offset?: number
}

/** Neighbours that differ in their place only are one. */
function map(path: string, format: string): object[] {
  const list = JSON.parse(mustQemuImg('map', '-f', format, '--output=json', path)) as Extent[]
  const merged: { start: number; length: number; depth: number; zero: boolean; data: boolean }[] = []
  for (const { start, length, depth, zero, data } of list) {
    const last = merged.at(-1)
    if (last?.depth === depth && last.zero === zero && last.data === data) last.length += length
    else merged.push({ start, length, depth, zero, data })
  }
  return merged
}

/** Storage of both files. */
function stored(folder: string, { dataFile }: Kind): number {
  const files = dataFile ? ['image', 'data'] : ['image']
  return files.reduce((sum, file) => sum + statSync(join(folder, file)).blocks * 512, 0)
}

for (const mode of ['metadata', 'falloc', 'full'])
  for (const kind of kinds)
    t.test(`${mode}, as qemu-img has it: ${kind.name}`, { skip }, async (t) => {
      t.testdir({})
      const [ours, theirs] = [image(t, kind, 'ours'), image(t, kind, 'theirs')]
      const arguments_ = ['resize', '-f', 'qcow2', `--preallocation=${mode}`]
      mustQemuImg(...arguments_, join(theirs, 'image'), String(GROWN))
      const path = join(ours, 'image')
      const made = await run([...arguments_, path, String(GROWN)])
      t.same(made, { status: 0, stdout: 'Image resized.\n', stderr: '' })
      const [found, wanted] = [oracle(path), oracle(join(theirs, 'image'))]
      t.same(found.lines, [])
      t.match(found, { corruptions: 0, leaks: 0, checkErrors: 0 })
      t.equal(found.allocatedClusters, wanted.allocatedClusters)
      t.same(map(path, 'qcow2'), map(join(theirs, 'image'), 'qcow2'))
      const difference = Math.abs(stored(ours, kind) - stored(theirs, kind))
      t.ok(difference <= MiB / 4, `${difference} bytes of storage more or less`)
      const content = kind.covers ? `read -P 7 0 1M` : (kind.write?.replace('write', 'read') ?? 'read 0 1M')
      qemuIo(path, content, 'read -P 0 1M 3M')
      if (kind.snapshot) mustQemuImg('snapshot', '-a', 'one', path)
    })

for (const mode of ['falloc', 'full'])
  t.test(`${mode} of a raw file, as qemu-img has it`, { skip }, async (t) => {
    const folder = t.testdir({ ours: 'a'.repeat(3), theirs: 'a'.repeat(3) })
    for (const [from, to] of [
      [3, 65536],
      [65536, 3 * MiB + 512],
    ]) {
      const arguments_ = ['resize', '-f', 'raw', `--preallocation=${mode}`]
      mustQemuImg(...arguments_, join(folder, 'theirs'), String(to))
      t.equal((await run([...arguments_, join(folder, 'ours'), String(to)])).stderr, '', `from ${from}`)
    }
    const [ours, theirs] = ['ours', 'theirs'].map((name) => statSync(join(folder, name)))
    t.equal(ours?.size, theirs?.size)
    t.ok(Math.abs((ours?.blocks ?? 0) - (theirs?.blocks ?? 0)) <= 16)
    t.ok(readFileSync(join(folder, 'ours')).equals(readFileSync(join(folder, 'theirs'))))
  })

const refusals = [
  { format: 'raw', mode: 'metadata', size: '4M', text: 'Unsupported preallocation mode: metadata' },
  { format: 'raw', mode: 'falloc', size: '1M', text: 'Preallocation can only be used for growing images' },
  { format: 'raw', mode: 'full', size: '512k', text: 'Preallocation can only be used for growing images' },
  {
    format: 'qcow2',
    mode: 'metadata',
    size: '1M',
    text: 'Preallocation can only be used for growing images',
  },
  {
    format: 'qcow2',
    mode: 'falloc',
    size: '-512k',
    text: 'Preallocation can only be used for growing images',
  },
]

for (const { format, mode, size, text } of refusals)
  for (const shrink of [[], ['--shrink']])
    t.test(`refused: ${mode} of ${format} to ${size} ${shrink}`, { skip }, async (t) => {
      const path = join(t.testdir({}), 'image')
      mustQemuImg('create', '-q', '-f', format, path, '1M')
      const before = readFileSync(path)
      const arguments_ = ['resize', '-f', format, ...shrink, `--preallocation=${mode}`, path]
      const refused = await run([...arguments_, size])
      t.equal(refused.status, 1)
      t.match(refused.stderr, `cannot resize '${path}': ${text}`)
      t.ok(readFileSync(path).equals(before))
      if (!size.startsWith('-')) t.match(qemuImg(...arguments_, size), { status: 1, stderr: text })
    })

t.test('a mode that is none is refused, and off is as without it', { skip }, async (t) => {
  const path = join(t.testdir({}), 'image')
  mustQemuImg('create', '-q', '-f', 'raw', path, '1M')
  const refused = await run(['resize', '-f', 'raw', '--preallocation=half', path, '4M'])
  t.match(refused, { status: 2, stderr: /off, metadata, falloc, full/ })
  t.equal(statSync(path).size, MiB)
  t.equal((await run(['resize', '-f', 'raw', '--preallocation=off', '--shrink', path, '512k'])).status, 0)
  t.equal(statSync(path).size, MiB / 2)
})

for (const { format, data } of [
  { format: 'raw', data: true },
  { format: 'qcow2', data: true },
  { format: 'qcow2', data: false },
])
  for (const mode of ['falloc', 'full'])
    t.test(
      `${mode} of ${format}, ${data ? '' : 'empty, '}on a full file system changes nothing`,
      { skip: skip || fileSystemAbsent('tmpfs') },
      async (t) => {
        using mounted = MountedImage.make(t.testdir({}), 'tmpfs', 8 * MiB)
        const path = join(mounted.path, 'image')
        mustQemuImg('create', '-q', '-f', format, path, '1M')
        if (format === 'raw') truncateSync(path, MiB)
        else if (data) qemuIo(path, 'write -P 3 0 1M')
        const before = map(path, format)
        const stored = statSync(path).blocks
        const failed = await run(['resize', '-f', format, `--preallocation=${mode}`, path, '20M'])
        t.match(failed, { status: 1, stderr: `cannot resize '${path}': No space left on device` })
        t.same(map(path, format), before)
        t.ok(statSync(path).blocks * 512 <= stored * 512 + MiB / 4)
        if (format === 'raw') t.equal(statSync(path).size, MiB)
        else t.match(oracle(path), { corruptions: 0, leaks: 0, checkErrors: 0 })
      },
    )
