// SPDX-License-Identifier: Apache-2.0
// JSON-RPC 2.0 envelopes around the same commands as QMP. Used by the control session.
// The package json-rpc-2.0 answers single requests; this file checks what it does not (null, ids, params, versions)
// and makes batches, because the package unwraps a batch of one.
// A QMP error's class is in `error.data.class`, its text is `error.message`.

import {
  createJSONRPCErrorResponse,
  JSONRPCErrorCode,
  type JSONRPCID,
  type JSONRPCRequest,
  JSONRPCServer,
} from 'json-rpc-2.0'
import { isJsonObject, JsonDouble, type JsonObject, type JsonValue } from './json-value.js'
import { commandNotFound, type Timestamp } from './qmp.js'
import { commands } from './schema/index.js'
import { ArgumentError } from './schema/validate.js'

/** Code of errors that a command reports. */
const commandFailed = -32000

export interface Rpc<Context> {
  /**
   * One message; the answer, or undefined when there is none to give (notifications). Never rejects.
   * @param context  handed on to the commands in it
   */
  handle(message: JsonValue, context: Context): Promise<object | undefined>
}

/**
 * @param call  runs a command of the schema; rejects with errors that have `errorClass` (the user's mistakes) or with
 *              anything else (bugs, told to the client as internal errors)
 * @param onBug hears of errors without `errorClass`
 */
export function createRpc<Context>(
  call: (command: string, args: JsonObject | undefined, context: Context) => Promise<unknown>,
  onBug: (error: unknown) => void,
): Rpc<Context> {
  const server = new JSONRPCServer<Context>({
    errorListener: (_text, error) => {
      if (errorClassOf(error) === undefined) onBug(error)
    },
  })
  for (const name of Object.keys(commands)) {
    server.addMethod(name, async (params: JsonValue | undefined, context) => {
      if (params !== undefined && !isJsonObject(params)) {
        throw new ArgumentError(`${name} takes its parameters by name: params must be an object`)
      }
      const result = await call(name, params, context)
      return result === undefined ? {} : result
    })
  }
  server.mapErrorToJSONRPCErrorResponse = (id, error) => errorResponse(id, error)
  server.handleMethodNotFound = async ({ id, method }) =>
    id === undefined
      ? null
      : createJSONRPCErrorResponse(id, JSONRPCErrorCode.MethodNotFound, commandNotFound(method), {
          class: 'CommandNotFound',
        })

  const handleOne = async (message: JsonValue, context: Context): Promise<object | undefined> => {
    const id = invalidId(message)
    if (id !== undefined) return invalidRequest(id)
    // Checked by invalidId(); ids beyond JavaScript's numbers pass through the package untouched.
    return (await server.receive(message as unknown as JSONRPCRequest, context)) ?? undefined
  }
  return {
    async handle(message, context) {
      if (!Array.isArray(message)) return handleOne(message, context)
      if (message.length === 0) return invalidRequest(null)
      const all = await Promise.all(message.map((one) => handleOne(one, context)))
      const answers = all.filter((answer) => answer !== undefined)
      return answers.length === 0 ? undefined : answers
    },
  }
}

/** The id to refuse a message with, null when it has none that can be echoed; undefined when it is a request. */
function invalidId(message: JsonValue): JsonValue | undefined {
  if (!isJsonObject(message)) return null
  const { jsonrpc, method, params, id } = message
  const idFits =
    id === undefined ||
    id === null ||
    typeof id === 'string' ||
    typeof id === 'number' ||
    typeof id === 'bigint' ||
    id instanceof JsonDouble
  const paramsFit = params === undefined || isJsonObject(params) || Array.isArray(params)
  const isAnswer = message.result !== undefined || message.error !== undefined
  if (jsonrpc === '2.0' && typeof method === 'string' && paramsFit && idFits && !isAnswer) return undefined
  return idFits ? (id ?? null) : null
}

function invalidRequest(id: JsonValue): object {
  return createJSONRPCErrorResponse(id as JSONRPCID, JSONRPCErrorCode.InvalidRequest, 'Invalid Request')
}

/** The answer to input that is no JSON. @param desc  text of the JSON stream's error */
export function parseFailure(desc: string): object {
  return createJSONRPCErrorResponse(null, JSONRPCErrorCode.ParseError, desc)
}

function errorResponse(id: JSONRPCID, error: unknown): ReturnType<typeof createJSONRPCErrorResponse> {
  const errorClass = errorClassOf(error)
  if (errorClass === undefined || !(error instanceof Error)) {
    return createJSONRPCErrorResponse(id, JSONRPCErrorCode.InternalError, 'Internal error')
  }
  const code =
    error instanceof ArgumentError
      ? JSONRPCErrorCode.InvalidParams
      : errorClass === 'CommandNotFound'
        ? JSONRPCErrorCode.MethodNotFound
        : commandFailed
  return createJSONRPCErrorResponse(id, code, error.message, { class: errorClass, ...hintOf(error) })
}

function hintOf(error: Error): { 'x-hint'?: string } {
  return 'hint' in error && typeof error.hint === 'string' ? { 'x-hint': error.hint } : {}
}

function errorClassOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('errorClass' in error)) return undefined
  return typeof error.errorClass === 'string' ? error.errorClass : undefined
}

/** An event as a notification: the method is the event's name. @param data  undefined for events without fields */
export function notification(name: string, data: unknown, at: Timestamp): object {
  return { jsonrpc: '2.0', method: name, params: { timestamp: at, data } }
}
