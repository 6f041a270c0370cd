// SPDX-License-Identifier: Apache-2.0
// Which jobs move data between nodes: the block-job verbs see them, and their ends are told by events of their own.

import type { JobPlan } from './job.js'

export type BlockJobType = 'mirror' | 'commit' | 'stream'

export function isBlockJob(type: JobPlan['type']): type is BlockJobType {
  return type === 'mirror' || type === 'commit' || type === 'stream'
}
