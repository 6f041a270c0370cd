// SPDX-License-Identifier: Apache-2.0
// What the command handlers need from their surroundings: a worker to talk to, a place for events, a log.
// Given by the composition root.

import type { Report, RequestName, Requests } from '../iothread/messages.js'
import type { JobState } from './jobs/life.js'

/** The main thread's end of one disk worker. */
export interface WorkerHandle {
  readonly name: string
  /** Rejects with CommandError, IoError or Cancelled as the worker said, or when the worker ended. */
  request<N extends RequestName>(name: N, args: Requests[N]['args']): Promise<Requests[N]['reply']>
  onReport(listener: (report: Report) => void): void
  onExit(listener: (error: Error | undefined) => void): void
  terminate(): Promise<void>
}

/** Starts a worker; requests queue until it is up. */
export type StartWorker = (name: string) => WorkerHandle

interface BlockJobEvent {
  readonly device: string
  readonly type: 'mirror'
  readonly len: number
  readonly offset: number
  readonly speed: number
}

export interface EventMap {
  JOB_STATUS_CHANGE: { readonly id: string; readonly status: JobState }
  BLOCK_JOB_READY: BlockJobEvent
  BLOCK_JOB_CANCELLED: BlockJobEvent
  BLOCK_JOB_COMPLETED: BlockJobEvent & { readonly error?: string }
  BLOCK_JOB_PENDING: { readonly type: 'mirror'; readonly id: string }
  BLOCK_JOB_ERROR: {
    readonly device: string
    readonly operation: 'read' | 'write'
    readonly action: 'report' | 'ignore' | 'stop'
  }
}

export interface EventSink {
  emit<N extends keyof EventMap>(name: N, data: EventMap[N]): void
}

/** The part of a pino logger that is used here. */
export type Log = {
  readonly [L in 'error' | 'warn' | 'info' | 'debug' | 'trace']: (
    fields: Readonly<Record<string, unknown>>,
    text: string,
  ) => void
}
