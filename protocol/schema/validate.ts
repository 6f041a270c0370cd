// SPDX-License-Identifier: Apache-2.0
// Checks a JSON value against a schema type and gives it back with its TypeScript type.
// Order and texts are the reference daemon's: base members first, then the variant's, unknown members last, the first
// failure is told; managers match on the texts. Walking (visit) and leaves are apart, because option strings of the
// command line (keyval.ts) have the same shapes but write every leaf as text.

import { isJsonObject, JsonDouble, type JsonObject, type JsonValue } from '../json-value.js'
import { type Arguments, type CommandName, commands } from './index.js'
import {
  type AlternateType,
  type AnyType,
  type ArrayType,
  type BuiltinType,
  type EnumType,
  type Infer,
  isUnion,
  type Members,
  type NumberName,
  type ObjectType,
  type UnionType,
  type Variant,
} from './types.js'

/** The arguments do not fit the schema: the user's mistake. Nothing was done. */
export class ArgumentError extends Error {
  override readonly name = 'ArgumentError'
  readonly errorClass = 'GenericError'
}

/** Where in the arguments: the whole path, and the last member's name (undefined for an element of a list). */
interface Place {
  readonly path: string
  readonly name: string | undefined
}

/** How the leaves are written: as JSON, or as text. */
export interface Leaves {
  /** Path of an element of a list. */
  element(path: string, index: number): string
  bool(value: JsonValue, path: string): boolean
  number(value: JsonValue, path: string): number
  /** An integer within int64 (`int`) or within int64 and uint64 (all others); more is checked by the caller. */
  integer(value: JsonValue, path: string, type: NumberName): number | bigint
}

export const jsonLeaves: Leaves = {
  element: (path, index) => `${path}[${index}]`,
  bool(value, path) {
    if (typeof value !== 'boolean') throw wrongType(path, 'boolean')
    return value
  },
  number(value, path) {
    if (typeof value === 'number') return value
    if (typeof value === 'bigint') return Number(value)
    if (value instanceof JsonDouble) return value.value
    throw wrongType(path, 'number')
  },
  integer(value, path, type) {
    if (typeof value === 'number') return value
    if (typeof value === 'bigint' && (type !== 'int' || BigInt.asIntN(64, value) === value)) return value
    throw type === 'int' ? wrongType(path, 'integer') : expects(path, 'uint64')
  },
}

/**
 * @throws ArgumentError
 * Integers beyond Number.MAX_SAFE_INTEGER (8 PiB) are refused, also where 64 bits would hold them: the reference
 * daemon takes them. Negative values of unsigned 64-bit types are let through, as the reference daemon wraps them: the command
 * refuses them.
 */
export function validate<T extends AnyType>(type: T, value: JsonValue, path = ''): Infer<T> {
  return visit(type, value, { path, name: undefined }, jsonLeaves) as Infer<T>
}

/** Arguments of a command; absent means none. @throws ArgumentError */
export function validateArguments<N extends CommandName>(
  command: N,
  args: JsonObject | undefined,
): Arguments<N> {
  const none: JsonObject = {}
  return validate(commands[command].arguments, args ?? none) as Arguments<N>
}

export function visit(type: AnyType, value: JsonValue, at: Place, leaves: Leaves): unknown {
  switch (type.kind) {
    case 'builtin':
      return visitBuiltin(type, value, at, leaves)
    case 'enum':
      return visitEnum(type, value, at)
    case 'array':
      return visitArray(type, value, at, leaves)
    case 'alternate':
      return visitAlternate(type, value, at, leaves)
    case 'lazy':
      return visitObject(type.target(), value, at, leaves)
    case 'struct':
    case 'union':
      return visitObject(type, value, at, leaves)
    default:
      return type satisfies never
  }
}

function visitBuiltin(type: BuiltinType, value: JsonValue, at: Place, leaves: Leaves): unknown {
  switch (type.name) {
    case 'str':
      if (typeof value !== 'string') throw wrongType(at.path, 'string')
      return value
    case 'bool':
      return leaves.bool(value, at.path)
    case 'number':
      return leaves.number(value, at.path)
    case 'null':
      if (value !== null) throw wrongType(at.path, 'null')
      return value
    case 'any':
      return value
    default:
      return visitInteger(type.name, value, at, leaves)
  }
}

const widths: Readonly<Partial<Record<NumberName, number>>> = { uint8: 8, uint16: 16, uint32: 32 }

function visitInteger(type: NumberName, value: JsonValue, at: Place, leaves: Leaves): number {
  const given = leaves.integer(value, at.path, type)
  const bits = widths[type]
  if (bits !== undefined && (given < 0 || given >= 2 ** bits)) {
    throw expects(at.name ?? 'null', `uint${bits}_t`)
  }
  if (typeof given === 'number') return given
  const most = Number.MAX_SAFE_INTEGER
  throw expects(at.path, `a value between ${type === 'int' ? -most : 0} and ${most}`)
}

function visitEnum(type: EnumType, value: JsonValue, at: Place): string {
  if (typeof value !== 'string') throw wrongType(at.path, 'string')
  if (!type.values.includes(value)) {
    throw new ArgumentError(`Parameter '${at.name ?? 'null'}' does not accept value '${value}'`)
  }
  return value
}

function visitArray(type: ArrayType, value: JsonValue, at: Place, leaves: Leaves): unknown[] {
  if (!Array.isArray(value)) throw wrongType(at.path, 'array')
  return value.map((item, index) =>
    visit(type.element, item, { path: leaves.element(at.path, index), name: undefined }, leaves),
  )
}

function visitAlternate(type: AlternateType, value: JsonValue, at: Place, leaves: Leaves): unknown {
  const choice = type.choices().find((candidate) => mayBe(candidate, value))
  if (choice === undefined) throw wrongType(at.name ?? 'null', type.name)
  return visit(choice, value, at, leaves)
}

/** The JSON type alone decides between the choices of an alternate. */
function mayBe(type: AnyType, value: JsonValue): boolean {
  switch (type.kind) {
    case 'struct':
    case 'union':
    case 'lazy':
      return isJsonObject(value)
    case 'array':
      return Array.isArray(value)
    case 'enum':
      return typeof value === 'string'
    case 'alternate':
      return type.choices().some((choice) => mayBe(choice, value))
    default:
      return mayBeBuiltin(type.name, value)
  }
}

function mayBeBuiltin(name: BuiltinType['name'], value: JsonValue): boolean {
  switch (name) {
    case 'str':
      return typeof value === 'string'
    case 'bool':
      return typeof value === 'boolean'
    case 'null':
      return value === null
    case 'any':
      return true
    case 'number':
      return typeof value === 'number' || typeof value === 'bigint' || value instanceof JsonDouble
    default:
      return typeof value === 'number' || typeof value === 'bigint'
  }
}

function visitObject(type: ObjectType, value: JsonValue, at: Place, leaves: Leaves): Record<string, unknown> {
  if (!isJsonObject(value)) throw wrongType(at.path === '' ? 'null' : at.path, 'object')
  const prefix = at.path === '' ? '' : `${at.path}.`
  const out: Record<string, unknown> = {}
  const taken = visitParts(type, value, prefix, leaves, out)
  if (Object.keys(value).length > taken) throw unexpected(value, out, prefix)
  return out
}

/** @returns how many members were there */
function visitParts(
  type: ObjectType,
  value: JsonObject,
  prefix: string,
  leaves: Leaves,
  out: Record<string, unknown>,
): number {
  if (type.kind === 'struct') return visitMembers(type.members, value, prefix, leaves, out)
  const taken = visitMembers(type.base, value, prefix, leaves, out)
  const more = variant(type, out)
  return (
    taken +
    (isUnion(more)
      ? visitParts(more, value, prefix, leaves, out)
      : visitMembers(more, value, prefix, leaves, out))
  )
}

const noMembers: Members = {}

function variant(type: UnionType, base: Record<string, unknown>): Variant {
  const name = base[type.tag]
  return (typeof name === 'string' && Object.hasOwn(type.variants, name) && type.variants[name]) || noMembers
}

/** @returns how many members were there */
function visitMembers(
  members: Members,
  value: JsonObject,
  prefix: string,
  leaves: Leaves,
  out: Record<string, unknown>,
): number {
  let taken = 0
  for (const name in members) {
    const member = members[name]!
    if (!Object.hasOwn(value, name)) {
      if (!member.optional) throw new ArgumentError(`Parameter '${prefix}${name}' is missing`)
      continue
    }
    taken++
    out[name] = visit(member.type, value[name]!, { path: prefix + name, name }, leaves)
  }
  return taken
}

function unexpected(value: JsonObject, known: Record<string, unknown>, prefix: string): ArgumentError {
  const name = Object.keys(value).find((candidate) => !Object.hasOwn(known, candidate))
  return new ArgumentError(`Parameter '${prefix}${name}' is unexpected`)
}

export function wrongType(path: string, wanted: string): ArgumentError {
  return new ArgumentError(`Invalid parameter type for '${path}', expected: ${wanted}`)
}

export function expects(path: string, wanted: string): ArgumentError {
  return new ArgumentError(`Parameter '${path}' expects ${wanted}`)
}
