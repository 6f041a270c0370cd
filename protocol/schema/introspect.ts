// SPDX-License-Identifier: Apache-2.0
// The answer to query-qmp-schema: commands and events by name, then the types they reach. Names of types other than
// built-in ones are masked by decimal numbers, so that clients look for members and not for type names.

import type { JsonObject, JsonValue } from '../json-value.js'
import { commands, events } from './index.js'
import { type AnyType, isUnion, type Members, type ObjectType, type UnionType } from './types.js'

const builtins: readonly (readonly [name: string, jsonType: string])[] = [
  ['str', 'string'],
  ['any', 'value'],
  ['int', 'int'],
  ['bool', 'boolean'],
  ['null', 'null'],
  ['number', 'number'],
]

const empty: ObjectType = { kind: 'struct', name: 'q_empty', members: {} }

function variant(type: UnionType, value: string): ObjectType {
  const more = type.variants[value]
  if (more === undefined) return empty
  return isUnion(more) ? more : { kind: 'struct', name: `${type.name}-${value}`, members: more }
}

/** Masks names in the order they are met and keeps the entities of types met and not yet written. */
class Entities {
  readonly #names = new Map<string, string>()
  readonly #waiting: (() => JsonObject)[] = []
  #next = 0

  /** Name of a type in the schema; the type will be written. */
  nameOf(type: AnyType): string {
    switch (type.kind) {
      case 'builtin':
        return builtins.some(([name]) => name === type.name) ? type.name : 'int'
      case 'lazy':
        return this.nameOf(type.target())
      case 'array': {
        const name = `[${this.nameOf(type.element)}]`
        return this.#once(name, name, () => ({
          name,
          'meta-type': 'array',
          'element-type': this.nameOf(type.element),
        }))
      }
      default: {
        const mask = this.#names.get(type.name) ?? String(this.#next++)
        return this.#once(type.name, mask, () => this.#entity(type, mask))
      }
    }
  }

  /** Entities of all types met, and of those they name. */
  *write(): Generator<JsonObject> {
    for (let make = this.#waiting.shift(); make !== undefined; make = this.#waiting.shift()) yield make()
  }

  #once(key: string, name: string, make: () => JsonObject): string {
    if (!this.#names.has(key)) {
      this.#names.set(key, name)
      this.#waiting.push(make)
    }
    return name
  }

  #entity(type: Exclude<AnyType, { kind: 'builtin' | 'array' | 'lazy' }>, name: string): JsonObject {
    switch (type.kind) {
      case 'enum':
        return {
          name,
          'meta-type': 'enum',
          members: type.values.map((value) => ({ name: value, ...features(value) })),
          values: [...type.values],
        }
      case 'alternate':
        return {
          name,
          'meta-type': 'alternate',
          members: type.choices().map((choice) => ({ type: this.nameOf(choice) })),
        }
      default:
        return { name, 'meta-type': 'object', ...this.#object(type) }
    }
  }

  #object(type: ObjectType): JsonObject {
    if (type.kind === 'struct') return { members: this.#members(type.members) }
    const tag = type.base[type.tag]?.type
    const cases = tag?.kind === 'enum' ? tag.values : []
    return {
      members: this.#members(type.base),
      tag: type.tag,
      variants: cases.map((value) => ({ case: value, type: this.nameOf(variant(type, value)) })),
    }
  }

  #members(members: Members): JsonValue[] {
    return Object.entries(members).map(([name, { type, optional }]) => ({
      name,
      type: this.nameOf(type),
      ...(optional ? { default: null } : {}),
      ...features(name),
    }))
  }
}

/** What is named `x-…` may change. */
function features(name: string): JsonObject {
  return name.startsWith('x-') ? { features: ['unstable'] } : {}
}

function build(): JsonValue[] {
  const entities = new Entities()
  const named = Object.entries(commands).map(
    ([name, command]): JsonObject => ({
      name,
      'meta-type': 'command',
      'arg-type': entities.nameOf(command.arguments),
      'ret-type': entities.nameOf(command.returns ?? empty),
      ...(command.oob ? { 'allow-oob': true } : {}),
      ...features(name),
    }),
  )
  const told = Object.entries(events).map(
    ([name, event]): JsonObject => ({
      name,
      'meta-type': 'event',
      'arg-type': entities.nameOf(event.data),
      ...features(name),
    }),
  )
  const basic = builtins.map(([name, jsonType]) => ({ name, 'meta-type': 'builtin', 'json-type': jsonType }))
  return [...named, ...told, ...entities.write(), ...basic]
}

let schema: readonly JsonValue[] | undefined

/** Made at the first call, and the same from then on. */
export function querySchema(): readonly JsonValue[] {
  schema ??= build()
  return schema
}
