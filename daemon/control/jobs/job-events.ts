// SPDX-License-Identifier: Apache-2.0
// The events of one job, as the reference has them: JOB_STATUS_CHANGE of every job, BLOCK_JOB_* of those on nodes. Used by Job.

import type { JobReport } from '../../common/job-messages.js'
import type { EventSink } from '../commands.js'
import type { JobState } from './life.js'
import { isBlockJob, type JobPlan } from './plan.js'

/** How far it has come, bytes, and its limit. */
export interface JobNumbers {
  readonly len: number
  readonly offset: number
  readonly speed: number
}

export class JobEvents {
  readonly #plan: JobPlan
  readonly #events: EventSink

  constructor(plan: JobPlan, events: EventSink) {
    this.#plan = plan
    this.#events = events
  }

  status(status: JobState): void {
    this.#events.emit('JOB_STATUS_CHANGE', { id: this.#plan.id, status })
  }

  error({ operation, action }: Extract<JobReport, { kind: 'job-error' }>): void {
    this.#events.emit('BLOCK_JOB_ERROR', { device: this.#plan.id, operation, action })
  }

  ready(numbers: JobNumbers): void {
    this.#events.emit('BLOCK_JOB_READY', this.#facts(numbers))
  }

  pending(): void {
    const { id, type } = this.#plan
    if (isBlockJob(type)) this.#events.emit('BLOCK_JOB_PENDING', { type, id })
  }

  /** @param error  of a job that was not cancelled; undefined: it succeeded */
  completed(numbers: JobNumbers, error: string | undefined): void {
    if (!isBlockJob(this.#plan.type)) return
    const facts = this.#facts(numbers)
    this.#events.emit('BLOCK_JOB_COMPLETED', error === undefined ? facts : { ...facts, error })
  }

  cancelled(numbers: JobNumbers): void {
    if (isBlockJob(this.#plan.type)) this.#events.emit('BLOCK_JOB_CANCELLED', this.#facts(numbers))
  }

  #facts({ len, offset, speed }: JobNumbers) {
    const { id: device, type } = this.#plan
    return { device, type, len, offset, speed }
  }
}
