// SPDX-License-Identifier: Apache-2.0
// What a kind of job implements (JobBody) and what it is given (JobContext). The life of a job — states, verbs,
// events — is a table on the main thread; a body only works, and obeys its context.

import type { CopyMode, JobPhase, JobReceipt } from '../messages.js'

export interface JobContext {
  readonly id: string
  /** Aborted by a forced cancel; requests in flight still end. */
  readonly signal: AbortSignal
  /** Waits while the job is paused. Called before every piece of work; throws Cancelled when the job is. */
  pausePoint(): Promise<void>
  /** The body has nothing in flight and is about to wait: lets a pause take effect. */
  idle(): void
  /** True when a pause was asked for and the body should let its requests run dry. */
  readonly pausing: boolean
  phase(phase: JobPhase): void
  /** Changes to the counters, bytes. */
  addLength(bytes: number): void
  addDone(bytes: number): void
  inFlight(change: number): void
  /** Source and target are equal; `synced` also tells write-blocking mirrors. */
  ready(): void
  setSynced(synced: boolean): void
  /**
   * What the policy makes of an I/O error; tells the main thread.
   * 'report': the body throws. 'ignore': it tries again. 'stop': the job is paused, then it tries again.
   */
  ioError(operation: 'read' | 'write', error: Error): 'report' | 'ignore' | 'stop'
}

export interface JobBody {
  /** Checks and claims; what it throws means there never was a job. */
  prepare(): Promise<void>
  /** Works until done, until complete() was asked (jobs that get ready), or throws. */
  run(context: JobContext): Promise<JobReceipt>
  /** A ready job is asked to end with success. */
  complete?(pivot: boolean): void
  setSpeed?(bytesPerSecond: number): void
  change?(copyMode: CopyMode): void
  /** After success: apply what is pending in the graph, or undo it. Always called once, after run() ended. */
  finalize(commit: boolean): Promise<void>
}
