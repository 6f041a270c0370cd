// SPDX-License-Identifier: Apache-2.0

import fc from 'fast-check'
import t from 'tap'
import { FormatError } from '../../../protocol/format-error.js'
import {
  type Configuration,
  formatConfiguration,
  hasCapability,
  pageSizeOf,
  parseConfiguration,
  withCapability,
  withoutCapability,
} from '../../../protocol/migration/configuration.js'
import { type ExpectedStream, streams, unpack } from '../../helpers/migration/fixtures.js'
import { be32, bytesOf, counted, parsesWhenWhole } from '../../helpers/migration/prefix.js'
import { holds } from '../../helpers/property.js'

const none = { machine: 'pc', pageBits: undefined, capabilities: undefined, uuid: undefined }
const mapped: Configuration = { ...none, capabilities: ['mapped-ram'] }

/** In the manifest's words. */
function described({
  machine,
  pageBits,
  capabilities,
  uuid,
}: Configuration): ExpectedStream['configuration'] {
  const hex = uuid === undefined ? undefined : Buffer.from(uuid).toString('hex')
  const subsections = [
    { name: 'configuration/target-page-bits', ver: 1, bits: pageBits },
    { name: 'configuration/capabilities', ver: 1, caps: capabilities },
    { name: 'configuration/uuid', ver: 1, uuid: hex },
  ]
  const there = subsections.filter((one) => Object.values(one).every((value) => value !== undefined))
  return { machine, subsections: there as ExpectedStream['configuration']['subsections'] }
}

for (const { file, start_offset = 0, configuration } of streams) {
  t.test(`${file}: the configuration is read from any prefix and written as it was`, (t) => {
    const rest = unpack(file).subarray(start_offset + 8)
    const length = parseConfiguration(rest)?.length ?? 0
    const found = parsesWhenWhole(t, rest.subarray(0, length + 1), parseConfiguration, 1)
    t.strictSame(described(found), configuration)
    t.ok(rest.subarray(0, length).equals(formatConfiguration(found)))
    t.equal(pageSizeOf(found), 4096)
    t.end()
  })
}

const subsection = (name: string, version: number, ...fields: (number[] | Uint8Array)[]) =>
  bytesOf(5, counted(`configuration/${name}`), be32(version), ...fields)
const start = bytesOf(7, be32(2), 'pc')
const pageBits = subsection('target-page-bits', 1, be32(14))
const uuid = subsection('uuid', 1, new Uint8Array(16))
const list = (...names: string[]) =>
  subsection('capabilities', 1, be32(names.length), ...names.map((name) => counted(name)))

const refused = [
  { name: 'another section first', bytes: bytesOf(1), says: 'found 0x1, expected 0x7, configuration' },
  { name: 'no machine type', bytes: bytesOf(7, be32(0)), says: 'found 0 bytes' },
  { name: 'a machine type of 4 GiB', bytes: bytesOf(7, be32(0xffff_ffff)), says: 'found 4294967295 bytes' },
  {
    name: 'an unknown subsection',
    bytes: bytesOf(start, subsection('other', 1)),
    says: '"configuration/other"',
  },
  { name: 'a subsection twice', bytes: bytesOf(start, uuid, uuid), says: 'expected no more' },
  { name: 'another order', bytes: bytesOf(start, uuid, pageBits), says: 'expected no more' },
  {
    name: 'version 2 of a subsection',
    bytes: bytesOf(start, subsection('uuid', 2)),
    says: 'found 2, expected 1',
  },
  { name: 'an unknown capability', bytes: bytesOf(start, list('xbzrle')), says: 'found "xbzrle"' },
  {
    name: 'a capability twice',
    bytes: bytesOf(start, list('mapped-ram', 'mapped-ram')),
    says: 'each once',
  },
  {
    name: 'pages of 512 bytes',
    bytes: bytesOf(start, subsection('target-page-bits', 1, be32(9))),
    says: 'found 9, expected 10 to 16',
  },
  {
    name: 'pages of 128 KiB',
    bytes: bytesOf(start, subsection('target-page-bits', 1, be32(17))),
    says: 'found 17, expected 10 to 16',
  },
]
for (const { name, bytes, says } of refused) {
  t.test(`a configuration is refused: ${name}`, (t) => {
    t.throws(() => parseConfiguration(bytes), { name: 'FormatError', message: new RegExp(says) })
    t.end()
  })
}

t.test('any configuration comes back from its bytes', (t) => {
  const names = fc.shuffledSubarray<'x-ignore-shared' | 'mapped-ram'>(['x-ignore-shared', 'mapped-ram'])
  const configuration: fc.Arbitrary<Configuration> = fc.record({
    machine: fc.string({ minLength: 1, maxLength: 200, unit: 'grapheme-ascii' }),
    pageBits: fc.option(fc.integer({ min: 10, max: 16 }), { nil: undefined }),
    capabilities: fc.option(names, { nil: undefined }),
    uuid: fc.option(fc.uint8Array({ minLength: 16, maxLength: 16 }), { nil: undefined }),
  })
  const property = fc.property(configuration, (value) => {
    const bytes = formatConfiguration(value)
    const found = parseConfiguration(bytesOf(bytes, 8))
    return found?.length === bytes.length && Buffer.from(bytes).equals(formatConfiguration(found.value))
  })
  holds(t, property, 500)
  t.end()
})

const changes: readonly { name: string; from: Configuration; to: Configuration; back: Configuration }[] = [
  { name: 'no list', from: none, to: mapped, back: none },
  { name: 'an empty list', from: { ...none, capabilities: [] }, to: mapped, back: none },
  { name: 'it is there already', from: mapped, to: mapped, back: none },
  {
    name: 'behind x-ignore-shared',
    from: { ...none, capabilities: ['x-ignore-shared'] },
    to: { ...none, capabilities: ['x-ignore-shared', 'mapped-ram'] },
    back: { ...none, capabilities: ['x-ignore-shared'] },
  },
]
for (const { name, from, to, back } of changes) {
  t.test(`mapped-ram is put into the list and taken out: ${name}`, (t) => {
    t.strictSame(withCapability(from, 'mapped-ram'), to)
    t.ok(hasCapability(to, 'mapped-ram'))
    t.strictSame(withoutCapability(withCapability(from, 'mapped-ram'), 'mapped-ram'), back)
    t.notOk(hasCapability(back, 'mapped-ram'))
    t.end()
  })
}

t.test('x-ignore-shared goes in front of mapped-ram', (t) => {
  t.same(withCapability(mapped, 'x-ignore-shared').capabilities, ['x-ignore-shared', 'mapped-ram'])
  t.end()
})

t.test('the list stands between page size and UUID', (t) => {
  const bytes = bytesOf(start, pageBits, list('mapped-ram'), uuid)
  const without = bytesOf(start, pageBits, uuid)
  const found = parseConfiguration(bytesOf(without, 1))?.value
  if (found === undefined) throw new FormatError('no configuration')
  t.same(formatConfiguration(withCapability(found, 'mapped-ram')), bytes)
  t.same(formatConfiguration(withoutCapability(withCapability(found, 'mapped-ram'), 'mapped-ram')), without)
  t.equal(pageSizeOf(found), 16384)
  t.end()
})
