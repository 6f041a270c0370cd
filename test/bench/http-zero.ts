// SPDX-License-Identifier: Apache-2.0
// PATCH zero of a range that holds data, with a flush, against what the kernel's own call and its fsync cost.

import { spawnSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { type FileSystem, fileSystemAbsent, MountedImage } from '../helpers/loop.js'
import { buildFolder } from '../helpers/program.js'
import { imagesServers, load } from './http-servers.js'
import { allocated, makeDense, runTool } from './images.js'
import type { BenchOptions } from './options.js'
import { atMost, mebibytes, median, print, round, table, type Verdict } from './report.js'

const [MiB, GiB] = [2 ** 20, 2 ** 30]
/** What a reply of the server may cost above the kernel's work, seconds. */
const SLACK = 0.05

/** What is zeroed, and the file whose storage that is. */
interface Disk {
  readonly path: string
  readonly storage: string
  /** Bytes. */
  readonly size: number
}

interface Way {
  readonly name: string
  /** @returns seconds */
  zero(file: string, size: number): Promise<number> | number
}

export async function zeroing(options: BenchOptions): Promise<Verdict[]> {
  const size = options.size ?? 10 * GiB
  print(`\n## PATCH zero of ${mebibytes(size)} of data, flushed, milliseconds\n`)
  const rows: string[][] = []
  const verdicts: Verdict[] = []
  for (const kind of ['ext4', 'xfs', 'btrfs'] as const) {
    const absent = fileSystemAbsent(kind)
    if (absent !== false) {
      print(`<!-- ${kind}: ${absent} -->`)
      continue
    }
    for (const sparse of [true, false])
      verdicts.push(...(await onFileSystem(kind, sparse, size, options, rows)))
  }
  if (fileSystemAbsent('ext4') === false) verdicts.push(...(await onDevice(size, options, rows)))
  print(table(['', 'rounds', 'median', 'allocated after'], rows))
  return verdicts
}

async function onFileSystem(
  kind: FileSystem,
  sparse: boolean,
  size: number,
  options: BenchOptions,
  rows: string[][],
): Promise<Verdict[]> {
  using mounted = MountedImage.make(options.directory, kind, 2 * size + 2 * GiB)
  const file = join(mounted.path, 'image')
  const own = sparse ? 'punch' : 'zero'
  const ways = [...serving(options, sparse), kernel(own)]
  const disk = { path: file, storage: file, size }
  return await measured(`${kind}, ${sparse ? 'sparse' : 'allocated'}`, ways, disk, options, rows)
}

async function onDevice(size: number, options: BenchOptions, rows: string[][]): Promise<Verdict[]> {
  const backing = join(options.directory, 'device.img')
  makeDense(backing, size)
  const device = runTool('losetup', ['--find', '--show', '--direct-io=on', backing]).trim()
  try {
    const ways = [...serving(options, false), kernel('zero'), kernel('blkzeroout')]
    const disk = { path: device, storage: backing, size }
    return await measured('block device', ways, disk, options, rows)
  } finally {
    spawnSync('losetup', ['--detach', device])
    rmSync(backing)
  }
}

/** Rounds interleaved, each on data that were just written. */
async function measured(
  what: string,
  ways: readonly Way[],
  { path, storage, size }: Disk,
  options: BenchOptions,
  rows: string[][],
): Promise<Verdict[]> {
  const times = ways.map((): number[] => [])
  const left = ways.map(() => 0)
  for (let turn = 0; turn < options.rounds; turn++)
    for (const [index, way] of ways.entries()) {
      refill(path, size)
      times[index]?.push(await way.zero(path, size))
      left[index] = allocated(storage)
    }
  for (const [index, { name }] of ways.entries()) {
    const each = times[index] ?? []
    const ms = (seconds: number) => round(seconds * 1000)
    rows.push([`${what}: ${name}`, each.map(ms).join(' '), ms(median(each)), mebibytes(left[index] ?? 0)])
  }
  const [ours = []] = times
  const own = times[ways.findIndex(({ name }) => !name.includes('PATCH'))] ?? []
  const above = median(ours.map((seconds, turn) => seconds - 2 * (own[turn] ?? Number.NaN)))
  return [atMost(`zero, ${what}: seconds above twice the kernel’s`, above, SLACK)]
}

function refill(file: string, size: number): void {
  if (file.startsWith('/dev/'))
    runTool('dd', [
      ...['if=/dev/urandom', `of=${file}`, 'bs=8M', `count=${Math.floor(size / (8 * MiB))}`],
      ...['iflag=fullblock', 'oflag=direct', 'conv=fsync', 'status=none'],
    ])
  else makeDense(file, size)
}

function serving(options: BenchOptions, sparse: boolean): Way[] {
  return imagesServers(options).map((kind) => ({
    name: `PATCH, ${kind.name}`,
    async zero(file, size) {
      await using server = await kind.start(options.directory)
      const path = await server.ticket(file, size, sparse)
      return (await load('zero', server, path, size)).seconds
    },
  }))
}

function kernel(how: 'punch' | 'zero' | 'blkzeroout'): Way {
  const names = { punch: 'fallocate PUNCH_HOLE', zero: 'fallocate ZERO_RANGE', blkzeroout: 'BLKZEROOUT' }
  return {
    name: `${names[how]} and fsync`,
    zero: (file, size) =>
      Number(runTool('python3', [`${buildFolder}../test/bench/zero-range.py`, how, file, String(size)])),
  }
}
