// SPDX-License-Identifier: Apache-2.0
// Runner: one job's body at work in the worker. Gives the body its control, obeys the verbs that the main thread
// sends, applies the error policy, and reports. Used by the job table.
// Invariant: exactly one `job-ended` per job that was started, and nothing after it.

import type {
  ErrorAction,
  JobOutcome,
  JobPhase,
  JobProgress,
  JobReport,
  LogReport,
  OldestRequest,
  OnError,
} from '../../common/job-messages.js'
import { Cancelled, IoError } from '../../errors.js'
import type { JobBody, JobControl } from './body.js'
import { RateMeter } from './rate-meter.js'

/** Time between two looks at the counters, milliseconds. */
const TICK_MS = 100

export interface Policy {
  readonly read: OnError
  readonly write: OnError
}

export class JobRunner implements JobControl {
  readonly body: JobBody
  readonly #policy: Policy
  readonly #report: (report: JobReport | LogReport) => void
  readonly #oldest: () => OldestRequest | undefined
  readonly #abort = new AbortController()
  readonly #meter = new RateMeter()
  #pausing = false
  #resume: (() => void) | undefined
  #awake: (() => void) | undefined
  #phase: JobPhase = 'probe'
  #timer: NodeJS.Timeout | undefined
  #lastProgress = ''
  #over = false

  constructor(
    readonly id: string,
    makeBody: (control: JobControl) => JobBody,
    policy: Policy,
    report: (report: JobReport | LogReport) => void,
    oldest: () => OldestRequest | undefined,
  ) {
    this.#policy = policy
    this.#report = report
    this.#oldest = oldest
    this.body = makeBody(this)
  }

  get signal(): AbortSignal {
    return this.#abort.signal
  }

  get pausing(): boolean {
    return this.#pausing
  }

  /** What the body refuses here means there never was a job. */
  async prepare(): Promise<void> {
    await this.body.prepare()
  }

  /** Runs the body to its end and reports it; never rejects. @returns whether it succeeded */
  async run(): Promise<boolean> {
    this.#report({ kind: 'job-running', id: this.id, progress: this.#progress() })
    this.#timer = setInterval(() => this.#tick(), TICK_MS)
    let outcome: JobOutcome = { kind: 'success' }
    try {
      await this.body.run()
      if (this.signal.aborted) {
        if (!this.body.applied) throw new Cancelled()
        outcome = { kind: 'success', applied: true }
      }
    } catch (error) {
      outcome = this.signal.aborted
        ? { kind: 'cancelled' }
        : { kind: 'failed', error: error instanceof Error ? error.message : String(error) }
    }
    const receipt = this.body.receipt()
    const result = this.body.result?.()
    if (outcome.kind !== 'success') await this.#undo()
    this.#over = true
    clearInterval(this.#timer)
    this.#report({
      kind: 'job-ended',
      id: this.id,
      progress: this.#progress(),
      outcome,
      receipt,
      ...(result === undefined ? {} : { result }),
    })
    return outcome.kind === 'success'
  }

  async #undo(): Promise<void> {
    try {
      await this.body.finalize(false)
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error)
      this.#report({
        kind: 'log',
        level: 'warn',
        fields: { job: this.id, error: text },
        text: 'job clean-up failed',
      })
    }
  }

  // Verbs of the main thread.

  requestPause(): void {
    this.#pausing = true
    this.wake()
  }

  resume(): void {
    this.#pausing = false
    this.#resume?.()
    this.#resume = undefined
  }

  cancel(): void {
    this.#abort.abort()
    this.resume()
    this.wake()
  }

  // What the body is given.

  async pausePoint(): Promise<void> {
    while (this.#pausing && !this.signal.aborted) {
      const resumed = new Promise<void>((resolve) => {
        this.#resume = resolve
      })
      this.#meter.reset()
      this.#report({ kind: 'job-paused', id: this.id, progress: this.#progress() })
      await resumed
    }
    if (this.signal.aborted) throw new Cancelled()
  }

  async wait(timeoutMs?: number): Promise<void> {
    if (this.signal.aborted) throw new Cancelled()
    if (this.#pausing) return
    let timer: NodeJS.Timeout | undefined
    await new Promise<void>((resolve) => {
      this.#awake = resolve
      if (timeoutMs !== undefined) timer = setTimeout(resolve, timeoutMs)
    })
    clearTimeout(timer)
    this.#awake = undefined
    if (this.signal.aborted) throw new Cancelled()
  }

  wake(): void {
    this.#awake?.()
  }

  phase(phase: JobPhase): void {
    this.#phase = phase
  }

  ready(): void {
    this.#phase = 'ready'
    this.#report({ kind: 'job-ready', id: this.id, progress: this.#progress() })
  }

  ioError(operation: 'read' | 'write', error: unknown, fatal = false): ErrorAction {
    const nospace = error instanceof IoError && error.code === 'ENOSPC'
    const action = fatal || this.signal.aborted ? 'report' : actionOf(this.#policy[operation], nospace)
    this.#report({ kind: 'job-error', id: this.id, operation, action, nospace })
    if (action === 'stop') this.#pausing = true
    return action
  }

  #tick(): void {
    this.body.look?.(performance.now())
    this.tell()
  }

  #progress(): JobProgress {
    const progress = this.body.progress()
    const oldest = this.#oldest()
    return {
      ...progress,
      phase: this.#phase,
      rate: this.#meter.rate(progress.offset),
      ...(oldest === undefined ? {} : { oldest }),
    }
  }

  /** Reports the counters when they have changed. */
  tell(): void {
    if (this.#over) return
    const progress = this.#progress()
    const text = JSON.stringify(progress)
    if (text === this.#lastProgress) return
    this.#lastProgress = text
    this.#report({ kind: 'job-progress', id: this.id, progress })
  }
}

function actionOf(policy: OnError, nospace: boolean): ErrorAction {
  switch (policy) {
    case 'report':
    case 'ignore':
    case 'stop':
      return policy
    case 'enospc':
    case 'auto':
      return nospace ? 'stop' : 'report'
    default:
      return policy satisfies never
  }
}
