// SPDX-License-Identifier: Apache-2.0
// What a kind of job implements (JobBody) and what it is given (JobControl). The life of a job — states, verbs,
// events — is a table on the main thread; a body only works, and obeys its control.

import type { Convergence } from '../../common/convergence.js'
import type { CopyMode, JobPhase, JobReceipt, JobResult } from '../../common/job-messages.js'
import type { CopyControl } from '../copy/pace.js'

/** The copy engine's part, and what only a body needs. */
export interface JobControl extends CopyControl {
  /** Ends a wait(); so does every verb. */
  wake(): void
  phase(phase: JobPhase): void
  /** Source and target are equal, and the job keeps them so. */
  ready(): void
}

export interface BodyProgress {
  /** Bytes done and bytes known to be there to do; offset <= len. */
  readonly offset: number
  readonly len: number
  readonly busy: boolean
  readonly activelySynced: boolean
  /** Of jobs that can change it themselves. */
  readonly copyMode?: CopyMode
  /** Bytes that the speed limit counted, of jobs that have one. */
  readonly charged?: number
  /** Of jobs that follow a disk in use. */
  readonly convergence?: Convergence
}

export interface JobBody {
  /** Checks and claims; what it throws means there never was a job, and nothing stays behind. */
  prepare(): Promise<void>
  /** Works until done or, for jobs that get ready, until complete() was asked. */
  run(): Promise<void>
  /** What was done cannot be undone any more: who cancels comes too late. Asked when run() has ended well. */
  readonly applied?: boolean
  /** What was done, asked once when run() has ended, however it did. */
  receipt(): JobReceipt
  /** What was found out, asked once after receipt(). */
  result?(): JobResult | undefined
  progress(): BodyProgress
  /** Time for a look at rates; several times a second while run() is under way. @param at  monotonic, milliseconds */
  look?(at: number): void
  /** A ready job is asked to end with success. */
  complete?(pivot: boolean): void
  setSpeed?(bytesPerSecond: number): void
  /** What a budget gives it; the lesser of it and the speed holds. */
  setShare?(bytesPerSecond: number): void
  change?(copyMode: CopyMode): void
  /** Once, after run() ended: applies what is pending in the graph, or undoes it, and lets go of everything. */
  finalize(commit: boolean): Promise<void>
}
