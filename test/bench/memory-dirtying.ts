// SPDX-License-Identifier: Apache-2.0
// `npm run bench -- dirtying`: a guest that writes its memory in a tight loop is saved live through the daemon for a minute,
// then lets QEMU come to an end. Neither file nor daemon may grow with what it wrote.

import { rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { Daemon } from '../helpers/daemon.js'
import { MemoryJob } from '../helpers/migration/memory-job.js'
import { isRecord } from '../helpers/qmp-client.js'
import { deadline, pace } from '../helpers/waiting.js'
import { empty, filled, qemus, read, remark, sizeText, verify } from './memory-guest.js'
import type { BenchOptions } from './options.js'
import { atMost, mebibytes, print, round, table, type Verdict } from './report.js'

const MiB = 2 ** 20
const MINUTE_MS = 60_000
/** MiB that the guest goes over. */
const WINDOW = 512
const SAMPLE_MS = 500
/** Of devices, for the size of the file. */
const TAIL = MiB

interface Result {
  readonly rss: number
  readonly file: number
  readonly least: number
  readonly transferred: number
  readonly walks: number
  readonly downtimeMs: number
}

export async function dirtying(options: BenchOptions): Promise<Verdict[]> {
  print(`\n## A minute of dirtying ${WINDOW} MiB in a tight loop: ${sizeText(options)}\n`)
  const rows: string[][] = []
  const verdicts: Verdict[] = []
  for (const qemu of qemus(options)) {
    const { name } = qemu
    const file = join(options.directory, 'dirtied')
    const result = await examine(qemu, file, options)
    rmSync(file)
    rows.push([
      ...[name, mebibytes(result.transferred), String(result.walks), round(result.downtimeMs)],
      ...[mebibytes(result.rss), mebibytes(result.file), 'yes'],
    ])
    verdicts.push(
      atMost(`dirtying: ${name}: resident memory of the daemon`, result.rss / MiB, 200, ' MiB'),
      atMost(
        `dirtying: ${name}: file over memory, blocks and tail`,
        (result.file - result.least) / MiB,
        0,
        ' MiB',
      ),
    )
  }
  print(table(['QEMU', 'sent', 'walks', 'downtime ms', 'most resident', 'file', 'memory right'], rows))
  return verdicts
}

async function examine(
  qemu: Parameters<typeof filled>[0],
  file: string,
  options: BenchOptions,
): Promise<Result> {
  const { directory } = options
  await using guest = await filled(qemu, options, { dirty: WINDOW })
  await using daemon = await Daemon.start({ directory })
  await guest.cont()
  await guest.press('d')
  await guest.says(/DIRTY 16\n/)
  const source = `unix:${join(directory, 'ferry')}`
  const args = { source, target: file, format: 'mapped-ram' }
  const job = await MemoryJob.start(daemon.client, 'x-memory-save', args)
  const migrated = guest.migrate(source, { parameters: { 'downtime-limit': 100 } })
  migrated.catch(() => undefined)
  using minute = deadline(MINUTE_MS)
  let rss = 0
  while (!minute.over) {
    rss = Math.max(rss, daemon.memory().rss)
    await pace(SAMPLE_MS)
  }
  const { transferred, walks, total } = figures(await job.info())
  remark(`${qemu.name}: ${mebibytes(transferred)} sent, ${walks} walks`)
  await guest.press('i')
  const end = await migrated
  rss = Math.max(rss, daemon.memory().peak)
  const failure = await job.ended()
  if (end.status !== 'completed' || failure !== undefined)
    throw new Error(`migration ${end.status}: ${end.error}; the job: ${failure}`)
  await guest.kill()
  await using destination = await empty(qemu, options)
  await read(destination, file, 'mapped-ram')
  await verify(destination)
  const blocks = await blockCount(destination)
  const least = total + MiB * (blocks + 1) + TAIL
  return { rss, file: statSync(file).size, least, transferred, walks, downtimeMs: end.downtimeMs }
}

function figures(info: Readonly<Record<string, unknown>>) {
  const ram = isRecord(info.ram) ? info.ram : {}
  return {
    transferred: Number(ram.transferred),
    walks: Number(ram['dirty-sync-count']),
    total: Number(ram.total),
  }
}

/** Blocks of RAM that a QEMU has. */
async function blockCount({ qmp }: Awaited<ReturnType<typeof empty>>): Promise<number> {
  const text = String(await qmp.execute('human-monitor-command', { 'command-line': 'info ramblock' }))
  return text.trim().split('\n').length - 1
}
