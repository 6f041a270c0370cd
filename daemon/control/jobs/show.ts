// SPDX-License-Identifier: Apache-2.0
// A job as query-jobs and query-block-jobs show it. Pure; called by the query handlers.
// Members whose names start with x- are ours.

import type { JobPhase } from '../../iothread/messages.js'
import type { Job } from './job.js'
import { isOver, type JobState } from './life.js'

/** What we show beyond QEMU. */
export interface JobDetails {
  'x-phase'?: JobPhase
  /** Bytes per second over the last seconds. */
  'x-rate'?: number
  /** Seconds until the rest is copied at this rate; absent while nothing moves or nothing is left. */
  'x-eta'?: number
  'x-oldest-request'?: { operation: string; node: string; 'age-ms': number }
  'x-receipt'?: {
    'bytes-copied': number
    'bytes-zeroed': number
    'bytes-skipped': number
    flush: 'ok' | 'failed' | 'not-reached' | 'disabled'
    durations: Partial<Record<JobPhase, number>>
  }
}

export interface JobInfo extends JobDetails {
  id: string
  type: 'mirror' | 'create'
  status: JobState
  'current-progress': number
  'total-progress': number
  error?: string
}

export interface BlockJobInfo extends JobDetails {
  type: 'mirror'
  device: string
  len: number
  offset: number
  busy: boolean
  paused: boolean
  speed: number
  'io-status': 'ok' | 'failed' | 'nospace'
  ready: boolean
  status: JobState
  'auto-finalize': boolean
  'auto-dismiss': boolean
  error?: string
  'actively-synced': boolean
}

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
  return {
    type: 'mirror',
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
    'actively-synced': activelySynced,
    ...details(job),
  }
}

function details(job: Job): JobDetails {
  const out: JobDetails = {}
  const { phase, rate, offset, len, oldest } = job.progress
  if (!isOver(job.state) && job.state !== 'pending') {
    out['x-phase'] = phase
    out['x-rate'] = Math.round(rate)
    if (rate > 0 && len > offset) out['x-eta'] = Math.ceil((len - offset) / rate)
    if (oldest !== undefined)
      out['x-oldest-request'] = {
        operation: oldest.op,
        node: oldest.node,
        'age-ms': Math.round(oldest.ageMs),
      }
  }
  const receipt = job.receipt
  if (receipt !== undefined)
    out['x-receipt'] = {
      'bytes-copied': receipt.copied,
      'bytes-zeroed': receipt.zeroed,
      'bytes-skipped': receipt.skipped,
      flush: receipt.flush,
      durations: { ...receipt.durations },
    }
  return out
}
