// SPDX-License-Identifier: Apache-2.0
// Whether a job that follows a disk in use gets done: what a worker reports, and the main thread shows.

/** Nobody knows yet; what is left shrinks; it neither shrinks nor grows; it grows. */
export type Verdict = 'unknown' | 'converging' | 'stalled' | 'diverging'

/** What is done when a job diverges besides telling: nothing; changes wait for the target; changes are slowed down. */
export type OnDiverge = 'report' | 'write-blocking' | 'throttle'

/** Rates in bytes per second over the last seconds. */
export interface Convergence {
  readonly verdict: Verdict
  /** What users change of the source, in whole chunks of the dirty bitmap; a chunk they change again and again counts once a look. */
  readonly dirtyRate: number
  /** What the job gets done. */
  readonly copyRate: number
  /** Bytes per second that users may write while they are slowed down. */
  readonly writeLimit?: number
}
