// SPDX-License-Identifier: Apache-2.0
// Copies from qcow2 to raw, from raw to a new qcow2, and into compressed clusters. After each copy the content is
// compared by qemu-img, and a qcow2 target must be without errors and leaks.

import { rmSync } from 'node:fs'
import { cpus } from 'node:os'
import { entryFile } from '../../daemon/common/entries.js'
import { installed } from '../helpers/program.js'
import { type Contender, type Copy, contenders, timed } from './contenders.js'
import { find, type Result, race, ratio, show } from './copies.js'
import { makeDense, runTool } from './images.js'
import type { BenchOptions } from './options.js'
import { makeCompressible, type Order } from './qcow2-images.js'
import { atMost, mebibytes, print, type Verdict } from './report.js'

const GiB = 2 ** 30
const peers = ['qemu-storage-daemon', 'qemu-img'] as const

/** @throws Error unless both hold the same and a qcow2 target is clean */
function verify({ source, target, sourceFormat = 'raw', targetFormat = 'raw' }: Copy): void {
  runTool('qemu-img', ['compare', '-q', '-f', sourceFormat, '-F', targetFormat, source, target])
  if (targetFormat === 'qcow2') runTool('qemu-img', ['check', '-q', target])
}

function racers(options: BenchOptions): Contender[] {
  return contenders(options.qemu10).filter(({ name }) => name !== 'dd')
}

/** Our time over that of the faster peer; undefined without peers. */
function overFaster(results: readonly Result[]): number | undefined {
  const [ours] = results
  const ratios = peers.flatMap((part) => {
    const theirs = find(results, part)
    return ours === undefined || theirs === undefined ? [] : [ratio(ours, theirs)]
  })
  return ratios.length === 0 ? undefined : Math.max(...ratios)
}

/** One of the ordered images to a raw file. */
export async function toRaw(copy: Copy, order: Order, options: BenchOptions): Promise<Verdict[]> {
  print('\nmirror to raw\n')
  const results = await race(copy, racers(options), options.rounds, verify)
  show(results)
  const value = overFaster(results)
  const limit = order === 'rand' || order === 'part-rand' ? 0.8 : 0.85
  return value === undefined ? [] : [atMost(`${order} to raw: time over the faster peer’s`, value, limit)]
}

/** Random raw data into a new image. */
export async function toQcow2(options: BenchOptions): Promise<Verdict[]> {
  const size = options.size ?? 4 * GiB
  const copy = { ...options.paths('raw-to-qcow2'), size, targetFormat: 'qcow2' } as const
  print(`\n## ${mebibytes(size)} random raw → new qcow2\n`)
  makeDense(copy.source, size)
  const results = await race(copy, racers(options), options.rounds, verify)
  rmSync(copy.source)
  show(results)
  const value = overFaster(results)
  return value === undefined ? [] : [atMost('raw to qcow2: time over the faster peer’s', value, 0.85)]
}

/** qcow2 into compressed clusters by both methods, on as many CPUs as there are. */
export async function compressed(options: BenchOptions): Promise<Verdict[]> {
  const size = options.size ?? 4 * GiB
  const paths = options.paths('compressed')
  const copy = { ...paths, size, sourceFormat: 'qcow2', targetFormat: 'qcow2' } as const
  const raw = `${copy.source}.raw`
  makeCompressible(raw, size)
  runTool('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, copy.source])
  rmSync(raw)
  const verdicts: Verdict[] = []
  for (const method of ['zlib', 'zstd']) {
    print(`\n## ${mebibytes(size)} qcow2 → compressed qcow2 (${method}), ${cpus().length} CPUs\n`)
    const results = await race(copy, compressors(method), options.rounds, verify)
    show(results)
    const [ours, theirs] = results
    if (ours === undefined || theirs === undefined) continue
    const difference = Math.abs(ours.allocated / theirs.allocated - 1)
    verdicts.push(atMost(`${method}: time over qemu-img’s`, ratio(ours, theirs), 1))
    verdicts.push(atMost(`${method}: difference in size`, 100 * difference, 2, ' %'))
  }
  rmSync(copy.source)
  return verdicts
}

function compressors(method: string): Contender[] {
  const convert = (name: string, program: readonly string[], more: readonly string[]): Contender => ({
    name,
    copy: async ({ source, target }) => {
      const formats = ['-c', '-f', 'qcow2', '-O', 'qcow2', '-o', `compression_type=${method}`]
      rmSync(target, { force: true })
      return await timed([...program, 'convert', ...formats, ...more, source, target])
    },
  })
  const ours = [process.execPath, entryFile('blockferry')]
  return [
    convert('blockferry convert', ours, []),
    ...(installed('qemu-img') ? [convert('qemu-img convert', ['qemu-img'], ['-W', '-m', '16'])] : []),
  ]
}
