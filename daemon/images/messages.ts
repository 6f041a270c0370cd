// SPDX-License-Identifier: Apache-2.0
// What crosses the line between the main thread and the images server's worker: where to listen, what clients and managers
// ask, and connections on their way to a disk. Both sides import this file, and it imports nothing that runs.

import type { TicketSpec } from '../../protocol/http/json-body.js'
import type { Service } from '../../protocol/http/routes.js'
import type { LogReport } from '../common/job-messages.js'
import type * as wire from '../common/worker-messages.js'

/** Files of credentials, PEM. */
export interface TlsFiles {
  readonly cert: string
  readonly key: string
  /** Clients need a certificate of this authority; undefined: they need none. */
  readonly clientCa: string | undefined
}

export type ImagesAddress =
  | { readonly kind: 'unix'; readonly path: string; readonly mode: number }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number; readonly tls: TlsFiles | undefined }

export interface ListenSpec {
  readonly service: Service
  readonly address: ImagesAddress
  /** Of the control service: whoever removes a ticket waits so long for what is under way; undefined: the default. */
  readonly removeMs?: number
}

/** What is asked of the main thread, which knows the tickets. */
export type Question =
  /** May requests of this ticket be served? Opens its image. */
  | { readonly kind: 'open'; readonly ticket: string }
  | { readonly kind: 'put'; readonly spec: TicketSpec }
  | { readonly kind: 'show'; readonly ticket: string }
  | { readonly kind: 'extend'; readonly ticket: string; readonly timeout: number }
  /** undefined: all of them, without waiting. */
  | { readonly kind: 'remove'; readonly ticket: string | undefined }

export type Answer =
  | { readonly kind: 'done'; readonly body?: Readonly<Record<string, unknown>> }
  | { readonly kind: 'refused'; readonly status: number; readonly message: string }

export interface Requests {
  /** Replied when clients can connect. */
  listen: { args: ListenSpec; reply: { port: number | undefined } }
  /** Reads files of credentials again. */
  reload: { args: null; reply: null }
  answer: { args: { question: number; answer: Answer }; reply: null }
  /** A connection is here again: its next request is not for the disk that had it. */
  take: { args: { connection: number; fd: number; rest: Uint8Array }; reply: null }
  /** A connection that was handed on has gone. */
  left: { args: { connection: number }; reply: null }
  /** Listens no more, ends connections, and takes the sockets' files away. */
  shutdown: { args: { deadlineMs: number }; reply: { left: number } }
}

export type Report =
  | LogReport
  /** Every question gets one answer. */
  | { readonly kind: 'question'; readonly number: number; readonly question: Question }
  /**
   * A connection whose next request names a ticket that may be served.
   * @param fd    the connection, the receiver's from now on
   * @param rest  what was read of it, the head of that request among it
   */
  | {
      readonly kind: 'handed'
      readonly ticket: string
      readonly connection: number
      readonly fd: number
      readonly rest: Uint8Array
    }

export type ToWorker = wire.ToWorker<Requests>
export type FromWorker = wire.FromWorker<Report>
