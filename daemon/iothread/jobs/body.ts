// SPDX-License-Identifier: Apache-2.0
// What a kind of job implements (JobBody) and what it is given (JobControl). The life of a job — states, verbs,
// events — is a table on the main thread; a body only works, and obeys its control.

import type { CopyMode, JobPhase, JobReceipt } from '../messages.js'

export interface JobControl {
  /** Aborted by a forced cancel; requests in flight still end. */
  readonly signal: AbortSignal
  /** A pause was asked for: let the requests in flight run dry, then call pausePoint(). */
  readonly pausing: boolean
  /** With nothing in flight: tells that the job is paused and waits for its end. Throws Cancelled. */
  pausePoint(): Promise<void>
  /** Sleeps until wake(), a verb, or the time is over; what woke it must be looked up. Throws Cancelled. */
  wait(timeoutMs?: number): Promise<void>
  wake(): void
  phase(phase: JobPhase): void
  /** Source and target are equal, and the job keeps them so. */
  ready(): void
  /**
   * What the policy makes of an I/O error; tells the main thread.
   * 'report': the body throws it. 'ignore': it tries again. 'stop': a pause was asked for, then it tries again.
   * @param fatal  no policy can help (a failed flush): always 'report'
   */
  ioError(operation: 'read' | 'write', error: unknown, fatal?: boolean): 'report' | 'ignore' | 'stop'
}

export interface BodyProgress {
  /** Bytes done and bytes known to be there to do; offset <= len. */
  readonly offset: number
  readonly len: number
  readonly busy: boolean
  readonly activelySynced: boolean
}

export interface JobBody {
  /** Checks and claims; what it throws means there never was a job, and nothing stays behind. */
  prepare(): Promise<void>
  /** Works until done or, for jobs that get ready, until complete() was asked. */
  run(): Promise<void>
  /** What was done, asked once when run() has ended, however it did. */
  receipt(): JobReceipt
  progress(): BodyProgress
  /** A ready job is asked to end with success. */
  complete?(pivot: boolean): void
  setSpeed?(bytesPerSecond: number): void
  change?(copyMode: CopyMode): void
  /** Once, after run() ended: applies what is pending in the graph, or undoes it, and lets go of everything. */
  finalize(commit: boolean): Promise<void>
}
