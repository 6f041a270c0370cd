// SPDX-License-Identifier: Apache-2.0
// A job as query-jobs and query-block-jobs show it. Pure; called by the query handlers.
// Members whose names start with x- are ours.

import type {
  blockJobInfo as blockJobInfoType,
  jobInfo as jobInfoType,
} from '../../../protocol/schema/jobs.js'
import type { Infer } from '../../../protocol/schema/types.js'
import type { Convergence } from '../../common/convergence.js'
import type { OldestRequest } from '../../common/job-messages.js'
import type { Job } from './job.js'
import { isOver } from './life.js'

export type JobInfo = Infer<typeof jobInfoType>
export type BlockJobInfo = Infer<typeof blockJobInfoType>

type Details = Pick<
  JobInfo,
  | 'x-phase'
  | 'x-rate'
  | 'x-eta'
  | 'x-budget'
  | 'x-share'
  | 'x-convergence'
  | 'x-oldest-request'
  | 'x-receipt'
  | 'x-result'
>

export function jobInfo(job: Job): JobInfo {
  const { offset, len } = job.progress
  // A create job has no measure but done or not, as managers know it.
  const created = isOver(job.state) || job.state === 'pending' ? 1 : 0
  const create = job.plan.type === 'create'
  return {
    id: job.id,
    type: job.plan.type,
    status: job.state,
    'current-progress': create ? created : offset,
    'total-progress': create ? 1 : len,
    ...(job.error !== undefined && { error: job.error }),
    ...details(job),
  }
}

export function blockJobInfo(job: Job): BlockJobInfo {
  const { offset, len, busy, activelySynced } = job.progress
  const { type } = job.plan
  const common = {
    device: job.id,
    len,
    offset,
    busy: busy && !job.paused && !isOver(job.state),
    paused: job.paused,
    speed: job.speed,
    'io-status': job.ioStatus,
    ready: job.state === 'ready' || job.state === 'standby',
    status: job.state,
    'auto-finalize': job.plan.autoFinalize,
    'auto-dismiss': job.plan.autoDismiss,
    ...(job.error !== undefined && { error: job.error }),
    ...details(job),
  }
  return type === 'mirror' ? { type, ...common, 'actively-synced': activelySynced } : { type, ...common }
}

function details(job: Job): Details {
  const receipt = job.receipt
  return {
    ...(!isOver(job.state) && job.state !== 'pending' && working(job)),
    ...(receipt !== undefined && {
      'x-receipt': {
        'bytes-copied': receipt.copied,
        'bytes-zeroed': receipt.zeroed,
        'bytes-skipped': receipt.skipped,
        flush: receipt.flush,
        durations: receipt.durations,
      },
    }),
    ...(job.result !== undefined && { 'x-result': job.result }),
  }
}

/** Also in query-blockstats. */
export function oldestRequestInfo({ op, node, ageMs }: OldestRequest) {
  return { operation: op, node, 'age-ms': Math.round(ageMs) }
}

function working(job: Job): Details {
  const { phase, rate, offset, len, convergence, oldest } = job.progress
  return {
    'x-phase': phase,
    'x-rate': Math.round(rate),
    ...(rate > 0 && len > offset && { 'x-eta': Math.ceil((len - offset) / rate) }),
    ...(job.seat !== undefined && { 'x-budget': job.seat.budget, 'x-share': job.seat.share }),
    ...(convergence !== undefined && { 'x-convergence': convergenceInfo(convergence) }),
    ...(oldest !== undefined && {
      'x-oldest-request': oldestRequestInfo(oldest),
    }),
  }
}

function convergenceInfo({ verdict, dirtyRate, copyRate, writeLimit }: Convergence) {
  return {
    ...{ verdict, 'dirty-rate': dirtyRate, 'copy-rate': copyRate },
    ...(writeLimit !== undefined && { 'write-limit': writeLimit }),
  }
}
