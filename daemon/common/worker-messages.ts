// SPDX-License-Identifier: Apache-2.0
// Envelopes of what crosses the line between the main thread and a worker, and errors on their way across. What is in the
// envelopes says each kind of worker in its messages.ts.

import { FormatError } from '../../protocol/format-error.js'
import { Cancelled, CommandError, IoError, type IoOp } from '../errors.js'

/** Requests of the main thread: argument and reply by name. */
export type RequestsOf<R> = { readonly [N in keyof R]: { args: unknown; reply: unknown } }

export type ToWorker<R extends RequestsOf<R>> = {
  [N in keyof R & string]: { readonly request: number; readonly name: N; readonly args: R[N]['args'] }
}[keyof R & string]

export type FromWorker<Report> =
  | { readonly reply: number; readonly value: unknown }
  | { readonly reply: number; readonly error: WireError }
  | { readonly report: Report }

/** An error as it crosses: rebuilt on the other side as CommandError, IoError or Cancelled. */
export interface WireError {
  readonly kind: 'command' | 'io' | 'cancelled' | 'bug'
  readonly message: string
  readonly hint?: string
  readonly errno?: number
  readonly op?: IoOp
  readonly node?: string
}

export function toWire(error: unknown): WireError {
  if (error instanceof CommandError || error instanceof FormatError) {
    const hint = error instanceof CommandError ? error.hint : undefined
    return { kind: 'command', message: error.message, ...(hint !== undefined && { hint }) }
  }
  if (error instanceof IoError)
    return { kind: 'io', message: error.message, errno: error.errno, op: error.op, node: error.node }
  if (error instanceof Cancelled) return { kind: 'cancelled', message: error.message }
  return { kind: 'bug', message: error instanceof Error ? (error.stack ?? error.message) : String(error) }
}

export function fromWire(error: WireError): Error {
  switch (error.kind) {
    case 'command':
      return new CommandError(
        error.message,
        'GenericError',
        error.hint === undefined ? {} : { hint: error.hint },
      )
    case 'io':
      return new IoError(error.errno ?? 0, error.op ?? 'stat', error.node ?? '')
    case 'cancelled':
      return new Cancelled()
    case 'bug':
      return new Error(error.message)
    default:
      return error.kind satisfies never
  }
}
