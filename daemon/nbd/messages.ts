// SPDX-License-Identifier: Apache-2.0
// What crosses the line between the main thread and the NBD server's worker: where to listen, which exports there are, and
// which client chose which. Both sides import this file, and it imports nothing that runs.

import type { AuthzList } from '../../protocol/authz.js'
import type { Agreed } from '../../protocol/nbd/agreed.js'
import type { OfferedExport } from '../../protocol/nbd/server-negotiation.js'
import type { LogReport } from '../common/job-messages.js'
import type * as wire from '../common/worker-messages.js'
import type { CredentialsPlace } from '../tls/messages.js'

export type ListenAddress =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }

/** Who of those with a certificate may come. */
export type AuthzSpec =
  | ({ readonly kind: 'list' } & AuthzList)
  /** @param refresh  the file is read for every client */
  | { readonly kind: 'file'; readonly filename: string; readonly refresh: boolean }
  | { readonly kind: 'simple'; readonly identity: string }
  /** The rules are missing. */
  | { readonly kind: 'nobody'; readonly why: string }

export interface ServerSpec {
  readonly address: ListenAddress
  /** For a client's handshake, milliseconds; 0: no limit. */
  readonly handshakeMs: number
  /** Clients at once; 0: any number. */
  readonly maxConnections: number
  /** Number of the first client; the next ones count on. */
  readonly firstConnection: number
  /** undefined: no TLS. Else nobody is served without. */
  readonly tls: CredentialsPlace | undefined
  /** undefined: everybody with a certificate. */
  readonly authz: AuthzSpec | undefined
}

export interface Requests {
  /** Replied when clients can connect. */
  listen: { args: ServerSpec; reply: { port: number | undefined } }
  /** All exports there are, instead of those before. */
  offer: { args: { exports: readonly OfferedExport[] }; reply: null }
  /** Other rules for clients that come from now on. */
  authorize: { args: AuthzSpec; reply: null }
  /** A client that had chosen an export has gone. */
  left: { args: { connection: number }; reply: null }
  /** Listens no more, ends handshakes, and takes the socket's file away. */
  shutdown: { args: { deadlineMs: number }; reply: { left: number } }
}

export type Report =
  | LogReport
  /**
   * A client chose an export.
   * @param fd    the connection, the receiver's from now on
   * @param rest  what came behind the handshake
   */
  | {
      readonly kind: 'chosen'
      readonly connection: number
      readonly fd: number
      readonly agreed: Agreed
      readonly rest: Uint8Array
    }

export type ToWorker = wire.ToWorker<Requests>
export type FromWorker = wire.FromWorker<Report>

/** What a worker is started with (`workerData`). */
export interface WorkerSetup {
  readonly name: string
}
