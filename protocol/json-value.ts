// SPDX-License-Identifier: Apache-2.0
// JSON values as they cross the control socket: nothing is lost between reading and echoing them.
// Made by JsonStream, written by toText, narrowed by the schema's validator.

/** A number that is no 64-bit integer: it had a fraction or an exponent, or lies beyond int64 and uint64. */
export class JsonDouble {
  /** @param value finite */
  constructor(readonly value: number) {}
}

/** An object without prototype: `__proto__` and `constructor` are ordinary members. */
export interface JsonObject {
  [member: string]: JsonValue
}

/**
 * `number` is always a safe integer; `bigint` an integer within int64 or uint64 outside the safe range.
 * So 1 and 1.0 differ, and every 64-bit integer is exact.
 */
export type JsonValue = null | boolean | string | number | bigint | JsonDouble | JsonValue[] | JsonObject

export function isJsonObject(value: JsonValue | undefined): value is JsonObject {
  return (
    typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof JsonDouble)
  )
}

/** An empty object for members with names from outside. */
export function jsonObject(): JsonObject {
  return Object.create(null) as JsonObject
}
