// SPDX-License-Identifier: Apache-2.0
// One client's JSON-RPC 2.0: requests run concurrently and are answered as they finish. Driven by its session.

import type { JsonItem } from '../../protocol/json-stream.js'
import { toText } from '../../protocol/json-text.js'
import type { JsonObject } from '../../protocol/json-value.js'
import { createRpc, notification, parseFailure, type Rpc } from '../../protocol/jsonrpc.js'
import { ArgumentError } from '../../protocol/schema/validate.js'
import { CommandError } from '../errors.js'
import type { CommandCall } from './commands.js'
import { type Dialect, type DialectHost, EOL } from './dialect.js'
import { knownFailure } from './dispatch.js'

/** Messages of one client that may be in work at once; more wait in its socket. */
const CONCURRENT = 256

const rpcEventText: Dialect['eventText'] = (name, data, at) => toText(notification(name, data, at)) + EOL

export class JsonRpcDialect implements Dialect {
  readonly eventText = rpcEventText
  readonly #host: DialectHost
  readonly #rpc: Rpc<CommandCall>
  #running = 0

  constructor(host: DialectHost) {
    this.#host = host
    this.#rpc = createRpc(
      (command, args, call: CommandCall) => this.#call(command, args, call),
      (error) => host.dispatcher.bug(error, 'json-rpc'),
    )
    host.subscribe()
  }

  ready(): boolean {
    return this.#running < CONCURRENT
  }

  idle(): boolean {
    return this.#running === 0
  }

  /** Commands begin in the turn in which they are taken. */
  begun(): boolean {
    return true
  }

  take(item: JsonItem, call: CommandCall): void {
    if (item.kind === 'error') {
      this.#host.reply(toText(parseFailure(item.desc)) + EOL)
      return
    }
    this.#running++
    // handle() never rejects.
    void this.#rpc.handle(item.value, call).then((reply) => {
      this.#running--
      if (reply !== undefined) this.#host.reply(toText(reply) + EOL)
      this.#host.wake()
    })
  }

  async #call(command: string, args: JsonObject | undefined, call: CommandCall): Promise<unknown> {
    // Negotiation is QMP's; a JSON-RPC client has nothing to negotiate and may say so.
    if (command === 'qmp_capabilities') return {}
    try {
      return await this.#host.dispatcher.run(command, args, call)
    } catch (error) {
      const known = error instanceof ArgumentError ? undefined : knownFailure(error)
      throw known === undefined
        ? error
        : new CommandError(known.desc, known.errorClass, known.hint === undefined ? {} : { hint: known.hint })
    }
  }
}
