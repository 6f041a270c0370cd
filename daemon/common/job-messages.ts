// SPDX-License-Identifier: Apache-2.0
// What crosses the line between the main thread and any worker about jobs: the verbs of the main thread, and what a
// worker reports of a job. Part of the messages of disk workers and of memory workers.

import type { JsonObject } from '../../protocol/json-value.js'
import type { Convergence } from './convergence.js'

/** The request that waits longest in the kernel. */
export interface OldestRequest {
  readonly op: string
  readonly node: string
  readonly ageMs: number
}

export type OnError = 'report' | 'ignore' | 'enospc' | 'stop' | 'auto'
/** What an error policy makes of one error: fail, try again, pause and then try again. */
export type ErrorAction = 'report' | 'ignore' | 'stop'
export type CopyMode = 'background' | 'write-blocking'

export type JobPhase = 'probe' | 'zero' | 'bulk' | 'converge' | 'ready' | 'flush'

/** Counters of a job; `offset` never exceeds `len`. */
export interface JobProgress {
  readonly offset: number
  readonly len: number
  /** A request of the job is in flight. */
  readonly busy: boolean
  readonly phase: JobPhase
  /** Bytes per second over the last seconds, 0 while nothing moves. */
  readonly rate: number
  readonly activelySynced: boolean
  /** Of jobs that can change it themselves. */
  readonly copyMode?: CopyMode
  /** Bytes that its speed limit counted, of jobs that have one. */
  readonly charged?: number
  /** Of jobs that follow a disk in use. */
  readonly convergence?: Convergence
  readonly oldest?: OldestRequest
}

/** What a job did, told when it ended, however it did. Durations in whole milliseconds. */
export interface JobReceipt {
  readonly copied: number
  readonly zeroed: number
  readonly skipped: number
  readonly flush: 'ok' | 'failed' | 'not-reached' | 'disabled'
  readonly durations: Readonly<Partial<Record<JobPhase, number>>>
}

/** What a job found out, for jobs that find something out; shown as it is. */
export type JobResult = JsonObject | Readonly<Record<string, string | number | boolean>>

export type JobOutcome =
  /** applied: it was cancelled too late, what was done stays. */
  | { readonly kind: 'success'; readonly applied?: true }
  | { readonly kind: 'cancelled' }
  | { readonly kind: 'failed'; readonly error: string }

/** Verbs for a job that was started; how it is started is each worker's own. */
export interface JobRequests {
  /** Replied at once; the report `paused` comes before the reply when nothing was in flight, else later. */
  'job-pause': { args: { id: string }; reply: null }
  'job-resume': { args: { id: string }; reply: null }
  /** Forced: stop as soon as the requests in flight have ended. The report `ended` follows. */
  'job-cancel': { args: { id: string }; reply: null }
  /** A ready job: bring the target up to date, flush, end with success. `pivot`: users of the source move on finalize. */
  'job-complete': { args: { id: string; pivot: boolean }; reply: null }
  'job-set-speed': { args: { id: string; speed: number }; reply: null }
  /** What its budget gives it, bytes per second, 0 = no limit; the lesser of it and the speed holds. */
  'job-set-share': { args: { id: string; share: number }; reply: null }
  'job-change': { args: { id: string; copyMode: CopyMode }; reply: null }
  /** After `ended` with success: apply (`commit`) or undo what the job held in the graph; locks are released. */
  'job-finalize': { args: { id: string; commit: boolean }; reply: null }
}

/** The same with the start of a job. An error reply means there never was a job; the reply comes when it runs. */
export interface HostRequests<Spec> extends JobRequests {
  'job-start': { args: { id: string; spec: Spec; share?: number }; reply: null }
}

export type JobReport =
  | { readonly kind: 'job-running'; readonly id: string; readonly progress: JobProgress }
  | { readonly kind: 'job-progress'; readonly id: string; readonly progress: JobProgress }
  | { readonly kind: 'job-ready'; readonly id: string; readonly progress: JobProgress }
  | { readonly kind: 'job-paused'; readonly id: string; readonly progress: JobProgress }
  /** An I/O error and what the policy makes of it. After `stop` the report `job-paused` follows. */
  | {
      readonly kind: 'job-error'
      readonly id: string
      readonly operation: 'read' | 'write'
      readonly action: ErrorAction
      readonly nospace: boolean
    }
  /** The body is over. Success: the graph is still held until `job-finalize`. Else everything was released. */
  | {
      readonly kind: 'job-ended'
      readonly id: string
      readonly progress: JobProgress
      readonly outcome: JobOutcome
      readonly receipt: JobReceipt
      readonly result?: JobResult
    }

/** Level, text and fields of a log line; the main thread writes it. */
export interface LogReport {
  readonly kind: 'log'
  readonly level: 'error' | 'warn' | 'info' | 'debug' | 'trace'
  readonly fields: Readonly<Record<string, unknown>>
  readonly text: string
}
