// SPDX-License-Identifier: Apache-2.0
// `npm run bench -- saves`: a stopped guest of 3 GiB is saved in every way, one guest for each QEMU, rounds interleaved, caches
// dropped before each save. Meanwhile its monitor is asked every 5 ms. The last file of each way is restored and compared.

import { rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { scheduleFor } from '../../native/process.js'
import type { Guest } from '../helpers/migration/guest.js'
import { stallProbe } from '../helpers/migration/stall-probe.js'
import type { ProbeResult } from '../helpers/probe.js'
import { pace } from '../helpers/waiting.js'
import { rateText, writeRate } from './disk-rate.js'
import { ferrySavers } from './ferry-savers.js'
import { allocated, dropCaches } from './images.js'
import { empty, filled, PAGE, qemus, read, remark, sizeText, verify } from './memory-guest.js'
import type { BenchOptions } from './options.js'
import { atMost, mebibytes, median, print, round, table, type Verdict } from './report.js'
import { type SaveCost, type Saver, savers } from './savers.js'

/** QEMU's default, and the least: what it sends last it sends with its monitor silent. */
const DOWNTIME_LIMITS = [300, 1]
const IDLE_MS = 2000

/** One way of saving one guest. */
interface Entry {
  readonly guest: Guest
  readonly saver: Saver
  readonly downtimeLimit: number
  readonly rounds: Round[]
}

interface Round extends SaveCost {
  readonly stall: ProbeResult
  /** Bytes; undefined when no file is kept. */
  readonly size?: number
  readonly allocated?: number
  /** Whether a guest restored from it found its memory right; undefined when that was not tried. */
  readonly restored?: boolean
}

export async function saves(options: BenchOptions): Promise<Verdict[]> {
  print(`\n## Saving ${sizeText(options)}\n`)
  // What is measured is how long the answer takes, not how long the asker waits for a processor.
  scheduleFor('latency')
  const guests: Guest[] = []
  try {
    for (const qemu of qemus(options)) guests.push(await filled(qemu, options))
    return guests.length > 0 ? await race(guests, options) : []
  } finally {
    for (const guest of guests) await guest.kill()
  }
}

async function race(guests: readonly Guest[], options: BenchOptions): Promise<Verdict[]> {
  const file = join(options.directory, 'saved')
  const entries = guests.flatMap((guest) =>
    savers
      .filter((saver) => saver.can(guest.options.qemu))
      .flatMap((saver) =>
        DOWNTIME_LIMITS.map((downtimeLimit): Entry => ({ guest, saver, downtimeLimit, rounds: [] })),
      ),
  )
  const rates: number[] = []
  const idle = new Map<Guest, ProbeResult[]>(guests.map((guest) => [guest, []]))
  for (let turn = 0; turn < options.rounds; turn++) {
    rates.push(writeRate(options.directory))
    for (const guest of guests) idle.get(guest)?.push(await resting(guest))
    for (const entry of entries) {
      const result = await save(entry, file, turn === options.rounds - 1 ? options : undefined)
      entry.rounds.push(result)
      const { name } = entry.guest.options.qemu
      const figures = `${round(result.seconds)} s, longest stall ${round(result.stall.longest)} ms`
      remark(`${name}, ${entry.saver.name}, ${entry.downtimeLimit} ms, round ${turn + 1}: ${figures}`)
    }
  }
  show(entries, idle, rates)
  return verdicts(entries)
}

/** The monitor of a stopped guest that nobody saves: what the machine itself adds. */
async function resting(guest: Guest): Promise<ProbeResult> {
  const probe = await stallProbe(guest)
  await pace(IDLE_MS)
  return await probe.stop()
}

/** @param restore  the file is restored afterwards, with these options */
async function save(entry: Entry, file: string, restore: BenchOptions | undefined): Promise<Round> {
  const { guest, saver, downtimeLimit } = entry
  // After a migration a guest must have run before it can be saved again.
  await guest.cont()
  await guest.stop()
  rmSync(file, { force: true })
  dropCaches()
  const probe = await stallProbe(guest)
  const cost = await saver.save({ guest, file, downtimeLimit })
  const stall = await probe.stop()
  if (saver.writes === undefined) return { ...cost, stall }
  const result = { ...cost, stall, size: statSync(file).size, allocated: allocated(file) }
  if (!restore) return result
  await using destination = await empty(guest.options.qemu, restore)
  await read(destination, file, saver.writes)
  await verify(destination)
  return { ...result, restored: true }
}

function show(
  entries: readonly Entry[],
  idle: ReadonlyMap<Guest, readonly ProbeResult[]>,
  rates: readonly number[],
): void {
  const disk = median(rates)
  const rows = entries.map((entry) => row(entry, disk))
  for (const [guest, probes] of idle) {
    const longest = probes.map((probe) => round(probe.longest)).join(' ')
    const p99 = round(median(probes.map((probe) => probe.p99)))
    rows.unshift([guest.options.qemu.name, 'idle, no save', '', '', '', '', '', '', '', longest, p99, '', ''])
  }
  print(table(HEAD, rows))
  print(`\n${rateText(rates)}`)
}

const HEAD = [
  ...['QEMU', 'way', 'downtime-limit ms', 'seconds', 'MB/s', 'over the disk’s', 'fdatasync s'],
  ...['QEMU’s own MB/s', 'own socket ms', 'longest stall ms', 'p99 ms', 'file (on disk)', 'restored'],
]

function row({ guest, saver, downtimeLimit, rounds }: Entry, disk: number): string[] {
  const speed = median(rounds.map((each) => (each.pages * PAGE) / each.seconds))
  const last = rounds.at(-1)
  const middle = (of: (each: Round) => number | undefined): string => {
    const values = rounds.flatMap((each) => of(each) ?? [])
    return values.length === 0 ? '' : round(median(values))
  }
  const size =
    last?.size === undefined ? '' : `${mebibytes(last.size)} (${mebibytes(last.allocated ?? Number.NaN)})`
  return [
    ...[guest.options.qemu.name, saver.name, String(downtimeLimit)],
    rounds.map((each) => round(each.seconds)).join(' '),
    ...[round(speed / 1e6), last?.size === undefined ? '' : round(speed / disk)],
    ...[middle((each) => each.flushSeconds), middle((each) => each.mbps && each.mbps / 8)],
    middle((each) => each.control?.longest),
    rounds.map((each) => round(each.stall.longest)).join(' '),
    ...[middle((each) => each.stall.p99), size, last?.restored ? 'yes' : ''],
  ]
}

/** What saving through the daemon must reach, against the fastest of QEMU's own ways in the same round. */
function verdicts(entries: readonly Entry[]): Verdict[] {
  const of = (version: string, saver: Saver, limit: number): readonly Round[] =>
    entries.find(
      (each) =>
        each.guest.options.qemu.version === version && each.saver === saver && each.downtimeLimit === limit,
    )?.rounds ?? []
  const fastest = entries.filter(({ saver }) => saver.fastest)
  const ratio = (rounds: readonly Round[]): number =>
    median(
      rounds.map(
        ({ seconds }, turn) =>
          seconds / Math.min(...fastest.map((each) => each.rounds[turn]?.seconds ?? Number.NaN)),
      ),
    )
  const both = (version: string, saver: Saver): number =>
    Math.min(...DOWNTIME_LIMITS.map((limit) => ratio(of(version, saver, limit))))
  const { plain, multifd } = ferrySavers
  const stalls = of('10', plain, 1).map(({ stall }) => stall.longest)
  const controls = entries.flatMap(({ rounds }) => rounds.flatMap(({ control }) => control?.longest ?? []))
  return [
    atMost('saves: QEMU 10 to us, over its own fastest', both('10', plain), 1),
    atMost('saves: the same of QEMU 7.2', both('7.2', plain), 1.1),
    atMost('saves: multifd 4 over sockets', both('10', multifd), 0.95),
    atMost('saves: QEMU’s longest stall, downtime-limit 1', median(stalls), 20, ' ms'),
    atMost('saves: our control’s longest answer, median', median(controls), 10, ' ms'),
  ].filter(({ value }) => !value.startsWith('NaN'))
}
