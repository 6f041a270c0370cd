// SPDX-License-Identifier: Apache-2.0
// What kind of job is started, and how it is to be treated: decided by the handlers, kept for the life of the job.

import type { CopyMode } from '../../common/job-messages.js'

/** Jobs that move data between nodes: they have the `block-job-*` verbs and events. */
export type BlockJobType = 'mirror' | 'backup' | 'commit' | 'stream'

export type JobType =
  | BlockJobType
  | 'create'
  | 'x-check'
  | 'x-bench'
  | 'x-compare'
  | 'x-resize'
  | 'x-memory-save'
  | 'x-memory-restore'
  | 'x-memory-convert'
  | 'x-memory-inspect'
  | 'x-migrate'

export interface JobPlan {
  readonly id: string
  readonly type: JobType
  /** Bytes per second, 0 = no limit. */
  readonly speed: number
  readonly copyMode: CopyMode
  readonly autoFinalize: boolean
  readonly autoDismiss: boolean
}

const blockJobs: ReadonlySet<JobType> = new Set(['mirror', 'backup', 'commit', 'stream'])

export function isBlockJob(type: JobType): type is BlockJobType {
  return blockJobs.has(type)
}
