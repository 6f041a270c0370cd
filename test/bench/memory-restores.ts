// SPDX-License-Identifier: Apache-2.0
// `npm run bench -- restores`: a guest of 3 GiB is restored in every way, from files in the page cache and not, rounds
// interleaved. Meanwhile the monitor of its QEMU is asked every 5 ms. In the last round its memory is compared.

import { createReadStream, rmSync } from 'node:fs'
import { join } from 'node:path'
import { scheduleFor } from '../../native/process.js'
import type { QemuSystem } from '../helpers/migration/qemu-system.js'
import { stallProbe } from '../helpers/migration/stall-probe.js'
import type { ProbeResult } from '../helpers/probe.js'
import { rateText, readRate } from './disk-rate.js'
import { ferryRestorers } from './ferry-restorers.js'
import { dropCaches } from './images.js'
import { empty, filled, type MemoryFormat, PAGE, qemus, remark, sizeText, verify } from './memory-guest.js'
import type { BenchOptions } from './options.js'
import { atLeast, atMost, median, print, round, table, type Verdict } from './report.js'
import { type RestoreCost, type Restorer, restorers } from './restorers.js'
import { savers } from './savers.js'

/** Memory files of one QEMU's guest. */
interface Saved {
  readonly qemu: QemuSystem
  /** Bytes of pages with data. */
  readonly data: number
  file(format: MemoryFormat): string
}

/** One way of restoring one guest. */
interface Entry {
  readonly saved: Saved
  readonly restorer: Restorer
  readonly warm: boolean
  readonly rounds: Round[]
}

interface Round extends RestoreCost {
  readonly silence: ProbeResult
  /** Whether the guest found its memory right; undefined when it was not asked. */
  readonly right?: boolean
}

export async function restores(options: BenchOptions): Promise<Verdict[]> {
  print(`\n## Restoring ${sizeText(options)}\n`)
  scheduleFor('latency')
  const all: Saved[] = []
  for (const qemu of qemus(options)) all.push(await prepare(qemu, options))
  const newest = all.at(-1)
  if (!newest) return []
  const entries = all.flatMap((saved) =>
    restorers
      .filter((restorer) => restorer.can(saved.qemu))
      .flatMap((restorer) => [false, true].map((warm): Entry => ({ saved, restorer, warm, rounds: [] }))),
  )
  const rates: number[] = []
  for (let turn = 0; turn < options.rounds; turn++) {
    dropCaches()
    rates.push(readRate(newest.file('stream')))
    for (const entry of entries) {
      const result = await restore(entry, options, turn === options.rounds - 1)
      entry.rounds.push(result)
      const caches = entry.warm ? 'warm' : 'cold'
      const figures = `${round(result.seconds)} s, longest silence ${round(result.silence.longest)} ms`
      remark(`${entry.saved.qemu.name}, ${entry.restorer.name}, ${caches}, round ${turn + 1}: ${figures}`)
    }
  }
  show(entries, rates)
  for (const saved of all)
    for (const format of ['stream', 'mapped-ram'] as const) rmSync(saved.file(format), { force: true })
  return verdicts(entries)
}

/** Saves a guest in each format that its QEMU writes. */
async function prepare(qemu: QemuSystem, options: BenchOptions): Promise<Saved> {
  await using guest = await filled(qemu, options)
  const file = (format: MemoryFormat): string => join(options.directory, `${format}-${qemu.version}`)
  let pages = 0
  for (const format of ['stream', 'mapped-ram'] as const) {
    const saver = savers.find((each) => each.can(qemu) && each.writes === format)
    if (!saver) continue
    const cost = await saver.save({ guest, file: file(format), downtimeLimit: 1 })
    pages = cost.pages
    // A virtual disk's host has a cache of its own, which the first cold read would not find filled.
    dropCaches()
    await readThrough(file(format))
    await guest.cont()
    await guest.stop()
  }
  return { qemu, data: pages * PAGE, file }
}

async function readThrough(file: string): Promise<void> {
  for await (const _ of createReadStream(file, { highWaterMark: 2 ** 22 }));
}

async function restore(
  { saved, restorer, warm }: Entry,
  options: BenchOptions,
  compare: boolean,
): Promise<Round> {
  const file = saved.file(restorer.reads)
  await using guest = await empty(saved.qemu, options)
  dropCaches()
  if (warm) await readThrough(file)
  const probe = await stallProbe(guest)
  const cost = await restorer.restore({ guest, file })
  const silence = await probe.stop()
  if (!compare) return { ...cost, silence }
  await verify(guest)
  return { ...cost, silence, right: true }
}

function show(entries: readonly Entry[], rates: readonly number[]): void {
  const disk = median(rates)
  print(
    table(
      HEAD,
      entries.map((entry) => row(entry, disk)),
    ),
  )
  print(`\n${rateText(rates)}`)
}

const HEAD = [
  ...['QEMU', 'way', 'page cache', 'seconds', 'MB/s', 'over the disk’s', 'own socket ms'],
  ...['longest silence ms', 'p99 ms', 'memory right'],
]

function row({ saved, restorer, warm, rounds }: Entry, disk: number): string[] {
  const speed = median(rounds.map((each) => saved.data / each.seconds))
  const control = rounds.flatMap((each) => each.control?.longest ?? [])
  return [
    ...[saved.qemu.name, restorer.name, warm ? 'warm' : 'cold'],
    rounds.map((each) => round(each.seconds)).join(' '),
    ...[round(speed / 1e6), warm ? '' : round(speed / disk)],
    control.length === 0 ? '' : round(Math.max(...control)),
    rounds.map((each) => round(each.silence.longest)).join(' '),
    round(median(rounds.map((each) => each.silence.p99))),
    rounds.at(-1)?.right ? 'yes' : '',
  ]
}

/** Ways of ours that are held against QEMU's own. */
const JUDGED: readonly Restorer[] = [ferryRestorers.mapped, ferryRestorers.mappedMultifd]

/** What restoring through the daemon must reach, against QEMU that reads the file itself in the same round. */
function verdicts(entries: readonly Entry[]): Verdict[] {
  return entries
    .filter(({ restorer }) => JUDGED.includes(restorer))
    .flatMap(({ saved, restorer, warm, rounds }) => {
      const own = entries.find(
        (each) =>
          each.saved === saved && each.warm === warm && each.restorer.reads === 'stream' && each.restorer.own,
      )
      const speeds = rounds.map(({ seconds }, turn) => (own?.rounds[turn]?.seconds ?? Number.NaN) / seconds)
      const what = `restores: ${saved.qemu.name}, ${restorer.name}, ${warm ? 'warm' : 'cold'}, over its own`
      const control = rounds.flatMap((each) => each.control?.longest ?? [])
      return [
        atLeast(what, median(speeds), 0.95),
        atMost('restores: our control’s longest answer, median', median(control), 10, ' ms'),
      ]
    })
}
