// SPDX-License-Identifier: Apache-2.0
// `blockferry jobs` lists a daemon's jobs, once or as they change; `blockferry job VERB ID` steers one.

import { toText } from '../../protocol/json-text.js'
import type { JsonObject } from '../../protocol/json-value.js'
import { formatDuration, formatEta, formatRate, formatSize } from '../common/units.js'
import { type Client, type CommandArguments, QmpError } from './client.js'
import { connectTo, socketPath } from './connection.js'
import type { Daemon } from './daemon.js'
import { Interrupt } from './interrupt.js'
import { progressOf } from './job-follower.js'
import { percentText, waitingMs } from './reporter.js'
import { CliError, failed } from './status.js'
import { table } from './table.js'
import { numberOf, objectsOf, textOf } from './values.js'

/** Milliseconds between two looks of --watch. */
const watchMs = 1000

/** A job as both queries tell it; `block` is absent for jobs that copy nothing (create). */
interface JobView {
  readonly job: JsonObject
  readonly block: JsonObject | undefined
}

export interface JobsOptions {
  readonly socket?: string
  readonly watch: boolean
  readonly json: boolean
}

export async function listJobs(options: JobsOptions): Promise<void> {
  const daemon = await connectTo(socketPath(options.socket))
  try {
    if (options.watch) await watchJobs(daemon, options.json)
    else show(await jobsOf(daemon.client), options.json)
  } finally {
    await daemon.close()
  }
}

/** Verbs and their help. */
export const jobVerbs = {
  pause: 'stop for now; requests that storage has taken are waited for',
  resume: 'go on after a pause or an error',
  cancel: 'end; a target that was not complete is garbage',
  complete: 'let a ready mirror finish',
  finalize: 'apply the result of a pending job',
  dismiss: 'forget a concluded job',
} as const
export type JobVerb = keyof typeof jobVerbs

/** @param soft  with cancel: let a ready job end with a consistent target */
export async function steerJob(verb: JobVerb, id: string, socket: string | undefined, soft = false) {
  if (verb === 'cancel' && soft) await steer('block-job-cancel', { device: id }, id, socket)
  else await steer(`job-${verb}`, { id }, id, socket)
}

/** @param speed  bytes per second, 0 = no limit */
export async function setJobSpeed(id: string, speed: number, socket: string | undefined): Promise<void> {
  await steer('block-job-set-speed', { device: id, speed }, id, socket)
}

async function steer(command: string, args: CommandArguments, id: string, socket: string | undefined) {
  const daemon = await connectTo(socketPath(socket))
  try {
    await daemon.client.execute(command, args)
  } catch (error) {
    if (error instanceof QmpError) throw failed(`job '${id}': ${error.whole}`, { cause: error })
    throw error
  } finally {
    await daemon.close()
  }
}

async function jobsOf(client: Client): Promise<JobView[]> {
  const [jobs, blockJobs] = await Promise.all([
    client.execute('query-jobs'),
    client.execute('query-block-jobs'),
  ])
  const byId = new Map(objectsOf(blockJobs).map((job) => [textOf(job, 'device'), job]))
  return objectsOf(jobs).map((job) => ({ job, block: byId.get(textOf(job, 'id')) }))
}

function show(views: readonly JobView[], json: boolean): void {
  process.stdout.write(json ? `${toText(views.map(merged))}\n` : tableOf(views))
}

/** One object per job: query-block-jobs knows more, query-jobs knows all. */
function merged({ job, block }: JobView) {
  return { ...block, ...job }
}

function tableOf(views: readonly JobView[]): string {
  if (views.length === 0) return 'no jobs\n'
  const head = ['ID', 'TYPE', 'STATUS', 'PHASE', 'DONE', 'OF', '%', 'RATE', 'ETA', 'NOTE']
  const align = ['left', 'left', 'left', 'left', 'right', 'right', 'right', 'right', 'right', 'left'] as const
  return table(head, views.map(rowOf), align)
}

function rowOf({ job, block }: JobView): string[] {
  const first = [textOf(job, 'id') ?? '', textOf(job, 'type') ?? '', textOf(job, 'status') ?? '']
  const note = textOf(job, 'error') ?? ''
  if (block === undefined) {
    const done = numberOf(job, 'current-progress') ?? 0
    const all = numberOf(job, 'total-progress') ?? 0
    return [...first, '-', String(done), String(all), '-', '-', '-', note]
  }
  const progress = progressOf(block)
  const waiting =
    progress.oldest === undefined || progress.oldest.ageMs < waitingMs
      ? ''
      : `${progress.oldest.operation} waits ${formatDuration(progress.oldest.ageMs)}`
  const status = progress.ioStatus === 'ok' ? '' : `io-status ${progress.ioStatus}`
  return [
    ...first,
    progress.phase,
    formatSize(progress.offset),
    formatSize(progress.length),
    percentText(progress),
    formatRate(progress.rate),
    progress.etaSeconds === undefined ? '-' : formatEta(progress.etaSeconds),
    note || status || waiting,
  ]
}

/** Shows the jobs whenever an event came or a second has passed, until the daemon goes away or ^C. */
async function watchJobs(daemon: Daemon, json: boolean): Promise<void> {
  const { client } = daemon
  const screen = process.stdout.isTTY && !json
  let previous = ''
  let asking = false
  let again = false
  const look = async () => {
    const views = await jobsOf(client)
    const text = json ? `${toText(views.map(merged))}\n` : tableOf(views)
    if (screen) process.stdout.write(`\x1b[H\x1b[J${text}`)
    else if (text !== previous) process.stdout.write(text)
    previous = text
  }
  let end: (error: CliError) => void = () => undefined
  using _ = new Interrupt(
    (status) => end(new CliError(status)),
    (status) => process.exit(status),
  )
  await new Promise<never>((_, reject) => {
    end = reject
    const ask = () => {
      again = asking
      if (asking) return
      asking = true
      look()
        .catch(reject)
        .finally(() => {
          asking = false
          if (again) ask()
        })
    }
    client.onEvent(ask)
    const timer = setInterval(ask, watchMs)
    client.onLost((reason) => {
      clearInterval(timer)
      reject(failed(`the daemon at '${daemon.socket}' is gone: ${reason.message}`))
    })
    ask()
  })
}
