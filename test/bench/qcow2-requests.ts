// SPDX-License-Identifier: Apache-2.0
// Reads and writes of 1 MiB, one at a time, past the page cache: what the pool of scattered pieces is for.
// Times are those that the tools print, without their start.

import { entryFile } from '../../daemon/common/entries.js'
import { installed } from '../helpers/program.js'
import type { Copy } from './contenders.js'
import { dropCaches, runTool } from './images.js'
import type { Order } from './qcow2-images.js'
import { atMost, inTurn, median, print, round, table, type Verdict } from './report.js'

const MiB = 2 ** 20
/** Pieces of a request at once, against one after the other; QEMU's number. */
const POOL = 8

interface Racer {
  readonly name: string
  readonly command: readonly [string, ...string[]]
  readonly seconds: number[]
}

/** Interleaved rounds. @returns what must hold for this image */
export async function requests(
  { source, size }: Copy,
  order: Order,
  kind: 'read' | 'write',
  rounds: number,
): Promise<Verdict[]> {
  const shared = ['bench', '-f', 'qcow2', '-t', 'none', '-n', '-d', '1', '-s', '1m', '-c', String(size / MiB)]
  const args = [...shared, ...(kind === 'write' ? ['-w', '--pattern=7'] : []), source]
  const ours = (...option: string[]): Racer => ({
    name: ['blockferry bench', ...option].join(' '),
    command: [process.execPath, entryFile('blockferry'), ...args, ...option],
    seconds: [],
  })
  const [usual, pool, single] = [ours(), ours('--workers', String(POOL)), ours('--workers', '1')]
  const theirs: Racer = { name: 'qemu-img bench', command: ['qemu-img', ...args], seconds: [] }
  const racers = [usual, pool, single, ...(installed('qemu-img') ? [theirs] : [])]
  for (let turn = 0; turn < rounds; turn++) {
    for (const { command, seconds } of inTurn(racers, turn)) {
      dropCaches()
      const [program, ...rest] = command
      seconds.push(secondsIn(runTool(program, rest)))
    }
  }
  print(`\n${kind}s of 1 MiB, depth 1\n`)
  const rows = racers.map(({ name, seconds }) => [
    name,
    seconds.map(round).join(' '),
    round(ratio(usual, { seconds })),
  ])
  print(table(['', 'seconds', 'ours / this'], rows))
  const verdicts =
    theirs.seconds.length === 0
      ? []
      : [atMost(`${order} ${kind}: ours over qemu-img`, ratio(usual, theirs), 1)]
  if (order === 'rand' && kind === 'read')
    verdicts.push(atMost('rand read: pool at 8 over pool at 1', ratio(pool, single), 0.55))
  return verdicts
}

/** Median of the rounds' ratios. */
function ratio(ours: Pick<Racer, 'seconds'>, theirs: Pick<Racer, 'seconds'>): number {
  return median(ours.seconds.map((seconds, turn) => seconds / (theirs.seconds[turn] ?? Number.NaN)))
}

function secondsIn(text: string): number {
  const match = /Run completed in ([\d.]+) seconds/.exec(text)
  if (match === null) throw new Error(`no time in: ${text}`)
  return Number(match[1])
}
