// SPDX-License-Identifier: Apache-2.0
// What a session asks of the protocol its client speaks. Two exist: qmp-dialect.ts and jsonrpc-dialect.ts.

import type { JsonItem } from '../../protocol/json-stream.js'
import type { EventText } from './broadcast.js'
import type { CommandCall } from './commands.js'
import type { Dispatcher } from './dispatch.js'

/** Line end of everything sent. */
export const EOL = '\r\n'

/** What a dialect may do with its session. */
export interface DialectHost {
  readonly dispatcher: Dispatcher
  /** Queues a line (with its end) for the client. */
  reply(text: string): void
  /** An answer that was waited for is out: more may be taken. */
  wake(): void
  /** From now on events are sent to this client. */
  subscribe(): void
}

export interface Dialect {
  readonly eventText: EventText
  /** Whether another item may be taken now; after `false`, `wake` says when to ask again. */
  ready(): boolean
  /**
   * Takes the next item of the stream.
   * @param call  what its commands may ask of the session
   */
  take(item: JsonItem, call: CommandCall): void
  /** No command that was taken is still to be begun. */
  begun(): boolean
  /** Everything taken was answered. */
  idle(): boolean
}
