// SPDX-License-Identifier: Apache-2.0
// `npm run bench -- live`: what a guest notices of a mirror of its disk, beside qemu-storage-daemon: how long its durable
// writes take meanwhile, how long it stands still when it goes to the copy, how soon the copy follows it at every write.
// And disks on NBD servers, copied in both directions. Each part has a name of its own, too.

import { GuestClient } from '../helpers/nbd/guest-client.js'
import { pace } from '../helpers/waiting.js'
import { DISK, daemons, fio, type GuestTimes, Served } from './live-parts.js'
import { nbdCopies } from './nbd-copies.js'
import type { BenchOptions } from './options.js'
import { atMost, median, print, round, table, type Verdict } from './report.js'

const GiB = 2 ** 30
const SECONDS = 5
const PIVOTS = 6
/** Largest longest stall of a guest at a pivot, milliseconds. */
const STALL_MS = 100

export async function live(options: BenchOptions): Promise<Verdict[]> {
  const verdicts: Verdict[] = []
  for (const part of [liveLatency, livePivot, liveSynced, nbdCopies]) verdicts.push(...(await part(options)))
  return verdicts
}

const NEVER = new Promise<never>(() => undefined)

const sum = (times: GuestTimes) => times.write99 + times.flush99

/** 4 KiB, each made durable before the next, without a mirror and with one after the other at full speed. */
export async function liveLatency(options: BenchOptions): Promise<Verdict[]> {
  const size = options.size ?? GiB
  print('\n## A guest’s durable writes of 4 KiB during a mirror in the background\n')
  const results = daemons(options).map(({ name }) => ({
    name,
    ...{ alone: [] as GuestTimes[], meanwhile: [] as GuestTimes[] },
    ...{ rates: [] as number[], beside: [] as number[] },
  }))
  for (let turn = 0; turn < options.rounds; turn++)
    for (const [index, { name, program }] of daemons(options).entries()) {
      await using served = await Served.start(name, program, options.directory, size)
      const guest = () =>
        fio(served.uri, size, ['--bs=4k', '--fsync=1', '--time_based', `--runtime=${SECONDS}`])
      results[index]?.alone.push(await guest())
      results[index]?.rates.push(await mirrorOnce(served, size))
      const during = guest()
      results[index]?.beside.push(await mirrorUntil(served, size, during))
      results[index]?.meanwhile.push(await during)
    }
  const rows = results.map(({ name, alone, meanwhile, rates, beside }) => [
    name,
    ...[alone, meanwhile].flatMap((all) => [
      all.map(({ write99 }) => round(write99)).join(' '),
      all.map(({ flush99 }) => round(flush99)).join(' '),
      all.map(({ perSecond }) => perSecond.toFixed(0)).join(' '),
    ]),
    ...[rates, beside].map((all) => all.map((rate) => rate.toFixed(0)).join(' ')),
  ])
  const head = ['write p99, ms', 'flush p99, ms', 'writes/s']
  const mirrors = ['mirror alone, MiB/s', 'with the guest']
  print(table(['', ...head, ...head.map((each) => `mirrored: ${each}`), ...mirrors], rows))
  const [ours, theirs] = results.map((each) => ({
    alone: median(each.alone.map(sum)),
    meanwhile: median(each.meanwhile.map(sum)),
  }))
  if (ours === undefined || theirs === undefined) return []
  return [
    atMost('live: p99 of a durable write during a mirror over without', ours.meanwhile / ours.alone, 2),
    atMost('live: p99 during a mirror over qemu-storage-daemon’s', ours.meanwhile / theirs.meanwhile, 1),
  ]
}

/** A mirror until it is ready. @returns MiB per second, of what has come when it is given up */
async function mirrorOnce(served: Served, size: number, until: Promise<unknown> = NEVER): Promise<number> {
  const from = performance.now()
  await served.mirror('d0', 'd1')
  await Promise.race([served.client.event('BLOCK_JOB_READY', () => true, 600_000), until])
  const seconds = (performance.now() - from) / 1000
  const [job] = (await served.client.execute('query-block-jobs')) as { ready: boolean; offset: number }[]
  await served.client.execute('job-cancel', { id: 'j' })
  await served.client.status('j', 'null')
  return Math.min(size, job?.offset ?? 0) / seconds / 2 ** 20
}

/** One mirror after the other until the guest ends. @returns MiB per second, the median of those that got ready if any did */
async function mirrorUntil(served: Served, size: number, guest: Promise<unknown>): Promise<number> {
  let ended = false
  const rates: number[] = []
  const end = guest.finally(() => {
    ended = true
  })
  end.catch(() => undefined)
  while (!ended) {
    const rate = await mirrorOnce(served, size, end)
    if (!ended || rates.length === 0) rates.push(rate)
  }
  return median(rates)
}

/** A guest that writes all the time goes to the copy and back. */
export async function livePivot(options: BenchOptions): Promise<Verdict[]> {
  print('\n## The longest write of a guest while it goes to the copy of its disk, ms\n')
  const size = Math.min(options.size ?? GiB, GiB)
  const rows: string[][] = []
  const longest: number[] = []
  for (const { name, program } of daemons(options)) {
    await using served = await Served.start(name, program, options.directory, size)
    const stalls = await pivots(served, size)
    longest.push(Math.max(...stalls))
    rows.push([name, stalls.map(round).join(' ')])
  }
  print(table(['', `${PIVOTS} pivots`], rows))
  return [
    atMost('live: longest write at a pivot', longest[0] ?? Number.NaN, STALL_MS, ' ms'),
    atMost(
      'live: longest write at a pivot over qemu-storage-daemon’s',
      (longest[0] ?? 0) / (longest[1] ?? 0),
      1,
    ),
  ]
}

async function pivots(served: Served, size: number): Promise<number[]> {
  const { client } = served
  const connection = await GuestClient.connect(served.socket, DISK)
  let [running, longest] = [true, 0]
  const write = async () => {
    for (const block = Buffer.alloc(4096, 1); running; ) {
      const from = performance.now()
      await connection.write(4096 * Math.floor((Math.random() * size) / 4096), block)
      longest = Math.max(longest, performance.now() - from)
    }
  }
  const writers = Promise.all([write(), write(), write(), write()])
  const stalls: number[] = []
  for (let turn = 0; turn < PIVOTS; turn++) {
    await served.mirror(`d${turn % 2}`, `d${(turn + 1) % 2}`)
    await Promise.race([client.event('BLOCK_JOB_READY', () => true, 600_000), writers])
    longest = 0
    await client.execute('job-complete', { id: 'j' })
    await Promise.race([client.status('j', 'null'), writers])
    stalls.push(longest)
  }
  running = false
  await writers
  connection.end()
  return stalls
}

/** From the start of a mirror with write-blocking until it says that it follows every write. */
export async function liveSynced(options: BenchOptions): Promise<Verdict[]> {
  print('\n## Seconds until actively synced, with a guest that writes 64 KiB, 8 at once\n')
  const size = options.size ?? GiB
  const results = daemons(options).map(({ name }) => ({ name, seconds: [] as number[] }))
  for (let turn = 0; turn < options.rounds; turn++)
    for (const [index, { name, program }] of daemons(options).entries()) {
      await using served = await Served.start(name, program, options.directory, size)
      results[index]?.seconds.push(await secondsUntilSynced(served, size))
    }
  print(
    table(
      ['', 'seconds'],
      results.map(({ name, seconds }) => [name, seconds.map(round).join(' ')]),
    ),
  )
  const [ours, theirs] = results
  const ratios = ours?.seconds.map((each, turn) => each / (theirs?.seconds[turn] ?? Number.NaN)) ?? []
  return [atMost('live: time until actively synced over qemu-storage-daemon’s', median(ratios), 1)]
}

async function secondsUntilSynced(served: Served, size: number): Promise<number> {
  // Longer than it takes; it ends when its server does.
  const guest = fio(served.uri, size, ['--bs=64k', '--iodepth=8', '--time_based', '--runtime=60'])
  guest.catch(() => undefined)
  await pace(1000)
  const from = performance.now()
  await served.mirror('d0', 'd1', { 'copy-mode': 'write-blocking' })
  for (;;) {
    const [job] = (await served.client.execute('query-block-jobs')) as { 'actively-synced': boolean }[]
    if (job?.['actively-synced'] === true) break
    await pace(20)
  }
  const seconds = (performance.now() - from) / 1000
  await served.client.execute('job-cancel', { id: 'j' })
  await served.client.status('j', 'null')
  return seconds
}
