// SPDX-License-Identifier: Apache-2.0
// What a job on the main thread has around it: its worker, who hears of it, and what ends with it. Made by Jobs.

import type { Logger } from 'pino'
import type { JobRequests } from '../../common/job-messages.js'
import type { Seat } from '../budgets.js'
import type { EventSink } from '../commands.js'
import type { JobGroup } from './group.js'

/** A worker that has a job, whatever kind of worker it is. */
export interface JobWorker {
  readonly name: string
  request<N extends keyof JobRequests>(
    name: N,
    args: JobRequests[N]['args'],
  ): Promise<JobRequests[N]['reply']>
}

export interface JobSurroundings {
  readonly worker: JobWorker
  readonly events: EventSink
  /** Its part in a budget. */
  readonly seat: Seat | undefined
  readonly log: Logger
  /** Later ones are listed first. */
  readonly order: number
  /** It ends together with these; undefined: by itself. */
  readonly group: JobGroup | undefined
  /** The job is over: what it held is free. Called once, before the event says so. */
  readonly concluded: () => void
  /** The job is forgotten. */
  readonly dismissed: () => void
}
