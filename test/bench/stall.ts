// SPDX-License-Identifier: Apache-2.0
// Every call on the images' file system takes 1.5 s, one kind after the other, while a client asks every 2 ms and another
// disk's job goes on. From before blockdev-add to after blockdev-del.

import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { scheduleFor } from '../../native/process.js'
import { Daemon } from '../helpers/daemon.js'
import { Probe, type ProbeResult } from '../helpers/probe.js'
import { blockferryd, type Program, storageDaemon } from '../helpers/program.js'
import type { QmpClient } from '../helpers/qmp-client.js'
import { SlowFs, type SlowOp, slowfsAbsent } from '../helpers/slowfs.js'
import { deadline } from '../helpers/waiting.js'
import { Echo } from './echo.js'
import { makeDense, makeTarget } from './images.js'
import type { BenchOptions } from './options.js'
import { atLeast, atMost, median, print, round, table, type Verdict } from './report.js'

const MiB = 2 ** 20
const DELAY_MS = 1500
/** A job that meets many slow calls is cancelled after so long; the cancel is part of the exam. */
const PATIENCE_MS = 12_000
/** A kind of call that a mirror seldom makes is examined through several mirrors, for enough answers. */
const LEAST_MS = 4000
const OPS: readonly SlowOp[] = [
  ...(['open', 'lseek', 'fsync', 'fallocate', 'truncate', 'getattr', 'read', 'write', 'release'] as const),
]

interface Row extends ProbeResult {
  readonly op: SlowOp
  /** The same of a server that does nothing else: the machine's own delays. */
  readonly floor: ProbeResult
  /** Speed of the other disk's job, bytes a second. */
  readonly other: number
}

export async function stall(options: BenchOptions): Promise<Verdict[]> {
  print(`\n## Control while each call takes ${DELAY_MS} ms\n`)
  const absent = slowfsAbsent()
  if (absent !== false) throw new Error(absent)
  // What is measured is how long the answer takes, not how long the asker waits for a processor.
  scheduleFor('latency')
  const slow = await SlowFs.mount(options.directory)
  const other = {
    source: join(options.directory, 'other.img'),
    target: join(options.directory, 'other.copy'),
  }
  try {
    makeDense(join(slow.files, 'source.img'), 16 * MiB)
    makeDense(other.source, options.size ?? 512 * MiB)
    const ours = await examine(blockferryd, slow, options, other)
    print(show('blockferryd', ours))
    if (options.names.includes('peers')) {
      const theirs = await examine(storageDaemon(options.qemu10), slow, options, other)
      print(`\n${show('qemu-storage-daemon', theirs)}`)
    }
    return verdicts(ours)
  } finally {
    await slow.unmount()
    for (const path of Object.values(other)) rmSync(path, { force: true })
  }
}

interface Exam {
  readonly rows: readonly Row[]
  /** Speeds of the other disk's job alone, bytes a second. */
  readonly alone: readonly number[]
}

async function examine(
  program: Program,
  slow: SlowFs,
  options: BenchOptions,
  other: { source: string; target: string },
): Promise<Exam> {
  await using daemon = await Daemon.start({ directory: options.directory, program })
  const bystander = await daemon.connect('2')
  await addNode(bystander, 'other', other.source, true)
  makeTarget(other.target, options.size ?? 512 * MiB)
  await addNode(bystander, 'other-copy', other.target, true)
  await using echo = await Echo.start(join(options.directory, 'echo.sock'))
  const rows: Row[] = []
  const alone: number[] = []
  for (const op of OPS) {
    alone.push(await steadySpeed(bystander, () => false))
    slow.rules({ op, delayMs: DELAY_MS })
    const probe = await Probe.start(`${daemon.socket}1`)
    const floor = await Probe.start(echo.socket)
    let over = false
    const speed = steadySpeed(bystander, () => !over)
    const start = performance.now()
    do {
      makeTarget(join(slow.files, 'target.img'), 16 * MiB)
      await session(daemon.client, slow.mount)
    } while (performance.now() - start < LEAST_MS)
    over = true
    const result = await probe.stop()
    const noise = await floor.stop()
    slow.rules()
    rows.push({ op, ...result, floor: noise, other: await speed })
  }
  return { rows, alone }
}

/** One disk's life on the slow file system: every step may take long, none may hold up others. */
async function session(client: QmpClient, folder: string): Promise<void> {
  await addNode(client, 'source', join(folder, 'source.img'), false)
  await addNode(client, 'target', join(folder, 'target.img'), false)
  await client.execute('blockdev-mirror', {
    'job-id': 'slow',
    device: 'source',
    target: 'target',
    sync: 'full',
  })
  using patience = deadline(PATIENCE_MS)
  const ready = client.event('BLOCK_JOB_READY', (data) => data.device === 'slow', 600_000)
  ready.catch(() => undefined)
  await Promise.race([ready, patience.end])
  // Ready or not: a ready job ends as a consistent copy, another one is cancelled.
  await client.execute('block-job-cancel', { device: 'slow' })
  await client.status('slow', 'null', 300_000)
  for (const name of ['source', 'target']) await client.execute('blockdev-del', { 'node-name': name })
  client.events.length = 0
}

async function addNode(client: QmpClient, name: string, filename: string, direct: boolean): Promise<void> {
  const file = { driver: 'file', filename, cache: { direct } }
  await client.execute('blockdev-add', { driver: 'raw', 'node-name': name, file })
}

/** Copies the other disk again and again, at least three times and while `on` holds. @returns median bytes a second */
async function steadySpeed(client: QmpClient, on: () => boolean): Promise<number> {
  const speeds: number[] = []
  do {
    const start = performance.now()
    await client.execute('blockdev-mirror', {
      ...{ 'job-id': 'other', device: 'other', target: 'other-copy', sync: 'full' },
    })
    const ready = await client.event('BLOCK_JOB_READY', (data) => data.device === 'other', 600_000)
    speeds.push(Number(ready.data.len) / ((performance.now() - start) / 1000))
    await client.execute('job-cancel', { id: 'other' })
    await client.status('other', 'null')
    client.events.length = 0
  } while (on() || speeds.length < 3)
  return median(speeds)
}

function show(name: string, { rows, alone }: Exam): string {
  const head = [name, 'answers', 'longest ms', 'p99 ms', 'machine’s longest, p99', 'other disk’s job, MiB/s']
  const lines = rows.map((row) => [
    ...[row.op, String(row.answers), round(row.longest), round(row.p99)],
    ...[`${round(row.floor.longest)}, ${round(row.floor.p99)}`, round(row.other / MiB)],
  ])
  lines.push(['alone', '', '', '', '', round(median(alone) / MiB)])
  return table(head, lines)
}

function verdicts({ rows, alone }: Exam): Verdict[] {
  return [
    atMost('stall: longest answer', Math.max(...rows.map((row) => row.longest)), 10, ' ms'),
    atMost('stall: p99 of the worst kind', Math.max(...rows.map((row) => row.p99)), 1, ' ms'),
    atLeast(
      'stall: other disk’s speed over alone',
      median(rows.map((row) => row.other)) / median(alone),
      0.9,
    ),
  ]
}
