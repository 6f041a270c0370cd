// SPDX-License-Identifier: Apache-2.0
// Dispatcher: from the name of a command and its raw arguments to the handler's answer. Called by both dialects and for
// the command line. The one place that maps errors to what a client is told.

import type { Logger } from 'pino'
import type { JsonObject } from '../../protocol/json-value.js'
import { commandNotFound, type QmpErrorClass } from '../../protocol/qmp.js'
import { type CommandName, commands } from '../../protocol/schema/index.js'
import { ArgumentError, validateArguments } from '../../protocol/schema/validate.js'
import { Cancelled, CommandError, IoError } from '../errors.js'
import type { CommandCall, Handlers } from './commands.js'

/** What a failed command tells its client. */
export interface Failure {
  readonly errorClass: QmpErrorClass
  readonly desc: string
  readonly hint?: string
}

type AnyHandler = (args: unknown, call: CommandCall) => unknown

export class Dispatcher {
  readonly #handlers = new Map<string, AnyHandler>()
  readonly #log: Logger

  constructor(log: Logger) {
    this.#log = log
  }

  /** Adds handlers; each command has one. */
  add(handlers: Handlers): void {
    for (const [name, handler] of Object.entries(handlers)) this.#handlers.set(name, handler as AnyHandler)
  }

  /** Names of the commands that can be called, in the schema's order. */
  names(): CommandName[] {
    return (Object.keys(commands) as CommandName[]).filter((name) => this.#handlers.has(name))
  }

  /**
   * Runs a command.
   * @param args  raw arguments; undefined equals an empty object
   * @param oob   asked out of band: refused for commands that may wait
   * @returns the answer, or a promise of it where the command waits for something
   * Throws (or rejects) with what `failure` understands.
   */
  run(name: string, args: JsonObject | undefined, call: CommandCall, oob = false): unknown {
    const handler = this.#handlers.get(name)
    if (handler === undefined) throw new CommandError(commandNotFound(name), 'CommandNotFound')
    if (oob && !commands[name as CommandName].oob)
      throw new CommandError(`The command ${name} does not support OOB`)
    return handler(validateArguments(name as CommandName, args), call)
  }

  /** Turns what a command threw into what the client is told. Bugs are logged and keep the daemon alive. */
  failure(error: unknown, name: string): Failure {
    const known = knownFailure(error)
    if (known !== undefined) return known
    this.bug(error, name)
    return { errorClass: 'GenericError', desc: `internal error in '${name}'` }
  }

  /** Logs an error nobody expected, with its stack. */
  bug(error: unknown, name: string): void {
    this.#log.error({ command: name, err: error }, 'command failed by a bug')
  }
}

/** What a client is told of an error that is part of the contract; undefined for bugs. */
export function knownFailure(error: unknown): Failure | undefined {
  if (error instanceof CommandError) {
    const { errorClass, message: desc, hint } = error
    return { errorClass, desc, ...(hint !== undefined && { hint }) }
  }
  const known = [ArgumentError, IoError, Cancelled]
  if (!known.some((kind) => error instanceof kind)) return undefined
  return { errorClass: 'GenericError', desc: (error as Error).message }
}
