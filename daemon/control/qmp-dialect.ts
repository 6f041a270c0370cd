// SPDX-License-Identifier: Apache-2.0
// One client's QMP: negotiation, answers in the order of the requests, out-of-band execution. Driven by its session.
// Without `oob` the next request is taken when the current one is answered; with it up to 8 wait here, so that an
// `exec-oob` behind them is seen and runs at once.

import type { JsonItem } from '../../protocol/json-stream.js'
import { toText } from '../../protocol/json-text.js'
import type { JsonValue } from '../../protocol/json-value.js'
import {
  event,
  failure,
  parseRequest,
  type QmpErrorClass,
  type QmpRequest,
  success,
} from '../../protocol/qmp.js'
import { validateArguments } from '../../protocol/schema/validate.js'
import { CommandError } from '../errors.js'
import type { CommandCall } from './commands.js'
import { type Dialect, type DialectHost, EOL } from './dialect.js'

/** In-band requests waiting behind the running one, with `oob`. */
const QUEUE = 8

const qmpEventText: Dialect['eventText'] = (name, data, at) => toText(event(name, data, at)) + EOL

export class QmpDialect implements Dialect {
  readonly eventText = qmpEventText
  readonly #host: DialectHost
  #negotiated = false
  #oob = false
  /** An in-band command is waited for. */
  #busy = false
  /** Out-of-band commands that are waited for. */
  #oobRunning = 0
  /** In-band items behind the running one, oldest first; only with `oob`. */
  readonly #queue: (readonly [JsonItem, CommandCall])[] = []

  constructor(host: DialectHost) {
    this.#host = host
  }

  ready(): boolean {
    return this.#busy ? this.#oob && this.#queue.length < QUEUE : true
  }

  idle(): boolean {
    return !this.#busy && this.#oobRunning === 0 && this.#queue.length === 0
  }

  begun(): boolean {
    return this.#queue.length === 0
  }

  take(item: JsonItem, call: CommandCall): void {
    if (this.#busy && !isOutOfBand(item)) this.#queue.push([item, call])
    else this.#handle(item, call)
  }

  #handle(item: JsonItem, call: CommandCall): void {
    if (item.kind === 'error') {
      this.#fail('GenericError', item.desc, undefined)
      return
    }
    const request = parseRequest(item.value, { oob: this.#oob })
    if (request.kind === 'error') this.#fail(request.errorClass, request.desc, request.id)
    else if (request.command === 'qmp_capabilities' || !this.#negotiated) this.#negotiate(request)
    else this.#run(request, call)
  }

  #negotiate(request: QmpRequest): void {
    try {
      if (request.command !== 'qmp_capabilities')
        throw new CommandError(
          "Expecting capabilities negotiation with 'qmp_capabilities'",
          'CommandNotFound',
        )
      if (this.#negotiated)
        throw new CommandError(
          'Capabilities negotiation is already complete, command ignored',
          'CommandNotFound',
        )
      const { enable } = validateArguments('qmp_capabilities', request.arguments)
      this.#oob = enable?.includes('oob') ?? false
      this.#negotiated = true
      this.#host.reply(toText(success({}, request.id)) + EOL)
      this.#host.subscribe()
    } catch (error) {
      this.#failed(error, request)
    }
  }

  #run(request: QmpRequest, call: CommandCall): void {
    let answer: unknown
    try {
      answer = this.#host.dispatcher.run(request.command, request.arguments, call, request.oob)
    } catch (error) {
      this.#failed(error, request)
      return
    }
    if (answer instanceof Promise) this.#wait(answer, request)
    else this.#succeeded(answer, request)
  }

  #wait(answer: Promise<unknown>, request: QmpRequest): void {
    if (request.oob) this.#oobRunning++
    else this.#busy = true
    const over = () => {
      if (request.oob) this.#oobRunning--
      else this.#busy = false
      this.#advance()
    }
    answer.then(
      (value) => {
        this.#succeeded(value, request)
        over()
      },
      (error) => {
        this.#failed(error, request)
        over()
      },
    )
  }

  #advance(): void {
    while (!this.#busy) {
      const next = this.#queue.shift()
      if (next === undefined) break
      this.#handle(...next)
    }
    this.#host.wake()
  }

  #succeeded(value: unknown, request: QmpRequest): void {
    this.#host.reply(toText(success(value, request.id)) + EOL)
  }

  #failed(error: unknown, request: QmpRequest): void {
    const { errorClass, desc, hint } = this.#host.dispatcher.failure(error, request.command)
    this.#fail(errorClass, desc, request.id, hint)
  }

  #fail(errorClass: QmpErrorClass, desc: string, id: JsonValue | undefined, hint?: string): void {
    this.#host.reply(toText(failure(errorClass, desc, id, hint)) + EOL)
  }
}

function isOutOfBand(item: JsonItem): boolean {
  if (item.kind === 'error') return false
  const { value } = item
  return typeof value === 'object' && value !== null && 'exec-oob' in value && !('execute' in value)
}
