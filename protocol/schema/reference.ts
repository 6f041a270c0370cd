// SPDX-License-Identifier: Apache-2.0
// The reference manual, made from the schema: docs/reference.md. A test keeps the file and the schema equal.

import { commands, events } from './index.js'
import {
  type AnyType,
  type BuiltinType,
  type Command,
  type Event,
  isUnion,
  type Member,
  type Members,
} from './types.js'

const head = `# Reference: commands and events

Made from the schema in \`protocol/schema/\` by \`npm run docs\`; do not edit.

Commands are sent as QMP, \`{"execute": NAME, "arguments": {…}, "id": …}\`, or as JSON-RPC 2.0,
\`{"jsonrpc": "2.0", "method": NAME, "params": {…}, "id": …}\`. Names, arguments and results are the same in both.
Sizes and offsets are bytes unless said otherwise. An argument without "optional" is needed.
What is marked *extension* is blockferry's own and not in qemu-storage-daemon 10.0; names that begin with \`x-\` may
still change.
`

/** Types by name, in the order the text meets them. */
class Met {
  readonly #types = new Map<string, Exclude<AnyType, BuiltinType | { kind: 'array' | 'lazy' }>>()

  /** How a type is called in a table. */
  show(type: AnyType): string {
    switch (type.kind) {
      case 'builtin':
        return builtinNames[type.name] ?? type.name
      case 'array':
        return `list of ${this.show(type.element)}`
      case 'lazy':
        return this.show(type.target())
      case 'enum':
        if (type.values.length <= 6) return type.values.map((value) => `\`${value}\``).join(', ')
        break
      default:
    }
    this.#types.set(type.name, type)
    return `[${type.name}](#${type.name.toLowerCase()})`
  }

  /** One section for each; describing one may meet others. */
  describe(): string {
    let text = ''
    for (const [name, type] of this.#types) text += `\n### ${name}\n\n${this.#body(type)}`
    return text
  }

  #body(type: Exclude<AnyType, BuiltinType | { kind: 'array' | 'lazy' }>): string {
    switch (type.kind) {
      case 'enum':
        return `One of ${type.values.map((value) => `\`${value}\``).join(', ')}.\n`
      case 'alternate':
        return `Either ${type
          .choices()
          .map((choice) => this.show(choice))
          .join(' or ')}.\n`
      default:
        return this.members(type) || 'An object without members.\n'
    }
  }

  /** Tables of an object's members; of a union one for all and one for each variant. */
  members(type: Command['arguments']): string {
    if (type.kind === 'struct') return this.#table(type.members)
    const variants = Object.entries(type.variants)
      .filter(([, more]) => Object.keys(more).length > 0)
      .map(([name, more]) => {
        const tables = isUnion(more) ? this.members(more) : this.#table(more)
        return `\nWith \`${type.tag}\` = \`${name}\`${mark(name)}:\n\n${tables}`
      })
    return this.#table(type.base) + variants.join('')
  }

  #table(members: Members): string {
    const rows = Object.entries(members).map(([name, member]) => this.#row(name, member))
    return rows.length === 0
      ? ''
      : `| member | type | default | meaning |\n|---|---|---|---|\n${rows.join('')}`
  }

  #row(name: string, member: Member): string {
    const absent = member.optional
      ? member.default === undefined
        ? 'optional'
        : `\`${member.default}\``
      : ''
    return `| \`${name}\`${mark(name, member.extension)} | ${this.show(member.type)} | ${absent} | ${member.doc} |\n`
  }
}

const builtinNames: Readonly<Partial<Record<BuiltinType['name'], string>>> = {
  str: 'string',
  bool: 'boolean',
  int: 'integer',
  size: 'size',
  any: 'any value',
  null: '`null`',
}

function mark(name: string, extension = false): string {
  return extension || name.startsWith('x-') ? ' *extension*' : ''
}

function commandText(name: string, command: Command, met: Met): string {
  const members = met.members(command.arguments)
  const args = members === '' ? 'No arguments.\n' : members
  const returns = command.returns === undefined ? 'nothing (`{}`)' : met.show(command.returns)
  const oob = command.oob ? 'May be run out of band.\n' : ''
  return `\n### ${name}${mark(name)}\n\n${command.doc}\n\n${args}\nReturns ${returns}.\n${oob}`
}

function eventText(name: string, event: Event, met: Met): string {
  return `\n### ${name}${mark(name, event.extension)}\n\n${event.doc}\n\n${met.members(event.data)}`
}

/** The whole manual as markdown. */
export function referenceText(): string {
  const met = new Met()
  const all = Object.entries(commands).map(([name, command]) => commandText(name, command, met))
  const told = Object.entries(events).map(([name, event]) => eventText(name, event, met))
  return `${head}\n## Commands\n${all.join('')}\n## Events\n${told.join('')}\n## Types\n${met.describe()}`
}
