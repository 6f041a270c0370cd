// SPDX-License-Identifier: Apache-2.0
// Copies of three kinds of images, side by side with the tools users have: rounds interleaved, target made anew and
// caches dropped before each, content compared after each.

import { spawnSync } from 'node:child_process'
import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { entryFile } from '../../daemon/common/entries.js'
import { Daemon } from '../helpers/daemon.js'
import { MountedImage } from '../helpers/loop.js'
import { type Contender, type Copy, type Cost, contenders, mirror } from './contenders.js'
import {
  allocated,
  assertEqual,
  dropCaches,
  makeDense,
  makeFragmented,
  makeScattered,
  makeTarget,
} from './images.js'
import type { BenchOptions } from './options.js'
import { atMost, inTurn, mebibytes, median, print, round, table, type Verdict } from './report.js'

const GiB = 2 ** 30
const SEED = 20

export interface Result {
  readonly name: string
  readonly rounds: Cost[]
  /** Storage in use by the target of the last round, bytes. */
  allocated: number
}

/** @param verify  throws unless source and target of a copy are equal */
export async function race(
  copy: Copy,
  all: readonly Contender[],
  rounds: number,
  verify: (copy: Copy) => void = ({ source, target }) => assertEqual(source, target),
): Promise<Result[]> {
  const runners = all.map((contender) => {
    const result: Result = { name: contender.name, rounds: [], allocated: 0 }
    return { contender, result }
  })
  for (let turn = 0; turn < rounds; turn++) {
    for (const { contender, result } of inTurn(runners, turn)) {
      rmSync(copy.target, { force: true })
      dropCaches()
      const cost = await contender.copy(copy)
      result.rounds.push(cost)
      verify(copy)
      result.allocated = allocated(copy.target)
      print(
        `<!-- ${contender.name} round ${turn + 1}: ${round(cost.seconds)} s, cpu ${round(cost.cpuSeconds)} s -->`,
      )
    }
  }
  rmSync(copy.target, { force: true })
  return runners.map(({ result }) => result)
}

/** Median of our time over theirs, round by round. */
export function ratio(ours: Result, theirs: Result): number {
  return median(ours.rounds.map((cost, turn) => cost.seconds / (theirs.rounds[turn]?.seconds ?? Number.NaN)))
}

export function show(results: readonly Result[]): void {
  const [ours] = results
  if (!ours) return
  const head = ['', 'seconds', 'ours / theirs', 'CPU s', 'peak RSS', 'longest answer', 'target on disk']
  const rows = results.map((each) => [
    each.name,
    each.rounds.map((cost) => round(cost.seconds)).join(' '),
    each === ours ? '' : round(ratio(ours, each)),
    round(median(each.rounds.map((cost) => cost.cpuSeconds))),
    mebibytes(median(each.rounds.map((cost) => cost.peak))),
    longest(each),
    mebibytes(each.allocated),
  ])
  print(table(head, rows))
}

function longest(result: Result): string {
  const values = result.rounds.flatMap((cost) =>
    cost.longestAnswer === undefined ? [] : [cost.longestAnswer],
  )
  return values.length === 0 ? '' : `${round(Math.max(...values))} ms`
}

export function find(results: readonly Result[], part: string): Result | undefined {
  return results.find((each) => each.name.startsWith(part))
}

function cpu(result: Result): number {
  return median(result.rounds.map((cost) => cost.cpuSeconds))
}

/** 4 GiB of random data, O_DIRECT on both ends. */
export async function random(options: BenchOptions): Promise<Verdict[]> {
  const size = options.size ?? 4 * GiB
  const copy = { ...options.paths('random'), size }
  print(`\n## ${mebibytes(size)} random raw → raw, O_DIRECT both ends\n`)
  makeDense(copy.source, size)
  const results = await race(copy, contenders(options.qemu10), options.rounds)
  rmSync(copy.source)
  show(results)
  const [ours] = results
  const verdicts: Verdict[] = []
  for (const [part, limit] of [
    ['qemu-storage-daemon', 0.75],
    ['qemu-img', 0.6],
  ] as const) {
    const theirs = find(results, part)
    if (!ours || !theirs) continue
    verdicts.push(atMost(`random: time over ${part}'s`, ratio(ours, theirs), limit))
    verdicts.push(atMost(`random: CPU over ${part}'s`, cpu(ours) / cpu(theirs), 1))
  }
  return verdicts
}

/** 64 GiB virtual, 4096 pieces of data. */
export async function scattered(options: BenchOptions): Promise<Verdict[]> {
  const size = options.size ?? 64 * GiB
  const copy = { ...options.paths('scattered'), size }
  print(`\n## ${mebibytes(size)} virtual, 4096 scattered pieces of 64–256 KiB\n`)
  makeScattered(copy.source, size, 4096, SEED)
  const storage = allocated(copy.source)
  // dd reads every hole: minutes, and nobody would.
  const all = contenders(options.qemu10).filter((each) => each.name !== 'dd')
  const results = await race(copy, all, options.rounds)
  rmSync(copy.source)
  show(results)
  const [ours] = results
  const peers = ['qemu-storage-daemon', 'qemu-img'].flatMap((part) => find(results, part) ?? [])
  if (!ours || peers.length === 0) return []
  return [
    atMost(
      'scattered: time over the faster peer’s',
      Math.max(...peers.map((peer) => ratio(ours, peer))),
      0.9,
    ),
    atMost('scattered: target’s blocks over the source’s', ours.allocated / storage, 1.01),
  ]
}

/** 5 GiB without holes in more than 80 000 extents. */
export async function fragmented(options: BenchOptions): Promise<Verdict[]> {
  const size = options.size ?? 5 * GiB
  print(`\n## ${mebibytes(size)} in very many extents on ext4, no hole inside\n`)
  using volume = MountedImage.make(options.directory, 'ext4', Math.ceil(2.12 * size) + 256 * 2 ** 20)
  const source = join(volume.path, 'source.img')
  const count = makeFragmented(source, join(volume.path, 'filler'), size)
  print(`<!-- ${count} extents -->`)
  const copy = { ...options.paths('fragmented'), source, size }
  const results = await race(copy, contenders(options.qemu10), options.rounds)
  show(results)
  const verdicts: Verdict[] = []
  const [ours] = results
  const theirs = find(results, 'qemu-storage-daemon')
  if (ours && theirs)
    verdicts.push(atMost('fragmented: time over qemu-storage-daemon’s', ratio(ours, theirs), 0.75))
  const calls = await seeks(copy)
  if (calls !== undefined) verdicts.push(atMost('fragmented: lseek calls', calls, 2 + 16))
  rmSync(copy.target, { force: true })
  return verdicts
}

/** lseek calls of one copy, counted by strace; the file is one data extent to SEEK_DATA and SEEK_HOLE. */
async function seeks(copy: Copy): Promise<number | undefined> {
  const log = join(copy.directory, 'strace.log')
  if (spawnSync('strace', ['-V'], { stdio: 'ignore' }).error) return undefined
  const strace = ['strace', '-f', '-c', '-e', 'trace=lseek', '-o', log] as const
  const program = {
    name: 'blockferryd under strace',
    command: () => [...strace, process.execPath, entryFile('blockferryd')] as const,
  }
  makeTarget(copy.target, copy.size)
  await using daemon = await Daemon.start({ directory: copy.directory, program })
  await mirror(daemon.client, copy)
  // By command, not by signal: a signal would end strace and leave what it traces.
  await daemon.client.execute('quit')
  await daemon.running.ended(30_000)
  const line = /\d+\.\d+ +\S+ +\d+ +(\d+) .*lseek$/m.exec(readFileSync(log, 'utf8'))
  if (!line) throw new Error(`no count of lseek in ${log}`)
  return Number(line[1])
}
