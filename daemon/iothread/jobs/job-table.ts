// SPDX-License-Identifier: Apache-2.0
// Job table: the jobs of one worker, and the verbs that the main thread has for them. Used by the roots of workers.
// Invariant: a job is in the table from the moment it runs until it failed or was finalized. Before that it can be cancelled,
// and never was one then.

import type { JobReport, JobRequests, LogReport, OldestRequest } from '../../common/job-messages.js'
import { Cancelled, CommandError } from '../../errors.js'
import type { JobBody, JobControl } from './body.js'
import { JobRunner, type Policy } from './runner.js'

export type JobHandlers = {
  readonly [N in keyof JobRequests]: (
    args: JobRequests[N]['args'],
  ) => Promise<JobRequests[N]['reply']> | JobRequests[N]['reply']
}

/** A job that may run. One of the two is called, once. */
export interface PreparedJob {
  /** Answers when it runs. */
  start(): Promise<void>
  /** There never was a job. */
  undo(): Promise<void>
}

export class JobTable {
  readonly #report: (report: JobReport | LogReport) => void
  readonly #oldest: () => OldestRequest | undefined
  readonly #jobs = new Map<string, JobRunner>()
  readonly #preparing = new Map<string, JobRunner>()
  /** Starts that are under way, and whether they were cancelled. */
  readonly #expected = new Map<string, boolean>()
  readonly #running = new Set<Promise<void>>()

  constructor(report: (report: JobReport | LogReport) => void, oldest: () => OldestRequest | undefined) {
    this.#report = report
    this.#oldest = oldest
  }

  /** Jobs that work. */
  get running(): number {
    return this.#running.size
  }
  /** Jobs that work, or wait to be finalized. */
  get size(): number {
    return Math.max(this.#jobs.size, this.#running.size)
  }

  /**
   * Answers when the job runs. What its body refuses means there never was a job.
   * @param share  what a budget gives it
   */
  async start(
    id: string,
    makeBody: (control: JobControl) => JobBody,
    policy: Policy,
    share = 0,
  ): Promise<void> {
    await (await this.prepare(id, makeBody, policy, share)).start()
  }

  /** Whoever has something to do before he prepares a job: it can be cancelled from then on. */
  async expect<T>(id: string, work: () => Promise<T>): Promise<T> {
    this.#expected.set(id, false)
    try {
      return await work()
    } finally {
      this.#expected.delete(id)
    }
  }

  /** The same in two steps. */
  async prepare(
    id: string,
    makeBody: (control: JobControl) => JobBody,
    policy: Policy,
    share = 0,
  ): Promise<PreparedJob> {
    const job = new JobRunner(id, makeBody, policy, this.#report, this.#oldest)
    job.body.setShare?.(share)
    this.#preparing.set(id, job)
    if (this.#expected.get(id)) job.cancel()
    try {
      await job.prepare()
      // Its body may not have looked.
      if (job.signal.aborted) {
        await job.body.finalize(false)
        throw new Cancelled()
      }
    } catch (error) {
      // Its own text is what managers know.
      throw error instanceof Cancelled ? new CommandError(error.message) : error
    } finally {
      this.#preparing.delete(id)
    }
    return { start: () => this.#begin(job), undo: () => job.body.finalize(false) }
  }

  async #begin(job: JobRunner): Promise<void> {
    this.#jobs.set(job.id, job)
    const ended = this.#run(job).finally(() => this.#running.delete(ended))
    this.#running.add(ended)
    // A job with nothing to copy is ready, and has said so, before its start is answered; others know their length.
    await new Promise((resolve) => setImmediate(resolve))
    job.tell()
  }

  get handlers(): JobHandlers {
    return {
      'job-pause': async ({ id }) => {
        this.#job(id).requestPause()
        // A body that only waited reaches its pause point, and reports it, before this turn of the loop ends.
        await new Promise((resolve) => setImmediate(resolve))
        return null
      },
      'job-resume': ({ id }) => done(this.#job(id).resume()),
      'job-cancel': ({ id }) => done(this.#cancel(id)),
      'job-complete': ({ id, pivot }) => done(this.#job(id).body.complete?.(pivot)),
      'job-set-speed': ({ id, speed }) => done(this.#job(id).body.setSpeed?.(speed)),
      'job-set-share': ({ id, share }) => done(this.#job(id).body.setShare?.(share)),
      'job-change': ({ id, copyMode }) => done(this.#job(id).body.change?.(copyMode)),
      'job-finalize': ({ id, commit }) => this.#finalize(id, commit),
    }
  }

  #cancel(id: string): void {
    const preparing = this.#preparing.get(id)
    if (preparing === undefined && this.#expected.has(id)) this.#expected.set(id, true)
    else (preparing ?? this.#job(id)).cancel()
  }

  cancelAll(): void {
    for (const id of this.#expected.keys()) this.#expected.set(id, true)
    for (const job of [...this.#preparing.values(), ...this.#jobs.values()]) job.cancel()
  }

  /** Waits for the jobs that work; what succeeded and was never finalized lets go of what it holds. */
  async conclude(): Promise<void> {
    await Promise.all(this.#running)
    for (const id of [...this.#jobs.keys()]) await this.#finalize(id, false)
  }

  #job(id: string): JobRunner {
    const job = this.#jobs.get(id)
    if (job === undefined) throw new CommandError('Job not found')
    return job
  }

  /** A job that failed has let go of everything; one that succeeded stays until it is finalized. */
  async #run(job: JobRunner): Promise<void> {
    if (!(await job.run())) this.#jobs.delete(job.id)
  }

  async #finalize(id: string, commit: boolean): Promise<null> {
    const job = this.#job(id)
    this.#jobs.delete(id)
    await job.body.finalize(commit)
    return null
  }
}

function done(_nothing: unknown): null {
  return null
}
