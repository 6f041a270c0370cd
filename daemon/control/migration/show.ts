// SPDX-License-Identifier: Apache-2.0
// What query-migrate answers, from what a transfer counted. Pure.

import type { Returns } from '../../../protocol/schema/index.js'
import type { MigrationStatus } from '../../../protocol/schema/migrate.js'
import type { StreamAddress, TimeClass, TransferStats } from '../../memory/messages.js'
import type { Job } from '../jobs/job.js'
import { isOver } from '../jobs/life.js'

type MigrationInfo = Returns<'query-migrate'>

/** @param error  why it failed */
export function migrationInfo(
  status: MigrationStatus,
  stats: TransferStats | undefined,
  error: string | undefined,
): MigrationInfo {
  if (status === 'failed') return { status, ...(error !== undefined && { 'error-desc': error }) }
  const listening = stats?.listening
  if (status === 'setup' && listening !== undefined)
    return { status, 'socket-address': [shownAddress(listening)] }
  if (status === 'cancelled' || stats?.head === undefined) return { status }
  const { setup, pages, tail, flush } = stats.phases
  const total = setup + pages + tail + flush
  return {
    status,
    'total-time': Math.round(total),
    'setup-time': Math.round(setup),
    ...(status === 'completed' ? { downtime: Math.round(tail + flush) } : { 'expected-downtime': 0 }),
    ram: ram(stats, stats.head, total - setup),
    'x-phases': phases(stats),
  }
}

/** @param time  from the first byte on, milliseconds */
function ram(
  { transferred, remaining, normal, duplicate, passes }: TransferStats,
  { total, pageSize }: NonNullable<TransferStats['head']>,
  time: number,
): NonNullable<MigrationInfo['ram']> {
  const perMs = (value: number) => (time > 0 ? value / time : 0)
  return {
    ...{ transferred, remaining, total, duplicate, normal },
    'normal-bytes': normal * pageSize,
    'dirty-pages-rate': 0,
    mbps: (perMs(transferred) * 8) / 1000,
    'dirty-sync-count': passes,
    'page-size': pageSize,
    'multifd-bytes': 0,
    'pages-per-second': Math.round(perMs(normal + duplicate) * 1000),
    'precopy-bytes': 0,
    'downtime-bytes': 0,
    'postcopy-bytes': 0,
    'postcopy-requests': 0,
    'dirty-sync-missed-zero-copy': 0,
  }
}

function phases(stats: TransferStats): NonNullable<MigrationInfo['x-phases']> {
  const { pages, tail, flush } = stats.phases
  return {
    'pages-ms': Math.round(pages),
    'tail-ms': Math.round(tail),
    'flush-ms': Math.round(flush),
    ...(stats.flushing !== undefined && { 'flush-age-ms': Math.round(stats.flushing) }),
    'longest-stall-ms': stats.longestWait,
    waits: stats.waits.map(shownClass),
    'longest-iteration-ms': stats.longestIteration,
    iterations: stats.iterations.map(shownClass),
  }
}

function shownClass({ upTo, count }: TimeClass) {
  return upTo === undefined ? { count } : { 'up-to-ms': upTo, count }
}

/** The same of a job that is not the migration's. */
export function transferInfo(job: Job, stats: TransferStats | undefined): MigrationInfo {
  return migrationInfo(statusOf(job, stats), stats, job.error)
}

function statusOf({ state, error, cancelled }: Job, stats: TransferStats | undefined): MigrationStatus {
  if (!isOver(state)) return runningStatus(stats)
  if (error === undefined) return 'completed'
  return cancelled ? 'cancelled' : 'failed'
}

/** How far a transfer is that runs. */
export function runningStatus(stats: TransferStats | undefined): 'setup' | 'active' | 'device' {
  if (stats?.head === undefined) return 'setup'
  return stats.phases.tail > 0 || stats.phases.flush > 0 ? 'device' : 'active'
}

function shownAddress(address: StreamAddress): NonNullable<MigrationInfo['socket-address']>[number] {
  return address.kind === 'unix'
    ? { type: 'unix', path: address.path }
    : { type: 'inet', host: address.host, port: String(address.port) }
}
