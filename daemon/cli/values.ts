// SPDX-License-Identifier: Apache-2.0
// Reads members out of replies and events. A peer may be older or newer than this command, so whatever is absent or
// of another type reads as undefined, and nothing is refused.

import { isJsonObject, JsonDouble, type JsonObject, type JsonValue } from '../../protocol/json-value.js'

export function asObject(value: JsonValue | undefined): JsonObject | undefined {
  return isJsonObject(value) ? value : undefined
}

export function asList(value: JsonValue | undefined): readonly JsonValue[] {
  return Array.isArray(value) ? value : []
}

/** The objects of a list; anything else in it is left out. */
export function objectsOf(value: JsonValue | undefined): JsonObject[] {
  return asList(value).filter(isJsonObject)
}

export function textOf(object: JsonObject | undefined, name: string): string | undefined {
  const value = object?.[name]
  return typeof value === 'string' ? value : undefined
}

/** Integers beyond 53 bits lose their last digits here; none that this command reads is that large. */
export function numberOf(object: JsonObject | undefined, name: string): number | undefined {
  const value = object?.[name]
  if (typeof value === 'number') return value
  if (typeof value === 'bigint') return Number(value)
  if (value instanceof JsonDouble) return value.value
  return undefined
}

export function flagOf(object: JsonObject | undefined, name: string): boolean {
  return object?.[name] === true
}
