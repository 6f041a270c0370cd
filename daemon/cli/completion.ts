// SPDX-License-Identifier: Apache-2.0
// Completion for the interactive shell, from what query-qmp-schema says of the daemon at hand: command names, then
// argument names (also of nested objects and of all variants), then the values of enumerations and booleans.

import type { JsonValue } from '../../protocol/json-value.js'
import { asList, objectsOf, textOf } from './values.js'

interface Entity {
  readonly kind: string
  readonly members: readonly { readonly name: string; readonly type: string }[]
  /** Types whose members may stand beside: the variants of a union. */
  readonly variants: readonly string[]
  readonly values: readonly string[]
  readonly argumentType: string
  readonly elementType: string
  readonly jsonType: string
}

export class Completion {
  readonly #entities = new Map<string, Entity>()
  readonly #commands: string[] = []

  /** @param schema  the return of query-qmp-schema */
  constructor(schema: JsonValue) {
    for (const entity of objectsOf(schema)) {
      const name = textOf(entity, 'name') ?? ''
      const kind = textOf(entity, 'meta-type') ?? ''
      if (kind === 'command') this.#commands.push(name)
      const members = objectsOf(entity.members)
      this.#entities.set(name, {
        kind,
        members: members.flatMap((one) =>
          textOf(one, 'name') === undefined
            ? []
            : [{ name: textOf(one, 'name') ?? '', type: textOf(one, 'type') ?? '' }],
        ),
        variants:
          kind === 'alternate'
            ? members.map((one) => textOf(one, 'type') ?? '')
            : objectsOf(entity.variants).map((one) => textOf(one, 'type') ?? ''),
        values: asList(entity.values).filter((one) => typeof one === 'string'),
        argumentType: textOf(entity, 'arg-type') ?? '',
        elementType: textOf(entity, 'element-type') ?? '',
        jsonType: textOf(entity, 'json-type') ?? '',
      })
    }
    this.#commands.sort()
  }

  /** What may stand in place of the last word of `line`; and that word, as readline wants it. */
  complete(line: string): [string[], string] {
    const words = line.split(/\s+/)
    const last = words.at(-1) ?? ''
    const command = words.find((word) => word !== '') ?? ''
    const isFirst = words.filter((word) => word !== '').length <= (last === '' ? 0 : 1)
    const all = isFirst ? this.#commands.map((name) => `${name} `) : this.#argumentWords(command, last)
    return [all.filter((word) => word.startsWith(last)), last]
  }

  #argumentWords(command: string, word: string): string[] {
    const type = this.#entities.get(command)?.argumentType ?? ''
    const equals = word.indexOf('=')
    const path = (equals < 0 ? word : word.slice(0, equals)).split('.')
    const parents = equals < 0 ? path.slice(0, -1) : path
    const types = parents.reduce((inside, name) => inside.flatMap((one) => this.#typesOf(one, name)), [type])
    if (equals >= 0) {
      return types.flatMap((one) => this.#values(one)).map((value) => `${word.slice(0, equals + 1)}${value} `)
    }
    const prefix = parents.map((name) => `${name}.`).join('')
    const members = types.flatMap((one) => this.#members(one))
    const endings = members.map(
      (one) => `${prefix}${one.name}${this.#members(one.type).length > 0 ? '.' : '='}`,
    )
    return [...new Set(endings)].sort()
  }

  #typesOf(type: string, member: string): string[] {
    return this.#members(type).flatMap((one) => (one.name === member ? [one.type] : []))
  }

  /** Members of an object type and of all its variants. */
  #members(type: string): Entity['members'] {
    const entity = this.#entities.get(type)
    if (entity?.kind === 'array') return []
    if (entity?.kind !== 'object' && entity?.kind !== 'alternate') return []
    const own = entity.kind === 'object' ? entity.members : []
    return [...own, ...entity.variants.filter((one) => one !== type).flatMap((one) => this.#members(one))]
  }

  #values(type: string): readonly string[] {
    const entity = this.#entities.get(type)
    if (entity?.jsonType === 'boolean') return ['true', 'false']
    if (entity?.kind === 'enum') return entity.values
    return []
  }
}
