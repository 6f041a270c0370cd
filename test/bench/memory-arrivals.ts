// SPDX-License-Identifier: Apache-2.0
// `npm run bench -- arrivals`: a guest's stream in the page cache goes to the daemon as fast as one process can send it and is
// read and thrown away, in turns with a reader that does nothing else; once more while control is asked all the time, which takes
// of the same processors. And a flush of 30 s, while control is asked.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createReadStream, readFileSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { scheduleFor } from '../../native/process.js'
import { Daemon } from '../helpers/daemon.js'
import { fixturesFolder } from '../helpers/migration/fixtures.js'
import { MemoryJob } from '../helpers/migration/memory-job.js'
import { Probe, type ProbeResult } from '../helpers/probe.js'
import { installed } from '../helpers/program.js'
import { isRecord } from '../helpers/qmp-client.js'
import { SlowFs, slowfsAbsent } from '../helpers/slowfs.js'
import { pace } from '../helpers/waiting.js'
import { settled } from './ferry-savers.js'
import { filled, qemus, sizeText } from './memory-guest.js'
import type { BenchOptions } from './options.js'
import { atLeast, atMost, median, print, round, table, type Verdict } from './report.js'
import { discard, savers } from './savers.js'

const FLUSH_MS = 30_000
const SMALL_STREAM = new URL('q10-pc-q35-10.0-live.stream.gz', fixturesFolder)

interface Arrival {
  readonly seconds: number
  /** Of processor time that the daemon used. */
  readonly cpu: number
}

interface Watched extends Arrival {
  readonly control: ProbeResult
}

export async function arrivals(options: BenchOptions): Promise<Verdict[]> {
  print(`\n## A stream that arrives: ${sizeText(options)}\n`)
  scheduleFor('latency')
  const stream = join(options.directory, 'stream')
  const [qemu] = qemus(options)
  if (qemu === undefined || !installed('socat', '-V')) return []
  await write(stream, options)
  const socket = join(options.directory, 'arrival')
  const size = statSync(stream).size
  const ours: Arrival[] = []
  const watched: Watched[] = []
  const theirs: number[] = []
  for (let turn = 0; turn < options.rounds; turn++) {
    theirs.push(await thrownAway(stream, socket))
    ours.push(await parsed(stream, socket, options))
    watched.push(await parsedWatched(stream, socket, options))
  }
  rmSync(stream)
  const rate = (seconds: readonly number[]): string =>
    seconds.map((each) => round(size / each / 1e9)).join(' ')
  const row = (name: string, arrivals: readonly Arrival[]): string[] => [
    name,
    rate(arrivals.map(({ seconds }) => seconds)),
    rate(arrivals.map(({ cpu }) => cpu)),
  ]
  const answers = (what: 'longest' | 'p99') => watched.map(({ control }) => round(control[what])).join(' ')
  print(
    table(
      ['reader', 'GB/s', 'GB a second of its processor', 'longest answer ms', 'p99 ms'],
      [
        ['socat', rate(theirs), '', '', ''],
        [...row('blockferry, null', ours), '', ''],
        [...row('the same, control asked', watched), answers('longest'), answers('p99')],
      ],
    ),
  )
  const ratio = median(ours.map(({ seconds }, turn) => (theirs[turn] ?? Number.NaN) / seconds))
  return [
    atLeast(
      'arrivals: thrown away',
      size / median(ours.map(({ cpu }) => cpu)) / 1e9,
      2.5,
      ' GB/s of one core',
    ),
    atLeast('arrivals: thrown away, over socat’s', ratio, 0.8),
    atMost(
      'arrivals: longest answer meanwhile',
      median(watched.map(({ control }) => control.longest)),
      10,
      ' ms',
    ),
    ...(await longFlush(options)),
  ]
}

async function write(stream: string, options: BenchOptions): Promise<void> {
  const [qemu] = qemus(options)
  const saver = savers.find((each) => qemu !== undefined && each.can(qemu) && each.writes === 'stream')
  if (qemu === undefined || saver === undefined) throw new Error('nothing writes a stream')
  await using guest = await filled(qemu, options)
  await saver.save({ guest, file: stream, downtimeLimit: 1 })
  for await (const _ of createReadStream(stream, { highWaterMark: 2 ** 22 }));
}

/** Sends it all. @returns seconds */
async function send(stream: string, socket: string): Promise<number> {
  const args = ['-u', '-b', String(2 ** 20), `OPEN:${stream},rdonly`, `UNIX-CONNECT:${socket}`]
  const begun = performance.now()
  const child = spawn('socat', args, { stdio: 'ignore' })
  const [status] = await once(child, 'exit')
  if (status !== 0) throw new Error(`socat ended with ${status}`)
  return (performance.now() - begun) / 1000
}

async function thrownAway(stream: string, socket: string): Promise<number> {
  await using _reader = await discard(socket)
  return await send(stream, socket)
}

async function parsed(stream: string, socket: string, { directory }: BenchOptions): Promise<Arrival> {
  await using daemon = await settled(directory)
  return await arrived(daemon, stream, socket)
}

async function parsedWatched(stream: string, socket: string, { directory }: BenchOptions): Promise<Watched> {
  await using daemon = await settled(directory)
  const probe = await Probe.start(`${daemon.socket}1`)
  try {
    const arrival = await arrived(daemon, stream, socket)
    return { ...arrival, control: await probe.stop() }
  } catch (error) {
    await probe.stop()
    throw error
  }
}

async function arrived(daemon: Daemon, stream: string, socket: string): Promise<Arrival> {
  const args = { source: `unix:${socket}`, format: 'null' }
  const job = await MemoryJob.start(daemon.client, 'x-memory-save', args)
  const before = daemon.cpu()
  const begun = performance.now()
  const [, failure] = await Promise.all([send(stream, socket), job.ended()])
  const seconds = (performance.now() - begun) / 1000
  const after = daemon.cpu()
  if (failure !== undefined) throw new Error(failure)
  return { seconds, cpu: after.user + after.system - before.user - before.system }
}

/** A small stream whose file takes half a minute to flush. */
async function longFlush(options: BenchOptions): Promise<Verdict[]> {
  const absent = slowfsAbsent()
  if (absent !== false) {
    print(`<!-- ${absent} -->`)
    return []
  }
  const { directory } = options
  const slow = await SlowFs.mount(directory)
  try {
    await using daemon = await Daemon.start({ directory })
    slow.rules({ op: 'fsync', delayMs: FLUSH_MS })
    const socket = join(directory, 'flushed')
    const args = { source: `unix:${socket}`, format: 'mapped-ram', target: join(slow.mount, 'saved') }
    const job = await MemoryJob.start(daemon.client, 'x-memory-save', args)
    const child = spawn('socat', ['-u', '-', `UNIX-CONNECT:${socket}`], {
      stdio: ['pipe', 'ignore', 'ignore'],
    })
    child.stdin.end(gunzipSync(readFileSync(SMALL_STREAM)))
    const probe = await Probe.start(`${daemon.socket}1`)
    const concluded = job.ended()
    const ages: number[] = []
    let over = false
    void concluded.then(() => {
      over = true
    })
    while (!over) {
      const phases = await job.info().then(
        (info) => info['x-phases'],
        () => undefined,
      )
      const age = isRecord(phases) ? phases['flush-age-ms'] : undefined
      if (age !== undefined) ages.push(Number(age))
      await pace(250)
    }
    const failure = await concluded
    if (failure !== undefined) throw new Error(failure)
    const { longest, answers } = await probe.stop()
    print(`\nA flush of ${FLUSH_MS / 1000} s: ${answers} answers, longest ${round(longest)} ms.`)
    return [
      atMost('arrivals: longest answer while a flush takes 30 s', longest, 10, ' ms'),
      atLeast(
        'arrivals: age of that flush as query-migrate told it',
        Math.max(...ages) / 1000,
        FLUSH_MS / 1000 - 1,
        ' s',
      ),
    ]
  } finally {
    await slow.unmount()
  }
}
