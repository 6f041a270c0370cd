// SPDX-License-Identifier: Apache-2.0
// Random starts, pauses, resumes, cancels and completions of eight jobs for a long time; in the end nothing may be left.

import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { Daemon } from '../helpers/daemon.js'
import { type QmpClient, QmpError } from '../helpers/qmp-client.js'
import { pace } from '../helpers/waiting.js'
import { generator, makeDense, makeTarget } from './images.js'
import type { BenchOptions } from './options.js'
import { atMost, print, type Verdict } from './report.js'

const MiB = 2 ** 20
const JOBS = 8
const SIZE = 32 * MiB

export async function soak(options: BenchOptions): Promise<Verdict[]> {
  const seed = Date.now() % 1_000_000
  print(`\n## Soak, ${options.seconds} s of ${JOBS} jobs, seed ${seed}\n`)
  const images = Array.from({ length: JOBS }, (_, n) => ({
    source: join(options.directory, `soak${n}.img`),
    target: join(options.directory, `soak${n}.copy`),
  }))
  for (const { source } of images) makeDense(source, SIZE)
  await using daemon = await Daemon.start({ directory: options.directory })
  // One turn of everything first, so that what is kept for good is there before counting.
  await turns(daemon, images, generator(seed), Math.min(60_000, options.seconds * 500))
  const before = await settled(daemon)
  await turns(daemon, images, generator(seed + 1), options.seconds * 1000)
  const after = await settled(daemon)
  for (const { source, target } of images) for (const path of [source, target]) rmSync(path, { force: true })
  print(
    `<!-- RSS ${before.rss / MiB} → ${after.rss / MiB} MiB, threads ${before.threads} → ${after.threads} -->`,
  )
  return [
    atMost('soak: descriptors left', after.descriptors - before.descriptors, 0),
    atMost('soak: threads left', after.threads - before.threads, 0),
    atMost('soak: RSS grown', (after.rss - before.rss) / MiB, 16, ' MiB'),
  ]
}

type Images = readonly { readonly source: string; readonly target: string }[]

/** Every disk lives on its own until the time is over. */
async function turns(daemon: Daemon, images: Images, random: () => number, forMs: number): Promise<void> {
  const end = Date.now() + forMs
  const lives = images.map(async ({ source, target }, n) => {
    const client = await daemon.connect()
    while (Date.now() < end) await life(client, `job${n}`, source, target, random)
    client.close()
  })
  await Promise.all(lives)
}

async function life(
  client: QmpClient,
  id: string,
  source: string,
  target: string,
  random: () => number,
): Promise<void> {
  makeTarget(target, SIZE)
  const names = { source: `${id}-source`, target: `${id}-target` }
  const direct = random() < 0.5
  for (const [name, filename] of [
    [names.source, source],
    [names.target, target],
  ] as const) {
    const file = { driver: 'file', filename, cache: { direct } }
    await client.execute('blockdev-add', { driver: 'raw', 'node-name': name, file })
  }
  const speed = random() < 0.5 ? 0 : Math.floor(64 * MiB * random()) + MiB
  await client.execute('blockdev-mirror', {
    ...{ 'job-id': id, device: names.source, target: names.target, sync: 'full', speed },
  })
  const over = client.status(id, 'null', 600_000)
  let ended = false
  const watch = over.then(() => {
    ended = true
  })
  while (!ended) {
    await verb(client, id, random())
    await Promise.race([pace(random() * 30), watch])
  }
  for (const name of Object.values(names)) await client.execute('blockdev-del', { 'node-name': name })
  client.events.length = 0
}

/** A verb at random; one that the job's state refuses is no fault. */
async function verb(client: QmpClient, id: string, choice: number): Promise<void> {
  const verbs = [
    'job-pause',
    'job-resume',
    'job-resume',
    'job-complete',
    'job-complete',
    'job-cancel',
  ] as const
  const name = verbs[Math.floor(choice * verbs.length)] ?? 'job-resume'
  try {
    await client.execute(name, { id })
  } catch (error) {
    if (!(error instanceof QmpError)) throw error
  }
}

interface Standing {
  readonly descriptors: number
  readonly threads: number
  readonly rss: number
}

/** Rounds of 200 ms without a change: longer than a spare worker is kept. */
const STILL = 20

/** Counts once they stand still: workers that were told to end, and spare ones, are gone. */
async function settled(daemon: Daemon): Promise<Standing> {
  const count = (): Standing => ({
    descriptors: daemon.descriptors().length,
    threads: daemon.threads(),
    rss: daemon.memory().rss,
  })
  let last = count()
  for (let same = 0, tries = 0; same < STILL && tries < 150; tries++) {
    await pace(200)
    const now = count()
    same = now.descriptors === last.descriptors && now.threads === last.threads ? same + 1 : 0
    last = now
  }
  return last
}
