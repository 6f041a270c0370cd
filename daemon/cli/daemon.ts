// SPDX-License-Identifier: Apache-2.0
// A daemon as the commands see it, whether it runs elsewhere (connection.ts) or inside (embedded.ts).

import type { Client } from './client.js'

/** A daemon to talk to, for the length of one command. */
export interface Daemon {
  readonly client: Client
  /** Path of a socket on which others can reach the same daemon. */
  readonly socket: string
  /** Started by this command and gone with it. */
  readonly embedded: boolean
  /** What the daemon said last on stderr, when it is embedded. */
  lastWords(): string | undefined
  /** Says good-bye; an embedded daemon is ended and waited for. */
  close(): Promise<void>
  /** Ends an embedded daemon without waiting for its storage. */
  kill(): void
}
