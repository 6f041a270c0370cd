// SPDX-License-Identifier: Apache-2.0
// Random reports and verbs on jobs of one group: every transition is legal, each has one end, and all of them succeed or none.

import fc from 'fast-check'
import { pino } from 'pino'
import t from 'tap'
import type { EventSink } from '../../../../daemon/control/commands.js'
import { JobGroup } from '../../../../daemon/control/jobs/group.js'
import { Jobs } from '../../../../daemon/control/jobs/jobs.js'
import { type JobState, mayFollow } from '../../../../daemon/control/jobs/life.js'
import { CommandError } from '../../../../daemon/errors.js'
import type { EventData } from '../../../../protocol/schema/index.js'
import { progress, receipt, ScriptedWorker } from '../scripted-worker.js'

const silent = pino({ level: 'silent' })
const at = progress(64, 64)
const IDS = ['a', 'b', 'c'] as const
type Id = (typeof IDS)[number]

/** The events of some jobs, checked as they come. */
class Heard implements EventSink {
  readonly states = new Map<string, JobState>()
  readonly ends = new Map<string, string>()

  emit(name: string, data: unknown): void {
    if (name === 'JOB_STATUS_CHANGE') {
      const { id, status } = data as EventData<'JOB_STATUS_CHANGE'>
      const last = this.states.get(id)
      if (last !== undefined && !mayFollow(last, status as JobState)) throw new Error(`${last} to ${status}`)
      this.states.set(id, status as JobState)
    } else if (name === 'BLOCK_JOB_COMPLETED' || name === 'BLOCK_JOB_CANCELLED') {
      const { device, error } = data as EventData<'BLOCK_JOB_COMPLETED'>
      if (this.ends.has(device)) throw new Error(`two ends of ${device}`)
      this.ends.set(device, name === 'BLOCK_JOB_CANCELLED' || error !== undefined ? 'bad' : 'good')
    }
  }
}

function start(autoFinalize: boolean) {
  const heard = new Heard()
  const jobs = new Jobs(heard, silent)
  const group = new JobGroup()
  const workers = new Map<Id, ScriptedWorker>()
  const say = (id: Id, outcome: 'success' | 'cancelled' | 'failed') =>
    workers.get(id)?.say({
      ...{ kind: 'job-ended', id, progress: at, receipt },
      outcome: outcome === 'failed' ? { kind: outcome, error: 'Input/output error' } : { kind: outcome },
    })
  for (const id of IDS) {
    const worker = new ScriptedWorker(id)
    workers.set(id, worker)
    worker.onReport((report) => jobs.report(worker, report as never))
    const plan = {
      type: 'backup',
      speed: 0,
      copyMode: 'background',
      autoFinalize,
      autoDismiss: false,
    } as const
    jobs.expect(jobs.reserve(id), plan, worker, () => {}, group)
  }
  for (const [id, worker] of workers) worker.say({ kind: 'job-running', id, progress: progress(0, 64) })
  /** What a worker does that is told to stop. */
  const obey = () => {
    for (const [id, worker] of workers)
      if (worker.asked.some(({ name }) => name === 'job-cancel')) say(id, 'cancelled')
  }
  return { heard, jobs, say, obey }
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

t.test('members wait for each other, then all end', async (t) => {
  const { heard, say } = start(true)
  say('b', 'success')
  say('a', 'success')
  t.same([...heard.states.values()], ['waiting', 'waiting', 'running'])
  say('c', 'success')
  await turn()
  t.same(
    [...heard.ends],
    [
      ['c', 'good'],
      ['b', 'good'],
      ['a', 'good'],
    ],
  )
})

t.test('one finalize is for all of them', async (t) => {
  const { heard, jobs, say } = start(false)
  for (const id of IDS) say(id, 'success')
  t.same([...heard.states.values()], ['pending', 'pending', 'pending'])
  await jobs.find('a').finalize()
  t.equal(heard.ends.size, 3)
})

t.test('all succeed, or none', async (t) => {
  const step = fc.record({
    id: fc.constantFrom(...IDS),
    what: fc.constantFrom('success', 'success', 'success', 'failed', 'cancel', 'finalize', 'turn'),
  })
  const property = fc.asyncProperty(fc.array(step, { maxLength: 12 }), fc.boolean(), async (steps, auto) => {
    const { heard, jobs, say, obey } = start(auto)
    for (const { id, what } of steps) {
      if (what === 'turn') await turn()
      else if (what === 'cancel' || what === 'finalize')
        try {
          if (what === 'cancel') void jobs.find(id).cancel(true).catch(refusal)
          else await jobs.find(id).finalize()
        } catch (error) {
          refusal(error)
        }
      else say(id, what as 'success' | 'failed')
    }
    obey()
    for (const id of IDS) say(id, 'success')
    obey()
    await turn()
    for (const id of IDS) await jobs.find(id).finalize().catch(refusal)
    await turn()
    t.equal(heard.ends.size, IDS.length)
    t.equal(new Set(heard.ends.values()).size, 1, `ends: ${[...heard.ends].join(' ')}`)
  })
  await holdsAsync(property)
})

function refusal(error: unknown): void {
  if (!(error instanceof CommandError)) throw error
}

async function holdsAsync(property: fc.IAsyncProperty<[readonly unknown[], boolean]>): Promise<void> {
  const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 0x7fffffff))
  t.comment(`seed ${seed}`)
  await fc.assert(property, { seed, numRuns: 200 })
}
