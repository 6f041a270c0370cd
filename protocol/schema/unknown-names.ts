// SPDX-License-Identifier: Apache-2.0
// Looks for members that the schema does not know, before anything else is said of a value: the member that a validator would
// tell to be missing is often there, with a typo. For people who write options; clients get the reference daemon's order.

import { isJsonObject, type JsonObject, type JsonValue } from '../json-value.js'
import { type AnyType, isUnion, type Members, type ObjectType, type Variant } from './types.js'
import { ArgumentError } from './validate.js'

/** @throws ArgumentError for the first one, in the order of the value */
export function checkNames(type: AnyType, value: JsonValue, path = ''): void {
  if (!isJsonObject(value)) return
  const members = membersOf(type, value)
  if (members === undefined) return
  for (const [name, inner] of Object.entries(value)) {
    const at = path === '' ? name : `${path}.${name}`
    const member = Object.hasOwn(members, name) ? members[name] : undefined
    if (member === undefined) throw new ArgumentError(`Parameter '${at}' is unexpected`)
    checkNames(member.type, inner, at)
  }
}

/** @returns undefined where the value does not tell which they are */
function membersOf(type: AnyType, value: JsonObject): Members | undefined {
  switch (type.kind) {
    case 'struct':
      return type.members
    case 'union':
      return membersOfVariant(type, value)
    case 'lazy':
      return membersOf(type.target(), value)
    case 'alternate':
      return type
        .choices()
        .map((choice) => membersOf(choice, value))
        .find((members) => members !== undefined)
    default:
      return undefined
  }
}

function membersOfVariant(
  type: Extract<ObjectType, { kind: 'union' }>,
  value: JsonObject,
): Members | undefined {
  const name = value[type.tag]
  const tag = type.base[type.tag]?.type
  if (typeof name !== 'string' || tag?.kind !== 'enum' || !tag.values.includes(name)) return undefined
  const more: Variant | undefined = Object.hasOwn(type.variants, name) ? type.variants[name] : undefined
  if (more === undefined) return type.base
  const members = isUnion(more) ? membersOfVariant(more, value) : more
  return members === undefined ? undefined : { ...type.base, ...members }
}
