// SPDX-License-Identifier: Apache-2.0
// One job as the main thread knows it: takes the worker's reports and the users' verbs, keeps the state, emits the
// events. The work itself is done in the worker.
// Invariant: the state only moves along life.ts, every move emits one JOB_STATUS_CHANGE, and a job has one end.

import { strict as assert } from 'node:assert'
import { atMost } from '../../common/deadline.js'
import type { CopyMode, JobProgress, JobReceipt, JobReport, JobResult } from '../../common/job-messages.js'
import { CommandError } from '../../errors.js'
import type { Seat } from '../budgets.js'
import { JobEvents, type JobNumbers } from './job-events.js'
import { accepts, isDone, isOver, type JobState, type JobVerb, mayFollow, refusal } from './life.js'
import type { JobPlan } from './plan.js'
import type { JobSurroundings, JobWorker } from './surroundings.js'
import { Verbs } from './verbs.js'
import { Verdicts } from './verdicts.js'

export type IoStatus = 'ok' | 'failed' | 'nospace'

const CANCELLED = 'Operation canceled'
/** Who cancels a backup is answered when it has ended, as the reference does, but never waits longer for a stuck target. */
const CANCEL_MS = 2000
const NOTHING: JobProgress = {
  ...({ offset: 0, len: 0, busy: false, phase: 'probe', rate: 0 } as const),
  activelySynced: false,
}

export class Job {
  readonly plan: JobPlan
  readonly #around: JobSurroundings
  #state: JobState = 'created'
  #progress = NOTHING
  #speed: number
  #copyMode: CopyMode
  /** A user or an error policy paused it; true from the request on, not only when it took effect. */
  #userPaused = false
  /** The end a user asked for. 'soft': success without a change of the graph. */
  #wish: 'none' | 'complete' | 'soft' | 'forced' = 'none'
  /** A completion was accepted while paused and is told to the worker on resume. */
  #completeLater = false
  #finalizing = false
  #sealed = false
  #ioStatus: IoStatus = 'ok'
  #autoDismiss: boolean
  #error: string | undefined
  #cancelled = false
  /** Resolves when it is concluded. */
  readonly ended: Promise<void>
  #tellEnded: () => void = () => {}
  #receipt: JobReceipt | undefined
  #result: JobResult | undefined
  readonly #verdicts: Verdicts
  readonly #verbs: Verbs
  readonly #events: JobEvents

  constructor(plan: JobPlan, around: JobSurroundings) {
    this.plan = plan
    this.#around = around
    this.#speed = plan.speed
    this.#copyMode = plan.copyMode
    this.#autoDismiss = plan.autoDismiss
    this.#verdicts = new Verdicts(plan.id, around.events)
    this.#verbs = new Verbs(plan.id, around)
    this.#events = new JobEvents(plan, around.events)
    this.ended = new Promise((resolve) => {
      this.#tellEnded = resolve
    })
  }

  get id(): string {
    return this.plan.id
  }
  get order(): number {
    return this.#around.order
  }
  get worker(): JobWorker {
    return this.#around.worker
  }
  get state(): JobState {
    return this.#state
  }
  get seat(): Seat | undefined {
    return this.#around.seat
  }
  get progress(): JobProgress {
    return this.#progress
  }
  get speed(): number {
    return this.#speed
  }
  get ioStatus(): IoStatus {
    return this.#ioStatus
  }
  get error(): string | undefined {
    return this.#error
  }
  /** It ended because somebody wanted that, not by an error of its own. */
  get cancelled(): boolean {
    return this.#cancelled
  }
  get receipt(): JobReceipt | undefined {
    return this.#receipt
  }
  get result(): JobResult | undefined {
    return this.#result
  }
  /** As `query-block-jobs` has it: a pending mirror keeps its nodes quiet and so counts as paused. */
  get paused(): boolean {
    return this.#userPaused || (this.plan.type === 'mirror' && this.#state === 'pending')
  }

  /** Takes a report of the worker; what comes after the end is ignored. */
  report(report: JobReport): void {
    if (isOver(this.#state) || isDone(this.#state)) return
    switch (report.kind) {
      case 'job-running':
        this.#progress = report.progress
        this.#events.status(this.#state)
        this.#to('running')
        // It may have come before the worker knew of the job.
        if (this.#wish === 'forced') this.#verbs.tell('job-cancel', { id: this.id })
        return
      case 'job-progress':
        this.#advance(report.progress)
        return
      case 'job-ready':
        this.#advance(report.progress)
        this.#becomeReady()
        return
      case 'job-paused':
        this.#advance({ ...report.progress, busy: false })
        this.#enterPause()
        return
      case 'job-error':
        this.#onIoError(report)
        return
      case 'job-ended':
        this.#receipt = report.receipt
        this.#result = report.result
        this.#progress = { ...report.progress, busy: false }
        this.#onEnded(report.outcome)
        return
      default:
        report satisfies never
    }
  }

  /** The worker is gone, and the job's work with it. */
  workerEnded(reason: string): void {
    if (isOver(this.#state)) return
    this.#userPaused = false
    this.#leavePause()
    this.#progress = { ...this.#progress, busy: false }
    const forced = this.#wish === 'forced'
    this.#abort(forced ? CANCELLED : reason, forced)
  }

  /** @param force  false: a ready mirror ends with success; everything else is cancelled either way */
  async cancel(force: boolean): Promise<void> {
    this.#check('cancel')
    if (!force && this.#userPaused)
      throw new CommandError(`The block job for device '${this.id}' is currently paused`)
    if (isDone(this.#state)) return this.#undo()
    if (!force && this.#state === 'ready') {
      if (this.#wish !== 'none') return
      this.#wish = 'soft'
      this.#verbs.tell('job-complete', { id: this.id, pivot: false })
      return
    }
    if (this.#wish === 'forced') return
    this.#wish = 'forced'
    this.#around.group?.failed()
    if (this.#userPaused) this.#forgetPause()
    this.#verbs.tell('job-cancel', { id: this.id })
    const { type } = this.plan
    if (type === 'backup' && this.#state !== 'created')
      await atMost(this.#around.group?.ended ?? this.ended, CANCEL_MS)
  }

  /** Answers when the worker took notice; the pause has its effect when requests in flight have ended. */
  async pause(): Promise<void> {
    this.#check('pause')
    if (this.#userPaused) throw new CommandError('Job is already paused')
    this.#userPaused = true
    if (this.#wish === 'forced') return
    await this.#verbs.pause()
  }

  resume(): void {
    if (!this.#userPaused) throw new CommandError("Can't resume a job that was not paused")
    this.#check('resume')
    this.#forgetPause()
    if (this.#wish === 'forced') return
    this.#verbs.tell('job-resume', { id: this.id })
    if (this.#completeLater) this.#verbs.tell('job-complete', { id: this.id, pivot: true })
    this.#completeLater = false
  }

  complete(): void {
    this.#check('complete')
    if (this.#wish === 'soft' || this.#wish === 'forced')
      throw new CommandError(`The active block job '${this.id}' cannot be completed`)
    if (this.#wish === 'complete') return
    this.#wish = 'complete'
    if (this.#userPaused) this.#completeLater = true
    else this.#verbs.tell('job-complete', { id: this.id, pivot: true })
  }

  /** @param speed  bytes per second, 0 = no limit */
  setSpeed(speed: number): void {
    this.#check('set-speed')
    if (speed < 0) throw new CommandError("Parameter 'speed' expects a non-negative value")
    this.#speed = speed
    this.#verbs.tell('job-set-speed', { id: this.id, speed })
  }

  /** Its budget gives it another share. @param share  bytes per second, 0 = no limit */
  setShare(share: number): void {
    if (accepts(this.#state, 'set-speed')) this.#verbs.tell('job-set-share', { id: this.id, share })
  }

  change(copyMode: CopyMode): void {
    this.#check('change')
    if (this.plan.type !== 'mirror') throw new CommandError('Job type does not support change')
    if (copyMode === this.#copyMode) return
    if (copyMode === 'background')
      throw new CommandError("Change to copy mode 'background' is not implemented")
    this.#copyMode = copyMode
    this.#verbs.tell('job-change', { id: this.id, copyMode })
  }

  /** Answers when the job is concluded. */
  async finalize(): Promise<void> {
    this.#check('finalize')
    const { group } = this.#around
    await (group === undefined ? this.commit() : group.finalize())
  }

  dismiss(): void {
    this.#check('dismiss')
    this.#to('null')
    this.#around.dismissed()
  }

  /** Cancels the job in whatever state it is, and forgets it once it is concluded. */
  async end(): Promise<void> {
    this.#autoDismiss = true
    if (this.#state === 'concluded') this.dismiss()
    else if (accepts(this.#state, 'cancel') && !this.#finalizing && !this.#sealed) await this.cancel(true)
  }

  #check(verb: JobVerb): void {
    if (!accepts(this.#state, verb) || this.#finalizing || this.#sealed)
      throw new CommandError(refusal(this.id, this.#state, verb))
  }

  #advance(progress: JobProgress): void {
    this.#progress = progress
    // There is no way back; what was asked for here may not have come to the worker when it told this.
    if (progress.copyMode === 'write-blocking') this.#copyMode = progress.copyMode
    this.#verdicts.take(progress)
  }

  #onIoError(report: Extract<JobReport, { kind: 'job-error' }>): void {
    this.#events.error(report)
    if (report.action !== 'stop' || this.#wish === 'forced') return
    this.#userPaused = true
    if (this.#ioStatus === 'ok') this.#ioStatus = report.nospace ? 'nospace' : 'failed'
  }

  #onEnded(outcome: Extract<JobReport, { kind: 'job-ended' }>['outcome']): void {
    this.#userPaused = false
    this.#leavePause()
    const forced = this.#wish === 'forced'
    switch (outcome.kind) {
      case 'success':
        // A forced cancel that came too late for the worker still counts where nothing was applied yet.
        if (forced && outcome.applied !== true) void this.#undo()
        else this.#succeed()
        return
      case 'cancelled':
        this.#abort(CANCELLED, true)
        return
      case 'failed':
        this.#abort(outcome.error, forced)
        return
      default:
        outcome satisfies never
    }
  }

  #succeed(): void {
    const { group } = this.#around
    this.#to('waiting')
    if (group !== undefined) {
      group.done()
      return
    }
    this.pend()
    if (this.plan.autoFinalize) void this.commit()
  }

  /** Nobody else is waited for. For the group; others do it by themselves. */
  pend(): void {
    this.#to('pending')
    if (!this.plan.autoFinalize) this.#events.pending()
  }

  /** Another one of its group failed. */
  giveUp(): void {
    if (this.#finalizing || this.#wish === 'forced' || !accepts(this.#state, 'cancel')) return
    this.#sealed = false
    void this.cancel(true)
  }

  /** Its group is being finalized: no verb comes in between. */
  seal(): void {
    this.#sealed = true
  }

  /** Applies a pending job's result; never rejects: a failure is the job's. For the group. */
  async commit(): Promise<void> {
    if (this.#state !== 'pending' || this.#finalizing) return
    this.#finalizing = true
    const failure = await this.#verbs.finalize(true)
    this.#finalizing = false
    if (this.#state !== 'pending') return
    if (failure !== undefined) this.#abort(failure, false)
    else this.#conclude('BLOCK_JOB_COMPLETED')
  }

  async #undo(): Promise<void> {
    this.#wish = 'forced'
    this.#error = CANCELLED
    this.#cancelled = true
    this.#to('aborting')
    this.#around.group?.failed()
    await this.#verbs.finalize(false)
    if (this.#state === 'aborting') this.#conclude('BLOCK_JOB_CANCELLED')
  }

  #abort(error: string, cancelled: boolean): void {
    this.#error = error
    this.#cancelled = cancelled
    this.#to('aborting')
    this.#around.group?.failed()
    this.#conclude(cancelled ? 'BLOCK_JOB_CANCELLED' : 'BLOCK_JOB_COMPLETED')
  }

  #conclude(event: 'BLOCK_JOB_COMPLETED' | 'BLOCK_JOB_CANCELLED'): void {
    if (event === 'BLOCK_JOB_CANCELLED') this.#events.cancelled(this.#numbers())
    else this.#events.completed(this.#numbers(), this.#error)
    this.#around.concluded()
    this.#to('concluded')
    if (this.#autoDismiss) {
      this.#to('null')
      this.#around.dismissed()
    }
    this.#tellEnded()
  }

  #becomeReady(): void {
    const wasPaused = this.#state === 'paused'
    this.#leavePause()
    if (this.#state !== 'running') return
    this.#to('ready')
    this.#events.ready(this.#numbers())
    if (wasPaused) this.#to('standby')
  }

  /** A pause took effect. It may have been taken back meanwhile: then the worker has the resume already. */
  #enterPause(): void {
    if (!this.#userPaused || this.#wish === 'forced') return
    if (this.#state === 'running') this.#to('paused')
    else if (this.#state === 'ready') this.#to('standby')
  }

  #leavePause(): void {
    if (this.#state === 'paused') this.#to('running')
    else if (this.#state === 'standby') this.#to('ready')
  }

  #forgetPause(): void {
    this.#userPaused = false
    this.#ioStatus = 'ok'
    this.#leavePause()
  }

  #numbers(): JobNumbers {
    const { len, offset } = this.#progress
    return { len, offset, speed: this.#speed }
  }

  #to(state: JobState): void {
    assert(mayFollow(this.#state, state), `job ${this.id}: ${this.#state} cannot become ${state}`)
    this.#state = state
    this.#events.status(this.#state)
  }
}
