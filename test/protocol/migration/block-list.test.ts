// SPDX-License-Identifier: Apache-2.0

import fc from 'fast-check'
import t from 'tap'
import { FormatError } from '../../../protocol/format-error.js'
import {
  type BlockFields,
  blockFields,
  formatRamStart,
  MAX_BLOCKS,
  parseRamStart,
  type RamBlock,
} from '../../../protocol/migration/block-list.js'
import { parseConfiguration } from '../../../protocol/migration/configuration.js'
import { streams, unpack } from '../../helpers/migration/fixtures.js'
import { be64, bytesOf, counted, parsesWhenWhole } from '../../helpers/migration/prefix.js'
import { holds } from '../../helpers/property.js'

const PAGE = 4096
const plain: BlockFields = { pageSize: PAGE, addresses: false, mapped: false, hostPageSizes: false }
const START = Buffer.from('\x03ram\0\0\0\0\0\0\0\x04', 'latin1')

for (const { file, kind, start_offset = 0, blocks, after_replay_of_all_files, ...expected } of streams) {
  if (kind === 'mapped-ram') continue
  t.test(`${file}: the list is what the manifest says, and is written as it was`, (t) => {
    const bytes = unpack(file)
    const configuration = parseConfiguration(bytes.subarray(start_offset + 8))?.value
    if (configuration === undefined) throw new Error('no configuration')
    const body = bytes.subarray(bytes.indexOf(START, start_offset) + START.length)
    const parse = (some: Uint8Array) => parseRamStart(some, blockFields(configuration, false))
    const whole = body.subarray(0, parse(body)?.length)
    const start = parsesWhenWhole(t, whole, parse)
    t.equal(start.total, expected.mem_size_total)
    t.equal(start.syncRecord, expected.sync_style === 'MULTIFD_FLUSH')
    t.ok(whole.equals(formatRamStart(start.blocks, start.syncRecord)))
    t.strictSame(
      start.blocks.map(({ name, usedLength, address }) => ({ name, used_length: usedLength, gpa: address })),
      (blocks ?? after_replay_of_all_files?.blocks ?? []).map(({ name, used_length, gpa }) => {
        return { name, used_length, gpa }
      }),
    )
    t.end()
  })
}

const name = fc.string({ minLength: 1, maxLength: 60, unit: 'grapheme-ascii' })
const usedLength = fc.integer({ min: 1, max: 2 ** 30 }).map((pages) => pages * PAGE)
const hostPageSize = fc.constantFrom(2 ** 16, 2 ** 21, 2 ** 30)
const address = fc.nat(2 ** 30).map((page) => page * PAGE)

const kinds: readonly { name: string; fields: BlockFields; block: fc.Arbitrary<RamBlock> }[] = [
  { name: 'plain', fields: plain, block: fc.record({ name, usedLength }) },
  {
    name: 'with addresses',
    fields: { ...plain, addresses: true },
    block: fc.record({ name, usedLength, address }),
  },
  {
    name: 'some on huge pages',
    fields: { ...plain, hostPageSizes: true },
    block: fc.record({ name, usedLength, hostPageSize }, { requiredKeys: ['name', 'usedLength'] }),
  },
  {
    name: 'some on huge pages, with addresses',
    fields: { ...plain, hostPageSizes: true, addresses: true },
    block: fc.record(
      { name, usedLength, hostPageSize, address },
      { requiredKeys: ['name', 'usedLength', 'address'] },
    ),
  },
  {
    name: 'pages of 64 KiB',
    fields: { ...plain, pageSize: 65536 },
    block: fc.record({ name, usedLength: usedLength.map((length) => length * 16) }),
  },
]
for (const { name: what, fields, block } of kinds) {
  t.test(`any list comes back from its bytes, and every cut asks for more: ${what}`, (t) => {
    const list = fc.uniqueArray(block, { minLength: 1, maxLength: 20, selector: (one) => one.name })
    const property = fc.property(list, fc.boolean(), fc.nat(), (blocks, syncRecord, cut) => {
      const bytes = formatRamStart(blocks, syncRecord)
      const found = parseRamStart(bytesOf(bytes, 0x7e), fields)
      const total = blocks.reduce((sum, one) => sum + one.usedLength, 0)
      const same =
        JSON.stringify(found?.value) === JSON.stringify({ total, blocks: inOrder(blocks), syncRecord })
      const more = parseRamStart(bytes.subarray(0, cut % bytes.length), fields) === undefined
      return same && found?.length === bytes.length && more
    })
    holds(t, property, 300)
    t.end()
  })
}

/** Members in the order in which the parser makes them. */
function inOrder(blocks: readonly RamBlock[]): RamBlock[] {
  return blocks.map((block) => ({
    name: block.name,
    usedLength: block.usedLength,
    ...(block.hostPageSize !== undefined && { hostPageSize: block.hostPageSize }),
    ...(block.address !== undefined && { address: block.address }),
  }))
}

const entry = (of: string, length: number) => bytesOf(counted(of), be64(length))
const list = (total: number, ...entries: Uint8Array[]) => bytesOf(be64(total | 4), ...entries)

const wrong: readonly { name: string; bytes: Uint8Array; fields?: BlockFields; says: string }[] = [
  { name: 'pages first', bytes: be64(8), says: 'found 0x8, expected 0x4' },
  { name: 'nothing in it', bytes: list(0), says: 'found 0, expected at least 4096' },
  { name: 'a total of 2^63', bytes: be64((1n << 63n) | 4n), says: 'less than 2\\^53' },
  { name: 'a nameless block', bytes: list(PAGE, bytesOf(0)), says: 'found 0 bytes' },
  { name: 'an empty block', bytes: list(PAGE, entry('a', 0)), says: 'found 0, expected a multiple of 4096' },
  { name: 'half a page', bytes: list(PAGE, entry('a', 2048)), says: 'found 2048, expected a multiple' },
  {
    name: 'more than the total',
    bytes: list(2 * PAGE, entry('a', PAGE), entry('b', 2 * PAGE)),
    says: 'length of RAM block "b" at offset 20: found 8192, expected at most 4096',
  },
  {
    name: 'a name twice',
    bytes: list(3 * PAGE, entry('a', PAGE), entry('a', PAGE)),
    says: 'found "a" twice',
  },
  {
    name: 'a page behind it',
    bytes: bytesOf(list(PAGE, entry('a', PAGE)), be64(8)),
    says: 'found 0x8, expected 0x200 or 0x10',
  },
  {
    name: 'an offset with its end',
    bytes: bytesOf(list(PAGE, entry('a', PAGE)), be64(0x5010)),
    says: 'found 0x5010, expected 0x200 or 0x10',
  },
  {
    name: 'two sync points',
    bytes: bytesOf(list(PAGE, entry('a', PAGE)), be64(0x200), be64(0x200)),
    says: 'found 0x200, expected 0x10',
  },
  {
    name: 'a page size that is none',
    bytes: bytesOf(list(2 * PAGE, entry('a', PAGE)), be64(0x3000), entry('b', PAGE)),
    fields: { ...plain, hostPageSizes: true },
    says: 'found 12288, expected a power of two above 4096',
  },
]
for (const { name: what, bytes, fields = plain, says } of wrong) {
  t.test(`a list is refused: ${what}`, (t) => {
    t.throws(() => parseRamStart(bytes, fields), { name: 'FormatError', message: new RegExp(says) })
    t.end()
  })
}

t.test('a list that never ends is refused at some thousand blocks', (t) => {
  const blocks = Array.from({ length: MAX_BLOCKS + 1 }, (_, index) => ({
    name: `b${index}`,
    usedLength: PAGE,
  }))
  t.equal(parseRamStart(formatRamStart(blocks.slice(1), false), plain)?.value.blocks.length, MAX_BLOCKS)
  t.throws(() => parseRamStart(formatRamStart(blocks, false), plain), FormatError)
  t.end()
})
