// SPDX-License-Identifier: Apache-2.0
// query-qmp-schema: well-formed, and where both know a thing, equal to the schema recorded from
// qemu-storage-daemon 10.0.13 (recorded-schema.json, cut down to what our commands reach) and, for commands that only the
// full emulator has, from qemu-system-x86_64 10.0.13 (recorded-emulator-schema.json; an e before its masks).

import { readFileSync } from 'node:fs'
import t from 'tap'
import { commands, events } from '../../../protocol/schema/index.js'
import { querySchema } from '../../../protocol/schema/introspect.js'

interface Named {
  readonly name: string
  readonly type: string
  readonly default?: null
}

interface Entity {
  readonly name: string
  readonly 'meta-type': string
  readonly 'json-type'?: string
  readonly 'arg-type'?: string
  readonly 'ret-type'?: string
  readonly 'element-type'?: string
  readonly values?: readonly string[]
  readonly members?: readonly Named[]
  readonly tag?: string
  readonly variants?: readonly { readonly case: string; readonly type: string }[]
}

const byName = (entities: readonly Entity[]) => new Map(entities.map((entity) => [entity.name, entity]))
const ours = byName(querySchema() as unknown as Entity[])
const theirs = byName([...recorded('recorded-schema'), ...recorded('recorded-emulator-schema')])

function recorded(name: string): Entity[] {
  const file = new URL(`../../../../test/protocol/schema/${name}.json`, import.meta.url)
  return JSON.parse(readFileSync(file, 'utf8')) as Entity[]
}

/** Names of all entities that an entity refers to. */
function references(entity: Entity): string[] {
  const types = [entity['arg-type'], entity['ret-type'], entity['element-type']]
  const members = entity['meta-type'] === 'enum' ? [] : (entity.members ?? [])
  return [
    ...types,
    ...members.map(({ type }) => type),
    ...(entity.variants ?? []).map(({ type }) => type),
  ].filter((name) => name !== undefined)
}

t.test('every type that is named is described once', (t) => {
  t.equal(querySchema().length, ours.size)
  for (const entity of ours.values()) {
    for (const name of references(entity)) t.ok(ours.has(name), `${entity.name} -> ${name}`)
  }
  t.end()
})

t.test('names of types are masked', (t) => {
  const masked = /^\[?(\d+|str|int|bool|number|any|null)\]?$/
  for (const { name, 'meta-type': kind } of ours.values()) {
    if (kind !== 'command' && kind !== 'event') t.match(name, masked)
  }
  t.end()
})

t.test('a union has a case for every value of its tag', (t) => {
  for (const { name, tag, variants, members } of ours.values()) {
    if (tag === undefined) continue
    const type = members?.find((member) => member.name === tag)?.type ?? ''
    t.same(
      variants?.map((variant) => variant.case),
      ours.get(type)?.values,
      name,
    )
  }
  t.end()
})

/** What the recorded programs could have, and were built without. */
const otherBuilds: ReadonlySet<string> = new Set(['authz-list-file'])

/** What two descriptions of one thing disagree in, extensions and what we do not have aside. */
function differences(our: string, their: string, path: string, seen: Set<string>): string[] {
  const [a, b] = [ours.get(our), theirs.get(their)]
  if (a === undefined || b === undefined) return [`${path}: not described`]
  if (seen.has(`${our} ${their}`) || our === 'any' || our === '[any]') return []
  seen.add(`${our} ${their}`)
  if (a['meta-type'] !== b['meta-type']) return [`${path}: ${a['meta-type']}, not ${b['meta-type']}`]
  if (a['json-type'] !== b['json-type']) return [`${path}: ${a['json-type']}, not ${b['json-type']}`]
  const pairs = (['arg-type', 'ret-type', 'element-type'] as const).map((key) => [
    a[key],
    b[key],
    `${path} ${key}`,
  ])
  const theirCases = new Map(b.variants?.map((variant) => [variant.case, variant.type]))
  for (const { case: name, type } of a.variants ?? []) {
    if (theirCases.has(name)) pairs.push([type, theirCases.get(name), `${path} ${name}`])
  }
  const unknown = (a.values ?? []).filter(
    (value) => !value.startsWith('x-') && !otherBuilds.has(value) && !b.values?.includes(value),
  )
  return [
    ...unknown.map((value) => `${path}: value ${value}`),
    ...(a['meta-type'] === 'object' ? memberDifferences(a, b, path, seen) : []),
    ...pairs.flatMap(([x, y, at]) =>
      x === undefined || y === undefined ? [] : differences(x, y, at ?? path, seen),
    ),
  ]
}

const extensions = ['target-is-zero', 'on-cbw-error', 'bitmap', 'bitmap-mode']

function memberDifferences(a: Entity, b: Entity, path: string, seen: Set<string>): string[] {
  const [mine, other] = [a.members ?? [], new Map((b.members ?? []).map((member) => [member.name, member]))]
  const shared = mine.filter(({ name }) => other.has(name)).map(({ name }) => name)
  const order = [...other.keys()].filter((name) => shared.includes(name))
  const found = a.tag === b.tag ? [] : [`${path}: tag ${a.tag}, not ${b.tag}`]
  if (shared.join() !== order.join()) found.push(`${path}: order ${shared.join()}, not ${order.join()}`)
  for (const member of mine) {
    const match = other.get(member.name)
    if (match === undefined) {
      const known = member.name.startsWith('x-') || extensions.includes(member.name)
      if (!known) found.push(`${path}: member ${member.name}`)
      continue
    }
    if ('default' in member !== 'default' in match) found.push(`${path}.${member.name}: optional or not`)
    found.push(...differences(member.type, match.type, `${path}.${member.name}`, seen))
  }
  return found
}

for (const name of [...Object.keys(commands), ...Object.keys(events)]) {
  t.test(`${name} is described as the reference daemon describes it, extensions aside`, (t) => {
    if (name.startsWith('x-')) t.notOk(theirs.has(name))
    else t.same(differences(name, name, name, new Set()), [])
    t.end()
  })
}
