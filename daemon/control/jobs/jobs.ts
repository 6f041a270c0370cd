// SPDX-License-Identifier: Apache-2.0
// All jobs of the daemon by id. Used by the command handlers; routes workers' reports and deaths to the jobs.
// Invariant: an id is taken from the moment its start is asked for until the job is dismissed or the start failed.

import { CommandError } from '../../errors.js'
import type { JobSpec, Report } from '../../iothread/messages.js'
import type { EventSink, Log, WorkerHandle } from '../seams.js'
import { Job, type JobPlan, type JobReport } from './job.js'

export class Jobs {
  readonly #events: EventSink
  readonly #log: Log
  /** In the order they started. */
  readonly #jobs = new Map<string, Job>()
  /** Reserved ids; the job is set once its worker was asked. Nobody sees these. */
  readonly #starting = new Map<string, Job | undefined>()
  #idle: (() => void)[] = []

  constructor(events: EventSink, log: Log) {
    this.#events = events
    this.#log = log
  }

  /** Takes the id for a job that is about to start; the caller must start() or cancelReservation() it. */
  reserve(id: string): void {
    if (!/^[A-Za-z][A-Za-z0-9\-._]*$/.test(id)) throw new CommandError(`Invalid job ID '${id}'`)
    if (this.#jobs.has(id) || this.#starting.has(id)) throw new CommandError(`Job ID '${id}' already in use`)
    this.#starting.set(id, undefined)
  }

  cancelReservation(id: string): void {
    this.#starting.delete(id)
    this.#tellIdle()
  }

  /**
   * Starts a job whose id is reserved. Answers when it runs; rejects when there never was a job (the id is free then).
   * @param concluded  the job is over and released what it held; not called when the start is refused
   */
  async start(plan: JobPlan, spec: JobSpec, worker: WorkerHandle, concluded: () => void): Promise<void> {
    const { id } = plan
    const job = new Job(plan, {
      worker,
      events: this.#events,
      log: this.#log,
      concluded: () => {
        concluded()
        this.#log.info({ job: id, error: job.error, ...job.receipt }, 'job over')
      },
      dismissed: () => {
        this.#jobs.delete(id)
        this.#tellIdle()
      },
    })
    this.#starting.set(id, job)
    try {
      await worker.request('job-start', { id, spec })
    } catch (error) {
      // Once it ran there was a job, and its end (of a lost worker) is told by its events.
      if (this.#starting.get(id) === job) {
        this.cancelReservation(id)
        throw error
      }
    }
  }

  report(worker: WorkerHandle, report: JobReport): void {
    const starting = this.#starting.get(report.id)
    if (starting !== undefined && starting.worker === worker && report.kind === 'job-running') {
      this.#starting.delete(report.id)
      this.#jobs.set(report.id, starting)
      this.#log.info({ job: report.id, type: starting.plan.type, iothread: worker.name }, 'job started')
    }
    const job = this.#jobs.get(report.id)
    if (job?.worker === worker) job.report(report)
  }

  /** Concludes the jobs of a worker that is gone. Starts under way are refused by their requests. */
  workerEnded(worker: WorkerHandle, reason: string): void {
    for (const job of [...this.#jobs.values()]) if (job.worker === worker) job.workerEnded(reason)
  }

  /** For the `job-*` verbs. */
  find(id: string): Job {
    const job = this.#jobs.get(id)
    if (job === undefined) throw new CommandError('Job not found')
    return job
  }

  /** For the `block-job-*` verbs, which do not see jobs of type create. */
  findBlock(id: string): Job {
    const job = this.#jobs.get(id)
    if (job === undefined || job.plan.type === 'create')
      throw new CommandError(`Block job '${id}' not found`, 'DeviceNotActive')
    return job
  }

  /** Newest first. */
  list(): Job[] {
    return [...this.#jobs.values()].reverse()
  }

  /** Resolves when there is no job any more, nor one about to start. */
  empty(): Promise<void> {
    return new Promise((resolve) => {
      this.#idle.push(resolve)
      this.#tellIdle()
    })
  }

  #tellIdle(): void {
    if (this.#jobs.size > 0 || this.#starting.size > 0) return
    for (const resolve of this.#idle.splice(0)) resolve()
  }
}

/** Whether a report is about a job. */
export function isJobReport(report: Report): report is JobReport {
  return report.kind !== 'nodes' && report.kind !== 'log'
}
