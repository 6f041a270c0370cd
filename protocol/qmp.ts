// SPDX-License-Identifier: Apache-2.0
// QMP envelopes: requests in, greeting, replies and events out. Used by the control session and the client.
// The objects made here are plain and go to toText; texts are the reference daemon's, managers match on them.

import { isJsonObject, type JsonObject, type JsonValue } from './json-value.js'

export type QmpErrorClass =
  | 'GenericError'
  | 'CommandNotFound'
  | 'DeviceNotActive'
  | 'DeviceNotFound'
  | 'KVMMissingCap'

export interface QmpRequest {
  readonly kind: 'request'
  readonly command: string
  /** Absent and `{}` mean the same. */
  readonly arguments: JsonObject | undefined
  /** Absent when the request had none; null when it was null. */
  readonly id?: JsonValue
  /** `exec-oob` instead of `execute`. */
  readonly oob: boolean
}

export interface QmpRefusal {
  readonly kind: 'error'
  readonly errorClass: QmpErrorClass
  readonly desc: string
  readonly id?: JsonValue
}

/**
 * Checks a value as a request; whether the command exists is not looked at.
 * @param options.oob  the client has enabled `oob`
 */
export function parseRequest(value: JsonValue, options: { readonly oob: boolean }): QmpRequest | QmpRefusal {
  if (!isJsonObject(value)) return refusal('QMP input must be a JSON object', {})
  const id = value.id === undefined ? {} : { id: value.id }
  let command: string | undefined
  let by: string | undefined
  let args: JsonObject | undefined
  for (const name in value) {
    const member = value[name]!
    if (name === 'execute' || (name === 'exec-oob' && options.oob)) {
      if (typeof member !== 'string') return refusal(`QMP input member '${name}' must be a string`, id)
      if (by !== undefined) return refusal("QMP input member 'execute' clashes with 'exec-oob'", id)
      command = member
      by = name
    } else if (name === 'arguments') {
      if (!isJsonObject(member)) return refusal("QMP input member 'arguments' must be an object", id)
      args = member
    } else if (name !== 'id') {
      return refusal(`QMP input member '${name}' is unexpected`, id)
    }
  }
  if (command === undefined) return refusal("QMP input lacks member 'execute'", id)
  return { kind: 'request', command, arguments: args, oob: by === 'exec-oob', ...id }
}

function refusal(desc: string, id: { id?: JsonValue }): QmpRefusal {
  return { kind: 'error', errorClass: 'GenericError', desc, ...id }
}

export interface Version {
  readonly qemu: { readonly major: number; readonly minor: number; readonly micro: number }
  /** Free text, may be empty. */
  readonly package: string
}

/** First message of the server. JSON-RPC clients see a notification in it, QMP clients ignore those members. */
export function greeting(version: Version, capabilities: readonly string[]): object {
  return { QMP: { version, capabilities }, jsonrpc: '2.0', method: 'greeting' }
}

/** @param value  undefined for commands that return nothing; @param id  undefined when the request had none */
export function success(value: unknown, id?: JsonValue): object {
  return { return: value === undefined ? {} : value, id }
}

/**
 * @param id    undefined when the request had none, and for input that was no request
 * @param hint  what the text does not name, for people
 */
export function failure(errorClass: QmpErrorClass, desc: string, id?: JsonValue, hint?: string): object {
  return { id, error: { class: errorClass, desc, ...(hint !== undefined && { 'x-hint': hint }) } }
}

/** The text for a command that is not in the schema; class CommandNotFound. */
export function commandNotFound(command: string): string {
  return `The command ${command} has not been found`
}

/** Wall clock: whole seconds since 1970 UTC and 0..999999 microseconds. */
export interface Timestamp {
  readonly seconds: number
  readonly microseconds: number
}

/** @param nowMs  milliseconds since 1970 UTC, with a fraction where the clock has one */
export function timestamp(nowMs: number): Timestamp {
  const microseconds = Math.round(nowMs * 1000)
  const seconds = Math.floor(microseconds / 1e6)
  return { seconds, microseconds: microseconds - seconds * 1e6 }
}

/** @param data  undefined for events without fields */
export function event(name: string, data: unknown, at: Timestamp): object {
  return { timestamp: at, event: name, data }
}
