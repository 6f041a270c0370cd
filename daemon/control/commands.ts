// SPDX-License-Identifier: Apache-2.0
// The seam between transport and commands: what a handler is given, what it gives back, where events go.
// Implemented by handlers/ and session-commands.ts; called by the dispatcher only.
// Rule: a handler whose answer is known at once returns it, not a promise, so that queries cost no extra turn.

import type { Arguments, CommandName, EventData, EventName, Returns } from '../../protocol/schema/index.js'

/** Who asks; for logs and for commands that speak about connections. */
export interface SessionInfo {
  /** Unique in the life of the daemon. */
  readonly id: number
  /** Name of the character device or socket it came through. */
  readonly label: string
  /** The other end as far as known: 'unix', '127.0.0.1:4444', 'stdio'. */
  readonly peer: string
}

/** One run of a command. */
export interface CommandCall {
  readonly session: SessionInfo
  /** The descriptor that was sent with the command; the handler owns it. To be asked for before the handler waits. */
  takeDescriptor(): number | undefined
}

/** Arguments were validated against the schema. Failures are thrown: CommandError, IoError, Cancelled; others are bugs. */
export type Handler<N extends CommandName> = (
  args: Arguments<N>,
  call: CommandCall,
) => Returns<N> | Promise<Returns<N>>

export type Handlers = { readonly [N in CommandName]?: Handler<N> }

/** Events for every client that listens. Never fails and never waits for a client. */
export interface EventSink {
  emit<N extends EventName>(name: N, data: EventData<N>): void
}
