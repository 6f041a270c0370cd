// SPDX-License-Identifier: Apache-2.0
// What the command handlers need from their surroundings: a worker to talk to, a place for events, a log.
// Given by the composition root.

import type { Arguments, CommandName, EventData, EventName, Returns } from '../../protocol/schema/index.js'
import type { Report, RequestName, Requests } from '../iothread/messages.js'

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

/** Arguments are validated; failures are thrown: CommandError, IoError, Cancelled; others are bugs. */
export type Handlers = {
  readonly [N in CommandName]?: (args: Arguments<N>) => Returns<N> | Promise<Returns<N>>
}

/** Events for every client that listens. Never fails and never waits for a client. */
export interface EventSink {
  emit<N extends EventName>(name: N, data: EventData<N>): void
}

/** The part of a pino logger that is used here. */
export type Log = {
  readonly [L in 'error' | 'warn' | 'info' | 'debug' | 'trace']: (
    fields: Readonly<Record<string, unknown>>,
    text: string,
  ) => void
}
