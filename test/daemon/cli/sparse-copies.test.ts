// SPDX-License-Identifier: Apache-2.0
// Zeroes that a source holds as data take up no storage in its copies, where they are as long as a unit of the target: but for
// tables these are as large as qemu-img's, which serve as the measure, and the content is the same.

import { spawnSync } from 'node:child_process'
import { closeSync, openSync, statSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { installed } from '../../helpers/program.js'
import { run } from './run.js'

const KiB = 1024
const SIZE = 8 * 1024 * KiB
const skip = installed('qemu-img') ? false : 'no qemu-img'

/** Data and zeroes by turns, all of it written. */
function striped(path: string, run: number): string {
  const file = openSync(path, 'w')
  const [data, zeroes] = [Buffer.alloc(run, 0x5a), Buffer.alloc(run)]
  for (let at = 0, turn = 0; at < SIZE; at += run, turn++)
    writeSync(file, turn % 2 ? zeroes : data, 0, run, at)
  closeSync(file)
  return path
}

function qemuImg(...args: string[]): void {
  const { status, stderr } = spawnSync('qemu-img', args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`qemu-img ${args.join(' ')}: ${stderr}`)
}

const stored = (path: string) => statSync(path).blocks * 512

/** What a format needs besides data. */
const TABLES = 512 * KiB
const cases = [
  { name: 'raw', run: 64 * KiB, format: 'raw', options: [] },
  { name: 'raw, long runs', run: 256 * KiB, format: 'raw', options: [] },
  { name: 'raw, short runs', run: 4 * KiB, format: 'raw', options: ['-S', '4k'] },
  { name: 'raw, runs of no power of two', run: 16 * KiB, format: 'raw', options: ['-S', '12k'] },
  { name: 'qcow2', run: 64 * KiB, format: 'qcow2', options: [] },
  { name: 'qcow2 of small clusters', run: 16 * KiB, format: 'qcow2', options: ['-o', 'cluster_size=4k'] },
  { name: 'qcow2 of large clusters', run: 256 * KiB, format: 'qcow2', options: ['-o', 'cluster_size=256k'] },
  { name: 'compressed', run: 64 * KiB, format: 'qcow2', options: ['-c'] },
  {
    name: 'compressed small clusters',
    run: 4 * KiB,
    format: 'qcow2',
    options: ['-c', '-o', 'cluster_size=4k'],
  },
] as const

for (const { name, run: length, format, options } of cases)
  t.test(`convert to ${name} stores no zeroes`, { skip }, async (t) => {
    const folder = t.testdir({})
    const source = striped(join(folder, 'source'), length)
    const [ours, theirs] = [join(folder, 'ours'), join(folder, 'theirs')]
    const args = ['convert', '-f', 'raw', '-O', format, ...options, source]
    t.match(await run([...args, ours]), { status: 0 })
    qemuImg(...args, theirs)
    t.ok(
      stored(ours) <= stored(theirs) + TABLES,
      `${stored(ours)} bytes of storage, qemu-img's ${stored(theirs)}`,
    )
    t.ok(stored(theirs) < SIZE, 'the measure is worth something')
    t.doesNotThrow(() => qemuImg('compare', '-f', 'raw', '-F', format, source, ours))
  })

t.test('a copy over an old one stores no zeroes either', { skip }, async (t) => {
  const folder = t.testdir({})
  const source = striped(join(folder, 'source'), 64 * KiB)
  const target = join(folder, 'target')
  const file = openSync(target, 'w')
  writeSync(file, Buffer.alloc(SIZE, 1))
  closeSync(file)
  t.match(await run(['convert', '-n', '-f', 'raw', '-O', 'raw', source, target]), { status: 0 })
  t.ok(stored(target) <= SIZE / 2 + TABLES, `${stored(target)} bytes of storage`)
  t.doesNotThrow(() => qemuImg('compare', '-f', 'raw', '-F', 'raw', source, target))
})
