// SPDX-License-Identifier: Apache-2.0
// One job: order of its events and of replies among them, for every end and every verb, as recorded from QEMU.

import { pino } from 'pino'
import t from 'tap'
import type { JobOutcome } from '../../../../daemon/common/job-messages.js'
import type { EventSink } from '../../../../daemon/control/commands.js'
import { blockJobHandlers, jobHandlers } from '../../../../daemon/control/handlers/jobs.js'
import { isJobReport, Jobs } from '../../../../daemon/control/jobs/jobs.js'
import type { MirrorSpec } from '../../../../daemon/iothread/messages.js'
import type { EventData } from '../../../../protocol/schema/index.js'
import { progress, receipt, ScriptedWorker } from '../scripted-worker.js'

const silent = pino({ level: 'silent' })
const spec = { kind: 'mirror' } as MirrorSpec

interface Options {
  type?: 'mirror' | 'create'
  autoFinalize?: boolean
  autoDismiss?: boolean
}

/** A job table with one worker; `seen` gets events and replies in their order, short. */
function setUp() {
  const seen: string[] = []
  const events: EventSink = {
    emit(name, data) {
      if (name === 'JOB_STATUS_CHANGE') seen.push(`S:${(data as EventData<'JOB_STATUS_CHANGE'>).status}`)
      else seen.push(name.replace('BLOCK_JOB_', ''))
    },
  }
  const jobs = new Jobs(events, silent)
  const worker = new ScriptedWorker('w')
  worker.onReport((report) => {
    if (isJobReport(report)) jobs.report(worker, report)
  })
  worker.before = (name) => {
    if (name === 'job-start') worker.say({ kind: 'job-running', id: 'j', progress: progress(0, 64) })
  }
  const start = async (options: Options = {}) => {
    const reservation = jobs.reserve('j')
    const plan = {
      id: 'j',
      type: 'mirror',
      speed: 0,
      copyMode: 'background',
      autoFinalize: true,
      autoDismiss: true,
    }
    try {
      await jobs.start(reservation, { ...plan, ...options } as never, spec, worker, () =>
        seen.push('released'),
      )
    } catch (error) {
      jobs.giveBack(reservation)
      throw error
    }
    seen.push('reply')
  }
  const verbs = { ...jobHandlers(jobs), ...blockJobHandlers(jobs) }
  const ready = () => worker.say({ kind: 'job-ready', id: 'j', progress: progress(64, 64) })
  const end = (outcome: JobOutcome) =>
    worker.say({ kind: 'job-ended', id: 'j', progress: progress(64, 64), outcome, receipt })
  const paused = () => worker.say({ kind: 'job-paused', id: 'j', progress: progress(1, 64) })
  return { jobs, worker, seen, start, verbs, ready, end, paused }
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))
const success = { kind: 'success' } as const

t.test(
  'a completed mirror tells created, running, ready, waiting, pending, completed, concluded, null',
  async (t) => {
    const { seen, start, verbs, ready, end } = setUp()
    await start()
    ready()
    verbs['job-complete']({ id: 'j' })
    seen.push('reply')
    end(success)
    await turn()
    t.same(
      seen.join(' '),
      'S:created S:running reply S:ready READY reply S:waiting S:pending COMPLETED released S:concluded S:null',
    )
  },
)

t.test('without auto-finalize and auto-dismiss a job waits for both verbs', async (t) => {
  const { seen, start, verbs, ready, end } = setUp()
  await start({ autoFinalize: false, autoDismiss: false })
  ready()
  end(success)
  await turn()
  t.same(seen.slice(-3), ['S:waiting', 'S:pending', 'PENDING'])
  t.match(verbs['query-block-jobs'](), [{ status: 'pending', paused: true, ready: false }])
  await verbs['job-finalize']({ id: 'j' })
  seen.push('reply')
  t.same(seen.slice(-4), ['COMPLETED', 'released', 'S:concluded', 'reply'])
  verbs['block-job-dismiss']({ id: 'j' })
  t.same(seen.at(-1), 'S:null')
  t.throws(() => verbs['job-dismiss']({ id: 'j' }), { message: 'Job not found' })
})

t.test('a pending job that is cancelled is undone and concluded before the reply', async (t) => {
  const { seen, start, verbs, ready, end, worker } = setUp()
  await start({ autoFinalize: false, autoDismiss: false })
  ready()
  end(success)
  await verbs['job-cancel']({ id: 'j' })
  seen.push('reply')
  t.same(seen.slice(-5), ['S:aborting', 'CANCELLED', 'released', 'S:concluded', 'reply'])
  t.match(worker.asked.at(-1), { name: 'job-finalize', args: { commit: false } })
  t.match(verbs['query-jobs'](), [{ status: 'concluded', error: 'Operation canceled' }])
})

t.test('a failed finalize makes the job fail with its error', async (t) => {
  const { seen, start, verbs, ready, end, worker } = setUp()
  await start({ autoDismiss: false })
  ready()
  worker.before = () => {
    throw new Error('Input/output error')
  }
  end(success)
  await turn()
  t.same(seen.slice(-4), ['S:aborting', 'COMPLETED', 'released', 'S:concluded'])
  t.match(verbs['query-jobs'](), [{ error: 'Input/output error' }])
})

t.test('complete in standby acts only after resume', async (t) => {
  const { seen, start, verbs, ready, paused, worker } = setUp()
  await start()
  ready()
  worker.before = (name) => {
    if (name === 'job-pause') paused()
  }
  await verbs['job-pause']({ id: 'j' })
  t.same(seen.at(-1), 'S:standby')
  verbs['job-complete']({ id: 'j' })
  t.notOk(worker.names().includes('job-complete'))
  verbs['job-resume']({ id: 'j' })
  t.same(seen.at(-1), 'S:ready')
  t.same(worker.names().slice(-2), ['job-resume', 'job-complete'])
})

t.test(
  'a soft cancel of a ready mirror is a completion without pivot; of a running one it is forced',
  async (t) => {
    const first = setUp()
    await first.start()
    await first.verbs['block-job-cancel']({ device: 'j' })
    t.match(first.worker.asked.at(-1), { name: 'job-cancel' })
    const second = setUp()
    await second.start()
    second.ready()
    await second.verbs['block-job-cancel']({ device: 'j' })
    t.match(second.worker.asked.at(-1), { name: 'job-complete', args: { pivot: false } })
    t.throws(() => second.verbs['job-complete']({ id: 'j' }), {
      message: "The active block job 'j' cannot be completed",
    })
  },
)

t.test('a forced cancel of a paused job resumes it first', async (t) => {
  const { seen, start, verbs, paused, end } = setUp()
  await start()
  await verbs['job-pause']({ id: 'j' })
  paused()
  await t.rejects(verbs['block-job-cancel']({ device: 'j' }), {
    message: "The block job for device 'j' is currently paused",
  })
  await verbs['job-cancel']({ id: 'j' })
  seen.push('reply')
  end({ kind: 'cancelled' })
  t.same(
    seen.slice(-8).join(' '),
    'S:paused S:running reply S:aborting CANCELLED released S:concluded S:null',
  )
})

t.test('a forced cancel that meets a success still cancels, and undoes what the job held', async (t) => {
  const { seen, start, verbs, ready, end, worker } = setUp()
  await start()
  ready()
  await verbs['job-cancel']({ id: 'j' })
  end(success)
  await turn()
  t.same(seen.slice(-5).join(' '), 'S:aborting CANCELLED released S:concluded S:null')
  t.match(worker.asked.at(-1), { name: 'job-finalize', args: { commit: false } })
})

t.test('an error with policy stop pauses as if by the user, and resume clears the io-status', async (t) => {
  const { seen, start, verbs, paused, worker } = setUp()
  await start()
  worker.say({ kind: 'job-error', id: 'j', operation: 'write', action: 'stop', nospace: true })
  worker.say({ kind: 'job-error', id: 'j', operation: 'write', action: 'stop', nospace: false })
  paused()
  t.same(seen.slice(-3), ['ERROR', 'ERROR', 'S:paused'])
  t.match(verbs['query-block-jobs'](), [{ 'io-status': 'nospace', paused: true, busy: false }])
  await t.rejects(verbs['job-pause']({ id: 'j' }), { message: 'Job is already paused' })
  verbs['block-job-resume']({ device: 'j' })
  t.match(verbs['query-block-jobs'](), [{ 'io-status': 'ok', paused: false, status: 'running' }])
})

t.test('a pause taken back before it took effect never shows', async (t) => {
  const { seen, start, verbs, paused } = setUp()
  await start()
  await verbs['job-pause']({ id: 'j' })
  verbs['job-resume']({ id: 'j' })
  paused()
  t.same(seen, ['S:created', 'S:running', 'reply'])
  t.throws(() => verbs['job-resume']({ id: 'j' }), { message: "Can't resume a job that was not paused" })
})

t.test('a refused start emits nothing and frees the id', async (t) => {
  const { seen, start, worker, jobs } = setUp()
  worker.before = () => {
    throw new Error('no')
  }
  await t.rejects(start(), { message: 'no' })
  t.same(seen, [])
  jobs.reserve('j')
  t.throws(() => jobs.reserve('j'), { message: "Job ID 'j' already in use" })
})

t.test(
  'a create job emits no block job events, needs a dismiss, and is not listed as block job',
  async (t) => {
    const { seen, start, verbs, end } = setUp()
    await start({ type: 'create', autoDismiss: false })
    t.match(verbs['query-jobs'](), [{ 'current-progress': 0, 'total-progress': 1, type: 'create' }])
    end({ kind: 'failed', error: "Could not create 'x': No such file or directory" })
    await turn()
    t.same(seen.join(' '), 'S:created S:running reply S:aborting released S:concluded')
    t.match(verbs['query-jobs'](), [{ 'current-progress': 1, error: /Could not create/ }])
    t.same(verbs['query-block-jobs'](), [])
    await t.rejects(async () => verbs['block-job-cancel']({ device: 'j' }), {
      message: "Block job 'j' not found",
      errorClass: 'DeviceNotActive',
    })
  },
)

t.test('a worker that dies ends its job with the reason, whatever its state', async (t) => {
  for (const state of ['running', 'paused', 'ready', 'standby', 'pending'] as const) {
    const { jobs, seen, start, verbs, ready, paused, end, worker } = setUp()
    await start({ autoFinalize: false, autoDismiss: false })
    if (state === 'ready' || state === 'standby' || state === 'pending') ready()
    if (state === 'paused' || state === 'standby') {
      await verbs['job-pause']({ id: 'j' })
      paused()
    }
    if (state === 'pending') end(success)
    t.equal(jobs.find('j').state, state)
    jobs.workerEnded(worker, 'iothread gone')
    jobs.workerEnded(worker, 'iothread gone')
    end(success)
    t.same(seen.slice(-4), ['S:aborting', 'COMPLETED', 'released', 'S:concluded'], state)
    t.match(verbs['query-jobs'](), [{ error: 'iothread gone' }])
  }
})

for (const cancel of ['job-cancel', 'block-job-cancel'] as const)
  t.test(
    `a ${cancel} that comes before the worker knows of the job is told again when it runs`,
    async (t) => {
      const { jobs, seen, start, verbs, worker } = setUp()
      worker.held = (name) => name === 'job-start'
      worker.before = (name) => {
        if (name === 'job-start') worker.say({ kind: 'job-running', id: 'j', progress: progress(0, 64) })
        else if (name === 'job-cancel' && !seen.includes('S:running')) throw new Error('Job not found')
      }
      const starting = start()
      const cancels = () => worker.asked.filter(({ name }) => name === 'job-cancel').length
      await (cancel === 'job-cancel' ? verbs[cancel]({ id: 'j' }) : verbs[cancel]({ device: 'j' }))
      t.equal(cancels(), 1)
      t.throws(() => jobs.find('j'), { message: 'Job not found' })
      t.throws(() => jobs.findBlock('j'), { message: "Block job 'j' not found" })
      worker.asked.find(({ name }) => name === 'job-start')?.answer()
      await starting
      t.equal(cancels(), 2)
    },
  )

t.test('a job that is about to start when all are to end is cancelled', async (t) => {
  const { jobs, start, worker } = setUp()
  worker.held = (name) => name === 'job-start'
  const starting = start()
  const ending = jobs.endAll()
  t.equal(worker.asked.filter(({ name }) => name === 'job-cancel').length, 1)
  worker.asked.find(({ name }) => name === 'job-start')?.refuse(new Error('Operation canceled'))
  await t.rejects(starting, { message: 'Operation canceled' })
  await ending
})
