// SPDX-License-Identifier: Apache-2.0

import t from 'tap'
import { type RamRecord, RamRecords } from '../../../protocol/migration/page-record.js'
import { refusals } from '../../../protocol/migration/refusals.js'
import { be16, be64, bytesOf, counted, parsesWhenWhole } from '../../helpers/migration/prefix.js'

const PAGE = 4096
const blocks = [
  { name: 'pc.ram', usedLength: 16 * PAGE },
  { name: 'pc.bios', usedLength: PAGE },
]
const page = new Uint8Array(PAGE).fill(0xa5)
const pcRam = counted('pc.ram')

const records: readonly { name: string; bytes: Uint8Array; record: RamRecord }[] = [
  {
    name: 'a page',
    bytes: bytesOf(be64(0x3008), pcRam, page),
    record: { kind: 'page', block: 'pc.ram', offset: 0x3000, data: page },
  },
  {
    name: 'a zero page',
    bytes: bytesOf(be64(0xf002), pcRam, 0),
    record: { kind: 'zero', block: 'pc.ram', offset: 0xf000 },
  },
  {
    name: 'a delta',
    bytes: bytesOf(be64(0x1040), pcRam, 1, be16(3), [0, 1, 9]),
    record: { kind: 'xbzrle', block: 'pc.ram', offset: 0x1000, delta: bytesOf(0, 1, 9) },
  },
  { name: 'a sync point', bytes: be64(0x200), record: { kind: 'sync' } },
  { name: 'the end', bytes: be64(0x10), record: { kind: 'eos' } },
]
for (const { name, bytes, record } of records) {
  t.test(`${name} is read from any prefix`, (t) => {
    t.same(
      parsesWhenWhole(t, bytes, (some) => new RamRecords(blocks, PAGE).next(some)),
      record,
    )
    t.end()
  })
}

t.test('a record continues with the block before it, over the end of a section', (t) => {
  const walker = new RamRecords(blocks, PAGE)
  const read = (bytes: Uint8Array) => walker.next(bytes)?.value
  read(bytesOf(be64(0x1002), counted('pc.ram'), 0))
  t.match(read(bytesOf(be64(0x2022), 0)), { block: 'pc.ram', offset: 0x2000 })
  t.match(read(be64(0x10)), { kind: 'eos' })
  t.match(read(bytesOf(be64(0x3028), page)), { block: 'pc.ram', offset: 0x3000 })
  t.match(read(bytesOf(be64(0x0002), counted('pc.bios'), 0)), { block: 'pc.bios', offset: 0 })
  t.match(read(bytesOf(be64(0x0060), 1)), undefined, 'more bytes are needed, nothing is changed')
  t.match(read(bytesOf(be64(0x0022), 0)), { block: 'pc.bios', offset: 0 })
  t.end()
})

t.test('a record that is cut does not change the block', (t) => {
  const walker = new RamRecords(blocks, PAGE)
  walker.next(bytesOf(be64(0x1002), counted('pc.ram'), 0))
  t.equal(walker.next(bytesOf(be64(0x0002), counted('pc.bios'))), undefined)
  t.match(walker.next(bytesOf(be64(0x2022), 0))?.value, { block: 'pc.ram' })
  t.end()
})

const wrong = [
  { name: 'a block of no list', bytes: bytesOf(be64(2), counted('vga.vram')), says: 'found "vga.vram"' },
  { name: 'no block yet', bytes: bytesOf(be64(0x22), 0), says: 'found no block' },
  {
    name: 'a page behind its block',
    bytes: bytesOf(be64(0x10002), pcRam),
    says: 'found 65536, expected less than 65536',
  },
  { name: 'an offset of 2^60', bytes: be64((1n << 60n) | 2n), says: 'less than 2\\^53' },
  { name: 'a zero page of ones', bytes: bytesOf(be64(2), pcRam, 1), says: 'found 0x1, expected 0x0' },
  { name: 'another encoding', bytes: bytesOf(be64(0x40), pcRam, 2), says: 'found 0x2, expected 0x1' },
  {
    name: 'a delta of 4097',
    bytes: bytesOf(be64(0x40), pcRam, 1, be16(4097)),
    says: 'found 4097, expected at most',
  },
  { name: 'an end with an offset', bytes: be64(0x1010), says: 'found offset 4096' },
  { name: 'an end that continues', bytes: be64(0x30), says: 'flags 0x30' },
  { name: 'a sync point with an offset', bytes: be64(0x1200), says: 'found offset 4096' },
  { name: 'a second list', bytes: be64(0x1004), says: 'another list of blocks' },
  { name: 'no flags', bytes: be64(0x1000), says: 'found 0x0' },
  { name: 'two kinds', bytes: be64(0x0a), says: 'found 0xa' },
  { name: 'an unknown flag', bytes: be64(0x408), says: 'found 0x408' },
  { name: 'the extinct flag', bytes: be64(0x01), says: 'found 0x1' },
  { name: 'compressed pages', bytes: be64(0x100), says: refusals.compress.replace(/[.()]/g, '.') },
  { name: 'more compressed pages', bytes: be64(0x120), says: '"compress"' },
  { name: 'RDMA', bytes: be64(0x80), says: 'RDMA' },
]
for (const { name, bytes, says } of wrong) {
  t.test(`a record is refused: ${name}`, (t) => {
    const walker = new RamRecords(blocks, PAGE)
    t.throws(() => walker.next(bytes), { name: 'FormatError', message: new RegExp(says) })
    t.end()
  })
}

t.test('flags reach up to the page size of the target', (t) => {
  const walker = new RamRecords([{ name: 'pc.ram', usedLength: 2 ** 20 }], 1024)
  t.match(walker.next(bytesOf(be64(0x402), pcRam, 0))?.value, { offset: 0x400 })
  t.equal(walker.next(bytesOf(be64(0x428), new Uint8Array(1024)))?.length, 8 + 1024)
  t.end()
})
