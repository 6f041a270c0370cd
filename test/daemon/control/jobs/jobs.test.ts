// SPDX-License-Identifier: Apache-2.0
// Random verbs and random worker reports on a job: every verb is answered, every transition is legal, the job has at
// most one end, and nothing is told after it.

import fc from 'fast-check'
import { pino } from 'pino'
import t from 'tap'
import type { EventSink } from '../../../../daemon/control/commands.js'
import { blockJobHandlers, jobHandlers } from '../../../../daemon/control/handlers/jobs.js'
import { isJobReport, Jobs } from '../../../../daemon/control/jobs/jobs.js'
import { type JobState, mayFollow } from '../../../../daemon/control/jobs/life.js'
import { CommandError } from '../../../../daemon/errors.js'
import type { MirrorSpec, Report } from '../../../../daemon/iothread/messages.js'
import type { EventData } from '../../../../protocol/schema/index.js'
import { progress, receipt, ScriptedWorker } from '../scripted-worker.js'

const silent = pino({ level: 'silent' })
const at = progress(1, 64)
const reports: readonly Report[] = [
  { kind: 'job-progress', id: 'j', progress: at },
  { kind: 'job-ready', id: 'j', progress: at },
  { kind: 'job-paused', id: 'j', progress: at },
  { kind: 'job-error', id: 'j', operation: 'read', action: 'stop', nospace: false },
  { kind: 'job-error', id: 'j', operation: 'read', action: 'ignore', nospace: false },
  { kind: 'job-ended', id: 'j', progress: at, receipt, outcome: { kind: 'success' } },
  { kind: 'job-ended', id: 'j', progress: at, receipt, outcome: { kind: 'cancelled' } },
  {
    kind: 'job-ended',
    id: 'j',
    progress: at,
    receipt,
    outcome: { kind: 'failed', error: 'Input/output error' },
  },
]

t.test('what a worker says of an export or an image is no report of a job', async (t) => {
  const others: readonly Report[] = [
    { kind: 'export-left', id: 'j', connection: 1 },
    { kind: 'image-corrupted', node: 'n', text: '', offset: 0, size: 0, fatal: false },
    { kind: 'nodes', nodes: [], gone: [] },
  ]
  t.notOk(others.some(isJobReport))
  t.ok(reports.every(isJobReport))
})

type Step =
  | { report: number }
  | { verb: number }
  | { finalizeFails: boolean }
  | { die: true }
  | { turn: true }
const step: fc.Arbitrary<Step> = fc.oneof(
  { arbitrary: fc.nat(reports.length - 1).map((report) => ({ report })), weight: 5 },
  { arbitrary: fc.nat(12).map((verb) => ({ verb })), weight: 6 },
  { arbitrary: fc.boolean().map((finalizeFails) => ({ finalizeFails })), weight: 1 },
  { arbitrary: fc.constant({ die: true as const }), weight: 1 },
  { arbitrary: fc.constant({ turn: true as const }), weight: 2 },
)

async function play(steps: readonly Step[], autoFinalize: boolean, autoDismiss: boolean): Promise<void> {
  const told: JobState[] = []
  const ends: string[] = []
  const events: EventSink = {
    emit(name, data) {
      if (ends.length > 0 && name !== 'JOB_STATUS_CHANGE') throw new Error(`${name} after ${ends[0]}`)
      if (name === 'JOB_STATUS_CHANGE') {
        const status = (data as EventData<'JOB_STATUS_CHANGE'>).status as JobState
        const last = told.at(-1)
        if (last === undefined ? status !== 'created' : !mayFollow(last, status))
          throw new Error(`${last} to ${status}`)
        told.push(status)
      } else if (name === 'BLOCK_JOB_COMPLETED' || name === 'BLOCK_JOB_CANCELLED') ends.push(name)
    },
  }
  const jobs = new Jobs(events, silent)
  const worker = new ScriptedWorker('w')
  let finalizeFails = false
  worker.before = (name) => {
    if (name === 'job-start') worker.say({ kind: 'job-running', id: 'j', progress: progress(0, 64) })
    if (name === 'job-finalize' && finalizeFails) throw new Error('Input/output error')
  }
  worker.onReport((report) => isJobReport(report) && jobs.report(worker, report))
  let released = 0
  const reservation = jobs.reserve('j')
  const plan = {
    id: 'j',
    type: 'mirror',
    speed: 0,
    copyMode: 'background',
    autoFinalize,
    autoDismiss,
  } as const
  await jobs.start(reservation, plan, {} as MirrorSpec, worker, () => released++)

  const a = jobHandlers(jobs)
  const b = blockJobHandlers(jobs)
  const verbs: readonly (() => unknown)[] = [
    () => a['job-pause']({ id: 'j' }),
    () => a['job-resume']({ id: 'j' }),
    () => a['job-cancel']({ id: 'j' }),
    () => a['job-complete']({ id: 'j' }),
    () => a['job-finalize']({ id: 'j' }),
    () => a['job-dismiss']({ id: 'j' }),
    () => b['block-job-cancel']({ device: 'j' }),
    () => b['block-job-cancel']({ device: 'j', force: true }),
    () => b['block-job-set-speed']({ device: 'j', speed: 5 }),
    () => b['block-job-change']({ id: 'j', type: 'mirror', 'copy-mode': 'write-blocking' }),
    () => b['block-job-complete']({ device: 'j' }),
    () => b['query-block-jobs'](),
    () => a['query-jobs'](),
  ]
  const answers: Promise<unknown>[] = []
  for (const step of steps) {
    if ('report' in step) worker.say(reports[step.report] as Report)
    else if ('verb' in step) answers.push((async () => verbs[step.verb]?.())().catch(onlyCommandErrors))
    else if ('finalizeFails' in step) finalizeFails = step.finalizeFails
    else if ('turn' in step) await Promise.resolve()
    else jobs.workerEnded(worker, 'gone')
  }
  await Promise.all(answers)
  await new Promise<void>((resolve) => setImmediate(resolve))
  const over = told.includes('concluded')
  if (ends.length > 1 || released > 1) throw new Error('two ends')
  if (over !== (ends.length === 1) || over !== (released === 1)) throw new Error('an end without its event')
  if (over && autoDismiss && told.at(-1) !== 'null') throw new Error('not dismissed')
}

function onlyCommandErrors(error: unknown): void {
  if (!(error instanceof CommandError)) throw error
}

t.test('no order of verbs and reports breaks the life of a job', async (t) => {
  const seed = Date.now()
  t.comment(`seed ${seed}`)
  await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 30 }), fc.boolean(), fc.boolean(), play), {
    seed,
    numRuns: 1500,
  })
})
