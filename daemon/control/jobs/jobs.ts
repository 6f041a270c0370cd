// SPDX-License-Identifier: Apache-2.0
// All jobs of the daemon by id. Used by the command handlers; routes workers' reports and deaths to the jobs.
// Invariant: an id is taken from the moment its start is asked for until the job is dismissed or the start failed.

import type { Logger } from 'pino'
import { isIdentifier } from '../../common/identifier.js'
import type { HostRequests, JobReport } from '../../common/job-messages.js'
import { CommandError } from '../../errors.js'
import type { Report } from '../../iothread/messages.js'
import { Budgets, type Seat } from '../budgets.js'
import type { EventSink } from '../commands.js'
import type { JobGroup } from './group.js'
import { Job } from './job.js'
import { isBlockJob, type JobPlan } from './plan.js'
import type { JobWorker } from './surroundings.js'

/** An id that is taken for a job about to start. */
export class Reservation {
  /** Set once the worker was asked. */
  job: Job | undefined

  /**
   * @param own   of the daemon itself: users neither see the job nor its events
   * @param seat  its part in a budget
   */
  constructor(
    readonly id: string,
    readonly own: boolean,
    readonly seat: Seat | undefined,
  ) {}
}

const NOBODY: EventSink = { emit: () => {} }

/** A worker in which jobs of this kind are started. */
export interface JobHost<Spec> {
  readonly name: string
  request<N extends keyof HostRequests<Spec>>(
    name: N,
    args: HostRequests<Spec>[N]['args'],
  ): Promise<HostRequests<Spec>[N]['reply']>
}

export class Jobs {
  readonly #events: EventSink
  readonly #budgets: Budgets
  readonly #log: Logger
  #made = 0
  /** In the order they began to run. */
  readonly #jobs = new Map<string, Job>()
  /** Nobody sees these. */
  readonly #starting = new Map<string, Reservation>()
  #idle: (() => void)[] = []
  /** Jobs are cancelled as soon as they run. */
  #ending = false

  constructor(events: EventSink, log: Logger, budgets = new Budgets(() => undefined)) {
    this.#events = events
    this.#budgets = budgets
    this.#log = log
  }

  /**
   * Takes the id for a job; whoever has the reservation starts the job with it or gives it back.
   * @param budget  name of the budget that the job is to share
   */
  reserve(id: string, budget?: string): Reservation {
    if (!isIdentifier(id)) throw new CommandError(`Invalid job ID '${id}'`)
    return this.#reserve(id, false, budget)
  }

  /** As reserve(), for a job of the daemon itself: its id is not one that users can give, and only find() tells of it. */
  reserveOwn(id: string): Reservation {
    return this.#reserve(id, true)
  }

  #reserve(id: string, own: boolean, budget?: string): Reservation {
    if (this.#jobs.has(id) || this.#starting.has(id)) throw new CommandError(`Job ID '${id}' already in use`)
    const seat = budget === undefined ? undefined : this.#budgets.join(budget)
    const reservation = new Reservation(id, own, seat)
    this.#starting.set(id, reservation)
    return reservation
  }

  /** Frees the id again, unless the job runs. */
  giveBack(reservation: Reservation): void {
    if (this.#starting.get(reservation.id) !== reservation) return
    this.#starting.delete(reservation.id)
    reservation.seat?.leave()
    this.#tellIdle()
  }

  /**
   * Starts a job. Answers when it runs; rejects when there never was a job, and the reservation is still the caller's.
   * @param concluded  the job is over and released what it held; not called when the start is refused
   */
  async start<Spec>(
    reservation: Reservation,
    plan: Omit<JobPlan, 'id'>,
    spec: Spec,
    worker: JobHost<Spec>,
    concluded: () => void,
  ): Promise<void> {
    const { id, seat } = reservation
    const job = this.expect(reservation, plan, worker, concluded)
    const share = seat?.start((share) => job.setShare(share))
    try {
      await worker.request('job-start', { id, spec, ...(share !== undefined && { share }) })
    } catch (error) {
      // Once it ran there was a job, and its end (of a lost worker) is told by its events.
      if (this.#starting.get(id) === reservation) throw error
    }
  }

  /**
   * Says what job the reservation is for; it is one when its worker says that it runs. Until then the reservation is the caller's.
   * @param concluded  as for start()
   * @param group      it ends with these
   */
  expect(
    reservation: Reservation,
    plan: Omit<JobPlan, 'id'>,
    worker: JobWorker,
    concluded: () => void,
    group?: JobGroup,
  ): Job {
    const { id, own, seat } = reservation
    const events = own ? NOBODY : this.#events
    const job = this.#makeJob({ ...plan, id }, worker, events, seat, concluded, group)
    group?.add(job)
    reservation.job = job
    return job
  }

  /** Whether the job has not run yet. */
  isExpected(reservation: Reservation): boolean {
    return this.#starting.get(reservation.id) === reservation
  }

  report(worker: JobWorker, report: JobReport): void {
    const starting = this.#starting.get(report.id)?.job
    if (starting !== undefined && starting.worker === worker && report.kind === 'job-running') {
      this.#starting.delete(report.id)
      this.#jobs.set(report.id, starting)
      this.#log.info({ job: report.id, type: starting.plan.type, iothread: worker.name }, 'job started')
    }
    const job = this.#jobs.get(report.id)
    if (job?.worker !== worker) return
    job.report(report)
    // One of a transaction did not get its share with its start.
    const { seat } = job
    if (report.kind === 'job-running' && seat !== undefined && seat.working === undefined)
      job.setShare(seat.start((share) => job.setShare(share)))
    const charged = report.kind === 'job-error' ? undefined : report.progress.charged
    if (charged !== undefined) seat?.used(charged)
    if (this.#ending && report.kind === 'job-running') void job.end()
  }

  /** Concludes the jobs of a worker that is gone. Starts under way are refused by their requests. */
  workerEnded(worker: JobWorker, reason: string): void {
    for (const job of [...this.#jobs.values()]) if (job.worker === worker) job.workerEnded(reason)
  }

  /** For the `job-*` verbs. */
  find(id: string): Job {
    const job = this.#jobs.get(id)
    if (job === undefined) throw new CommandError('Job not found')
    return job
  }

  /** For `job-cancel`, which comes to jobs too whose start waits for storage; that fails then. */
  findToCancel(id: string): Job {
    return this.#starting.get(id)?.job ?? this.find(id)
  }

  /** The same for `block-job-cancel`. */
  findBlockToCancel(id: string): Job {
    const job = this.#starting.get(id)?.job
    return job !== undefined && isBlockJob(job.plan.type) ? job : this.findBlock(id)
  }

  /** For the `block-job-*` verbs, which see what moves data between nodes only. */
  findBlock(id: string): Job {
    const job = this.#jobs.get(id)
    if (job === undefined || !isBlockJob(job.plan.type))
      throw new CommandError(`Block job '${id}' not found`, 'DeviceNotActive')
    return job
  }

  /** For the speed, which transfers of memory have too. */
  findPaced(id: string): Job {
    const job = this.#jobs.get(id)
    return job?.plan.type.startsWith('x-memory-') ? job : this.findBlock(id)
  }

  /** Those of users, newest first. */
  list(): Job[] {
    const shown = [...this.#jobs.values()].filter(({ id }) => isIdentifier(id))
    return shown.sort((a, b) => b.order - a.order)
  }

  /** Cancels and forgets all jobs, also those about to start. Answers when there is none any more. */
  async endAll(): Promise<void> {
    this.#ending = true
    const empty = new Promise<void>((resolve) => this.#idle.push(resolve))
    for (const { job } of this.#starting.values()) void job?.end()
    for (const job of [...this.#jobs.values()].reverse()) void job.end()
    this.#tellIdle()
    await empty
  }

  #makeJob(
    plan: JobPlan,
    worker: JobWorker,
    events: EventSink,
    seat: Seat | undefined,
    concluded: () => void,
    group: JobGroup | undefined,
  ): Job {
    return new Job(plan, {
      worker,
      group,
      order: this.#made++,
      events,
      seat,
      log: this.#log,
      concluded: () => {
        const job = this.#jobs.get(plan.id)
        // The lines of a check are for its user.
        const { check: _, ...receipt } = { check: undefined, ...job?.receipt }
        this.#log.info({ job: plan.id, error: job?.error, ...receipt }, 'job over')
        seat?.leave()
        concluded()
      },
      dismissed: () => {
        this.#jobs.delete(plan.id)
        this.#tellIdle()
      },
    })
  }

  #tellIdle(): void {
    if (this.#jobs.size > 0 || this.#starting.size > 0) return
    for (const resolve of this.#idle.splice(0)) resolve()
  }
}

/** Whether a report is about a job. */
export function isJobReport(report: Report): report is JobReport {
  return report.kind.startsWith('job-')
}
