// SPDX-License-Identifier: Apache-2.0
// Option strings of the command line: `driver=file,node-name=x,file.filename=a,,b` or a JSON object.
// Used by the daemon's options. Shapes are the schema's; leaves are text, so booleans are on/off and sizes have suffixes.
// Texts are the reference daemon's.

import { JsonStream } from './json-stream.js'
import { isJsonObject, type JsonObject, type JsonValue, jsonObject } from './json-value.js'
import type { AnyType, Infer } from './schema/types.js'
import {
  ArgumentError,
  expects,
  jsonLeaves,
  type Leaves,
  validate,
  visit,
  wrongType,
} from './schema/validate.js'

/**
 * An option's argument, parsed and checked: dotted keys, or JSON when it starts with `{`.
 * @param implied  key of a first part without `=`: 'driver', 'qom-type', 'chardev'
 * @throws ArgumentError
 */
export function optionValue<T extends AnyType>(type: T, text: string, implied?: string): Infer<T> {
  return text.startsWith('{')
    ? validate(type, parseJsonOption(text))
    : validateKeyval(type, parseKeyval(text, implied))
}

/** @throws ArgumentError */
function parseJsonOption(text: string): JsonObject {
  const stream = new JsonStream()
  const items = [...stream.push(new TextEncoder().encode(text)), ...stream.end()]
  for (const item of items) if (item.kind === 'error') throw new ArgumentError(item.desc)
  const [first, second] = items
  if (second !== undefined) throw new ArgumentError('Expecting at most one JSON value')
  if (first?.kind !== 'value' || !isJsonObject(first.value))
    throw new ArgumentError('Expecting a JSON object')
  return first.value
}

/** A fragment of a key: a name, or an index of a list. */
const fragment = /^(?:[A-Za-z][A-Za-z0-9_-]*|[0-9]+)$/
const nameLimit = 127

/**
 * `key=value` parts separated by commas; `,,` in a value is one comma; later values of a key win.
 * @param text     not JSON
 * @param implied  key of a first part without `=`
 * @returns nested objects and arrays with strings as leaves
 * @throws ArgumentError
 */
export function parseKeyval(text: string, implied?: string): JsonObject {
  const root = jsonObject()
  for (const [index, part] of splitParts(text).entries()) {
    const equals = part.indexOf('=')
    const named = equals >= 0
    if (!named && (index > 0 || implied === undefined)) {
      if (part === '') throw new ArgumentError("Invalid parameter ''")
      throw new ArgumentError(`Expected '=' after parameter '${part}'`)
    }
    put(root, named ? part.slice(0, equals) : (implied ?? ''), named ? part.slice(equals + 1) : part)
  }
  return listify(root, '') as JsonObject
}

/** A comma in a value is doubled; after the last part a single comma may stand. */
function splitParts(text: string): string[] {
  const parts: string[] = []
  let part = ''
  for (let at = 0; at < text.length; at++) {
    if (text[at] !== ',') {
      part += text[at]
    } else if (text[at + 1] === ',' && part.includes('=')) {
      part += ','
      at++
    } else {
      parts.push(part)
      part = ''
    }
  }
  if (part !== '') parts.push(part)
  return parts
}

function put(root: JsonObject, key: string, value: string): void {
  const names = key.split('.')
  const fits = names.every((name) => fragment.test(name) && name.length <= nameLimit)
  if (!fits || /^[0-9]/.test(key)) throw new ArgumentError(`Invalid parameter '${key}'`)
  let object = root
  for (const [depth, name] of names.slice(0, -1).entries()) {
    object[name] ??= jsonObject()
    const next = object[name]
    if (!isJsonObject(next)) throw inconsistent(names.slice(0, depth + 1).join('.'))
    object = next
  }
  const last = names[names.length - 1]!
  if (isJsonObject(object[last])) throw inconsistent(key)
  object[last] = value
}

function inconsistent(key: string): ArgumentError {
  return new ArgumentError(`Parameters '${key}.*' used inconsistently`)
}

/** Objects whose keys are all indices become arrays; they must be 0, 1, 2, … */
export function listify(value: JsonValue, key: string): JsonValue {
  if (!isJsonObject(value)) return value
  const names = Object.keys(value)
  const prefix = key === '' ? '' : `${key}.`
  for (const name of names) value[name] = listify(value[name]!, prefix + name)
  const indices = names.filter((name) => /^[0-9]/.test(name))
  if (indices.length === 0) return value
  if (indices.length < names.length) throw inconsistent(key)
  return names.map((_, index) => {
    const item = value[String(index)]
    if (item === undefined) throw new ArgumentError(`Parameter '${prefix}${index}' missing`)
    return item
  })
}

/**
 * What parseKeyval() gave, checked as an option's argument is, for the tools that work on images: every number may be written as
 * a size.
 * @throws ArgumentError
 */
export function validateImageKeyval<T extends AnyType>(type: T, value: JsonObject): Infer<T> {
  return visit(type, value, { path: '', name: undefined }, imageLeaves) as Infer<T>
}

/** As validate(); leaves may also be text, as for validateImageKeyval(): names of images have both. @throws ArgumentError */
export function validateMixed<T extends AnyType>(type: T, value: JsonObject): Infer<T> {
  return visit(type, value, { path: '', name: undefined }, mixedLeaves) as Infer<T>
}

/**
 * Checks parsed option strings like arguments; leaves are text.
 * @throws ArgumentError
 */
function validateKeyval<T extends AnyType>(type: T, value: JsonObject): Infer<T> {
  return visit(type, value, { path: '', name: undefined }, textLeaves) as Infer<T>
}

const switches: Readonly<Record<string, boolean>> = {
  ...{ on: true, yes: true, true: true, y: true },
  ...{ off: false, no: false, false: false, n: false },
}

const textLeaves: Leaves = {
  element: (path, index) => `${path}.${index}`,
  bool(value, path) {
    const text = textOf(value, path, 'boolean')
    const found = Object.hasOwn(switches, text) ? switches[text] : undefined
    if (found === undefined) throw expects(path, "'on' or 'off'")
    return found
  },
  number(value, path) {
    const text = textOf(value, path, 'number')
    const number = text.trim() === '' ? Number.NaN : Number(text)
    if (!Number.isFinite(number)) throw wrongType(path, 'number')
    return number
  },
  integer(value, path, type) {
    const text = textOf(value, path, type === 'int' ? 'integer' : 'uint64')
    if (type === 'size') return sizeOf(text, path)
    const integer = parseInteger(text)
    const [least, most] = type === 'int' ? [-(1n << 63n), (1n << 63n) - 1n] : [-(1n << 63n), (1n << 64n) - 1n]
    if (integer === undefined || integer < least || integer > most) throw expects(path, 'integer')
    return safe(integer)
  },
}

const imageLeaves: Leaves = {
  ...textLeaves,
  integer: (value, path) => sizeOf(textOf(value, path, 'size'), path),
}

const mixedLeaves: Leaves = {
  element: textLeaves.element,
  bool: (value, path) => leavesOf(value).bool(value, path),
  number: (value, path) => leavesOf(value).number(value, path),
  integer: (value, path, type) => leavesOf(value).integer(value, path, type),
}

function leavesOf(value: JsonValue): Leaves {
  return typeof value === 'string' ? imageLeaves : jsonLeaves
}

function textOf(value: JsonValue, path: string, wanted: string): string {
  if (typeof value !== 'string') throw wrongType(path, wanted)
  return value
}

function safe(integer: bigint): number | bigint {
  const value = Number(integer)
  return Number.isSafeInteger(value) ? value : integer
}

/** Decimal, 0x… or 0… (octal), with a sign. */
function parseInteger(text: string): bigint | undefined {
  const match = /^([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)$/.exec(text)
  if (match === null) return undefined
  const digits = match[2]!
  const octal = digits.length > 1 && /^0[0-7]/.test(digits)
  const value = BigInt(octal ? `0o${digits.slice(1)}` : digits)
  return match[1] === '-' ? -value : value
}

const suffixes = 'BKMGTPE'

/** Bytes with an optional suffix, a power of 1024, and an optional fraction: 512, 64k, 1.5G. */
function sizeOf(text: string, path: string): number | bigint {
  const bad = expects(path, 'a non-negative number below 2^64')
  const match = /^(\d+)(?:\.(\d+))?([bkmgtpe]?)$/i.exec(text)
  if (match === null) {
    const hexadecimal = /^0x[0-9a-f]+$/i.test(text) ? BigInt(text) : undefined
    if (hexadecimal === undefined || hexadecimal >= 1n << 64n) throw bad
    return safe(hexadecimal)
  }
  const [whole, fraction = '', suffix = ''] = match.slice(1)
  const power = suffix === '' ? 0 : suffixes.indexOf(suffix.toUpperCase())
  const unit = 1n << BigInt(10 * power)
  if (power === 0 && fraction !== '') throw bad
  const scale = 10n ** BigInt(fraction.length)
  const bytes = (BigInt(whole! + fraction) * unit) / scale
  if (bytes >= 1n << 64n) throw bad
  return safe(bytes)
}
