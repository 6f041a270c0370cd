// SPDX-License-Identifier: Apache-2.0
// The validator: recorded texts of the reference daemon, and agreement with a naive model on values made from the
// schema and then damaged.

import { deepEqual, equal, ok } from 'node:assert/strict'
import fc from 'fast-check'
import t from 'tap'
import { JsonStream } from '../../../protocol/json-stream.js'
import { toText } from '../../../protocol/json-text.js'
import { isJsonObject, JsonDouble, type JsonObject, type JsonValue } from '../../../protocol/json-value.js'
import { type CommandName, commands } from '../../../protocol/schema/index.js'
import {
  type AnyType,
  arrayOf,
  enumOf,
  int,
  isUnion,
  type Members,
  type ObjectType,
  optional,
  required,
  size,
  struct,
  uint8,
  uint16,
  uint64,
} from '../../../protocol/schema/types.js'
import { ArgumentError, validate, validateArguments } from '../../../protocol/schema/validate.js'
import { holds } from '../../helpers/property.js'

const object = (text: string): JsonObject => {
  const [item] = new JsonStream().push(Buffer.from(text))
  if (item?.kind !== 'value' || !isJsonObject(item.value)) throw new Error(`no object: ${text}`)
  return item.value
}

const mirror = (more: string): string => `{"device": "a", "target": "b", "sync": "full"${more}}`

const refused: readonly (readonly [command: CommandName, args: string, desc: string])[] = [
  ['query-version', '{"x": 1}', "Parameter 'x' is unexpected"],
  ['query-version', '{"y": 1, "x": 1}', "Parameter 'y' is unexpected"],
  ['qmp_capabilities', '{"enable": ["foo"]}', "Parameter 'null' does not accept value 'foo'"],
  ['qmp_capabilities', '{"enable": "oob"}', "Invalid parameter type for 'enable', expected: array"],
  ['qmp_capabilities', '{"enable": [3]}', "Invalid parameter type for 'enable[0]', expected: string"],
  ['qmp_capabilities', '{"x": 1}', "Parameter 'x' is unexpected"],
  ['blockdev-del', '{}', "Parameter 'node-name' is missing"],
  ['blockdev-del', '{"node-name": 3}', "Invalid parameter type for 'node-name', expected: string"],
  ['blockdev-del', '{"node-name": null}', "Invalid parameter type for 'node-name', expected: string"],
  ['blockdev-del', '{"node_name": "a"}', "Parameter 'node-name' is missing"],
  ['blockdev-mirror', '{"bogus": 1}', "Parameter 'device' is missing"],
  ['blockdev-mirror', '{"device": "a", "bogus": 1}', "Parameter 'target' is missing"],
  ['blockdev-mirror', '{"device": "a", "target": "b"}', "Parameter 'sync' is missing"],
  [
    'blockdev-mirror',
    '{"device": "a", "target": "b", "sync": "x"}',
    "Parameter 'sync' does not accept value 'x'",
  ],
  [
    'blockdev-mirror',
    '{"device": "a", "target": "b", "sync": 1}',
    "Invalid parameter type for 'sync', expected: string",
  ],
  ...['"1M"', '1.5', '1.0', '1e3', '9223372036854775808', 'null'].map(
    (speed) =>
      [
        'blockdev-mirror',
        mirror(`, "speed": ${speed}`),
        "Invalid parameter type for 'speed', expected: integer",
      ] as const,
  ),
  ['blockdev-mirror', mirror(', "granularity": "64k"'), "Parameter 'granularity' expects uint64"],
  ['blockdev-mirror', mirror(', "granularity": 1.5'), "Parameter 'granularity' expects uint64"],
  ['blockdev-mirror', mirror(', "granularity": -1'), "Parameter 'granularity' expects uint32_t"],
  ['blockdev-mirror', mirror(', "granularity": 4294967296'), "Parameter 'granularity' expects uint32_t"],
  [
    'blockdev-mirror',
    mirror(', "auto-dismiss": 1'),
    "Invalid parameter type for 'auto-dismiss', expected: boolean",
  ],
  [
    'blockdev-mirror',
    mirror(', "auto-dismiss": "on"'),
    "Invalid parameter type for 'auto-dismiss', expected: boolean",
  ],
  ['blockdev-mirror', mirror(', "unmap": true'), "Parameter 'unmap' is unexpected"],
  ['blockdev-add', '{"driver": "nosuch"}', "Parameter 'driver' does not accept value 'nosuch'"],
  [
    'blockdev-add',
    '{"driver": "file", "filename": "x", "cache": true}',
    "Invalid parameter type for 'cache', expected: object",
  ],
  [
    'blockdev-add',
    '{"driver": "file", "filename": "x", "cache": {"direct": 1}}',
    "Invalid parameter type for 'cache.direct', expected: boolean",
  ],
  [
    'blockdev-add',
    '{"driver": "file", "filename": "x", "cache": {"bogus": true}}',
    "Parameter 'cache.bogus' is unexpected",
  ],
  [
    'blockdev-add',
    '{"driver": "raw", "file": 5}',
    "Invalid parameter type for 'file', expected: BlockdevRef",
  ],
  ['blockdev-add', '{"driver": "raw", "file": {"driver": "file"}}', "Parameter 'file.filename' is missing"],
  [
    'blockdev-add',
    '{"driver": "raw", "file": {"driver": "file", "filename": "x", "nope": 1}}',
    "Parameter 'file.nope' is unexpected",
  ],
  ...[
    'cache-size',
    'l2-cache-size',
    'l2-cache-entry-size',
    'refcount-cache-size',
    'cache-clean-interval',
  ].map(
    (name) =>
      [
        'blockdev-add',
        `{"driver": "qcow2", "file": "f", "${name}": ${2n ** 62n}}`,
        `Parameter '${name}' expects a value between -9007199254740991 and 9007199254740991`,
      ] as const,
  ),
  ['blockdev-reopen', '{"options": [{"driver": "raw"}]}', "Parameter 'options[0].file' is missing"],
  [
    'blockdev-create',
    '{"job-id": "j", "options": {"driver": "raw", "size": 1}}',
    "Parameter 'options.size' is unexpected",
  ],
  [
    'blockdev-create',
    '{"job-id": "j", "options": {"driver": "file", "filename": "x", "size": "1M"}}',
    "Parameter 'options.size' expects uint64",
  ],
  ['block-job-change', '{"id": "j", "type": "mirror"}', "Parameter 'copy-mode' is missing"],
  [
    'block-job-change',
    '{"id": "j", "type": "mirror", "copy-mode": "x"}',
    "Parameter 'copy-mode' does not accept value 'x'",
  ],
  ['object-add', '{"qom-type": "throttle-group"}', "Parameter 'id' is missing"],
  ['object-add', '{"qom-type": "nosuch", "id": "x"}', "Parameter 'qom-type' does not accept value 'nosuch'"],
  ['object-add', '{"qom-type": "throttle-group", "id": "x", "bogus": 1}', "Parameter 'bogus' is unexpected"],
]
for (const [command, args, desc] of refused) {
  t.test(`${command} refuses ${args}`, (t) => {
    t.throws(() => validateArguments(command, object(args)), new ArgumentError(desc))
    t.end()
  })
}

t.test('absent arguments are an empty object', (t) => {
  t.same(validateArguments('query-blockstats', undefined), {})
  t.throws(
    () => validateArguments('blockdev-del', undefined),
    new ArgumentError("Parameter 'node-name' is missing"),
  )
  t.end()
})

t.test('accepted arguments come back as they were, without defaults', (t) => {
  const text = '{"device": "a", "target": "b", "sync": "full", "speed": 0, "x-auto-complete": true}'
  t.equal(toText(validateArguments('blockdev-mirror', object(text))), text)
  t.end()
})

t.test('-0 is an integer', (t) => {
  t.equal(validateArguments('block_resize', object('{"size": -0}')).size, 0)
  t.end()
})

const numbers = struct('numbers', {
  a: optional(uint8, ''),
  b: optional(uint16, ''),
  c: optional(uint64, ''),
  d: optional(size, ''),
  e: optional(int, ''),
})

t.test('negative values of 64-bit unsigned types are handed on', (t) => {
  t.same(validate(numbers, object('{"c": -1, "d": -1}')), { c: -1, d: -1 })
  t.end()
})

const outOfRange = [
  ['{"a": 256}', "Parameter 'a' expects uint8_t"],
  ['{"b": 65536}', "Parameter 'b' expects uint16_t"],
  ['{"c": 9007199254740992}', "Parameter 'c' expects a value between 0 and 9007199254740991"],
  ['{"d": 18446744073709551615}', "Parameter 'd' expects a value between 0 and 9007199254740991"],
  ['{"d": 18446744073709551616}', "Parameter 'd' expects uint64"],
  [
    '{"e": 9223372036854775807}',
    "Parameter 'e' expects a value between -9007199254740991 and 9007199254740991",
  ],
  ['{"e": 9223372036854775808}', "Invalid parameter type for 'e', expected: integer"],
] as const
for (const [text, desc] of outOfRange) {
  t.test(`out of range: ${text}`, (t) => {
    t.throws(() => validate(numbers, object(text)), new ArgumentError(desc))
    t.end()
  })
}

t.test('members of Object.prototype are not there by themselves', (t) => {
  const strange = struct('strange', {
    toString: optional(size, ''),
    list: required(arrayOf(enumOf('e', ['a'])), ''),
  })
  t.same(validate(strange, object('{"list": ["a"]}')), { list: ['a'] })
  t.throws(() => validateArguments('quit', object('{"__proto__": {}}')), /'__proto__' is unexpected/)
  t.end()
})

/** The rules once more, without texts or order. */
function fits(type: AnyType, value: JsonValue): boolean {
  switch (type.kind) {
    case 'enum':
      return typeof value === 'string' && type.values.includes(value)
    case 'array':
      return Array.isArray(value) && value.every((item) => fits(type.element, item))
    case 'alternate':
      return type.choices().some((choice) => fits(choice, value))
    case 'lazy':
      return fits(type.target(), value)
    case 'builtin':
      return fitsBuiltin(type.name, value)
    default: {
      if (!isJsonObject(value)) return false
      const tag = type.kind === 'union' ? value[type.tag] : undefined
      const members = membersOf(type, typeof tag === 'string' ? tag : undefined)
      const known = Object.keys(value).every((name) => Object.hasOwn(members, name))
      return (
        known &&
        Object.entries(members).every(([name, member]) =>
          Object.hasOwn(value, name) ? fits(member.type, value[name]!) : member.optional,
        )
      )
    }
  }
}

function fitsBuiltin(name: string, value: JsonValue): boolean {
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
      return ['number', 'bigint'].includes(typeof value) || value instanceof JsonDouble
    case 'uint8':
      return typeof value === 'number' && value >= 0 && value < 2 ** 8
    case 'uint32':
      return typeof value === 'number' && value >= 0 && value < 2 ** 32
    default:
      return typeof value === 'number'
  }
}

const anything: fc.Arbitrary<JsonValue> = fc.oneof(
  fc.constantFrom<JsonValue[]>(null, true, 0, -1, 1, 2 ** 32, 2n ** 60n, 'full', 'file', 'x', [], ['x'], {}),
  fc.double({ noNaN: true, noDefaultInfinity: true }).map((value) => new JsonDouble(value)),
)

/** Values that fit, with now and then one thing that need not. */
function candidate(type: AnyType, depth: number): fc.Arbitrary<JsonValue> {
  return fc.oneof({ weight: 30, arbitrary: fitting(type, depth) }, { weight: 1, arbitrary: anything })
}

function fitting(type: AnyType, depth: number): fc.Arbitrary<JsonValue> {
  switch (type.kind) {
    case 'enum':
      return fc.constantFrom(...type.values)
    case 'array':
      return fc.array(candidate(type.element, depth + 1), { maxLength: 2 })
    case 'alternate': {
      const choices = type
        .choices()
        .filter((choice) => depth < 3 || choice.kind === 'builtin' || choice.kind === 'enum')
      return fc.oneof(...choices.map((choice) => fitting(choice, depth + 1)))
    }
    case 'lazy':
      return fitting(type.target(), depth + 1)
    case 'struct':
      return membersArbitrary(type.members, depth)
    case 'union': {
      const tag = type.base[type.tag]!.type
      const names = tag.kind === 'enum' ? tag.values : []
      return fc
        .constantFrom(...names)
        .chain((name) =>
          membersArbitrary(membersOf(type, name), depth).map((value) => ({ ...value, [type.tag]: name })),
        )
    }
    default:
      return builtinArbitrary(type.name)
  }
}

function builtinArbitrary(name: string): fc.Arbitrary<JsonValue> {
  switch (name) {
    case 'str':
      return fc.string({ maxLength: 3 })
    case 'bool':
      return fc.boolean()
    case 'null':
      return fc.constant(null)
    case 'any':
      return anything
    default:
      return fc.nat()
  }
}

function membersArbitrary(members: Members, depth: number): fc.Arbitrary<JsonObject> {
  const parts = Object.entries(members).map(([name, member]) =>
    fc.tuple(
      fc.constant(name),
      candidate(member.type, depth + 1),
      fc.integer({ min: 0, max: member.optional ? 3 : 40 }),
    ),
  )
  const extra = fc.option(fc.tuple(fc.constantFrom('bogus', '__proto__', 'size'), anything), { freq: 20 })
  return fc.tuple(extra, ...parts).map(([more, ...all]) => {
    const value: JsonObject = Object.create(null)
    for (const [name, member, kept] of all) if (kept > 0) value[name] = member
    if (more !== null) value[more[0]] = more[1]
    return value
  })
}

for (const name of Object.keys(commands) as CommandName[]) {
  t.test(`${name} accepts what its type says and nothing else`, (t) => {
    const type = commands[name].arguments
    const property = fc.property(candidate(type, 0), (value) => {
      let out: unknown
      try {
        out = validate(type, value)
      } catch (error) {
        ok(error instanceof ArgumentError, String(error))
        equal(fits(type, value), false, `${toText(value)}: ${error.message}`)
        return
      }
      equal(fits(type, value), true, toText(value))
      deepEqual(sortedText(out), sortedText(value))
    })
    holds(t, property, 60)
    t.end()
  })
}

/** Text with members in one order; the validator gives them in the schema's. */
function sortedText(value: unknown): string {
  return toText(sorted(value))
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted)
  if (typeof value !== 'object' || value === null || value instanceof JsonDouble) return value
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, member]) => [name, sorted(member)]),
  )
}

/** Every struct's or chosen variant's members, in the order they are checked. */
function membersOf(type: ObjectType, tagValue?: string): Members {
  if (type.kind === 'struct') return type.members
  const more = tagValue === undefined ? undefined : type.variants[tagValue]
  return { ...type.base, ...(more !== undefined && (isUnion(more) ? membersOf(more) : more)) }
}
