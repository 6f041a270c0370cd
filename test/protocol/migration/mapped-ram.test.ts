// SPDX-License-Identifier: Apache-2.0
// Mapped-ram files: QEMU's own and damaged ones, and layouts that are planned here.

import fc from 'fast-check'
import t from 'tap'
import { FormatError } from '../../../protocol/format-error.js'
import { type BlockFields, formatMemSize } from '../../../protocol/migration/block-list.js'
import { parsePrefix, Writer } from '../../../protocol/migration/bytes.js'
import { type Configuration, withoutCapability } from '../../../protocol/migration/configuration.js'
import {
  MAPPED_HEADER_LENGTH,
  readMappedHeader,
  writeMappedHeader,
} from '../../../protocol/migration/mapped-header.js'
import {
  type MappedLayout,
  mappedPieces,
  mappedTailStart,
  PAGES_ALIGNMENT,
  planMappedRam,
} from '../../../protocol/migration/mapped-layout.js'
import { checkBitmaps, MappedList } from '../../../protocol/migration/mapped-list.js'
import { refusals } from '../../../protocol/migration/refusals.js'
import { type ExpectedStream, streams, unpack } from '../../helpers/migration/fixtures.js'
import { type MappedFile, readAtOf, readMappedFile } from '../../helpers/migration/mapped-file.js'
import { be32, be64, bytesOf, outcome, parsesWhenWhole } from '../../helpers/migration/prefix.js'
import { mutate } from '../../helpers/mutate.js'
import { holds } from '../../helpers/property.js'

const PAGE = 4096
const mapped = streams.filter(({ kind }) => kind === 'mapped-ram')

function open(bytes: Uint8Array, base: number): MappedFile {
  const found = readMappedFile(readAtOf(bytes), bytes.length, base)
  if (found === undefined) throw new Error('the file ends too early')
  return found
}

function bitmapsOf(bytes: Uint8Array, { blocks }: MappedLayout): Uint8Array[] {
  return blocks.map(({ mapped: { bitmapOffset }, bitmapLength }) =>
    bytes.subarray(bitmapOffset, bitmapOffset + bitmapLength),
  )
}

function expectedBlocks({ blocks = [] }: ExpectedStream) {
  return blocks.map(({ name, used_length, header_offset, bitmap_offset, pages_offset }) => {
    return { name, used_length, header_offset, bitmap_offset, pages_offset }
  })
}

function foundBlocks({ blocks }: MappedLayout) {
  return blocks.map(({ name, usedLength, entryOffset, mapped: { bitmapOffset, pagesOffset } }) => ({
    name,
    used_length: usedLength,
    header_offset: entryOffset,
    bitmap_offset: bitmapOffset,
    pages_offset: pagesOffset,
  }))
}

for (const expected of mapped) {
  const { file, start_offset: base = 0 } = expected

  t.test(`${file}: the list is what the manifest says, and passes`, (t) => {
    const bytes = unpack(file)
    const { layout, ramId } = open(bytes, base)
    t.same(foundBlocks(layout), expectedBlocks(expected))
    t.equal(layout.base, base)
    t.equal(ramId, expected.ram_section_id)
    checkBitmaps(layout, bitmapsOf(bytes, layout))
    t.end()
  })

  t.test(`${file}: a layout planned from a stream's head is QEMU's own, byte for byte`, (t) => {
    const bytes = unpack(file)
    const { configuration, layout, ramId } = open(bytes, base)
    const blocks = layout.blocks.map(({ name, usedLength }) => ({ name, usedLength, address: 77 }))
    const source = { configuration: withoutCapability(configuration, 'mapped-ram'), ramId, blocks }
    const planned = planMappedRam(source, base)
    t.same(planned, layout)
    for (const { offset, bytes: piece } of mappedPieces(source, planned))
      t.ok(bytes.subarray(offset, offset + piece.length).equals(piece), `piece at ${offset}`)
    t.end()
  })

  t.test(`${file}: an entry is read from any prefix`, (t) => {
    const bytes = unpack(file)
    const { layout, fields } = open(bytes, base)
    const [first] = layout.blocks
    if (first === undefined) throw new Error('no block')
    const { entryOffset, entryLength } = first
    const begin = () =>
      MappedList.begin(formatMemSize(expected.mem_size_total), fields, {
        base,
        at: entryOffset - 8,
        fileLength: bytes.length,
      })
    const whole = bytes.subarray(entryOffset, entryOffset + entryLength)
    t.same(
      parsesWhenWhole(t, whole, (some) => begin()?.add(some)),
      first,
    )
    t.end()
  })
}

t.test('a header is read from any prefix and written as it was', (t) => {
  const header = { pageSize: PAGE, bitmapOffset: 139, pagesOffset: 2 ** 40 }
  const bytes = bytesOf(be32(1), be64(PAGE), be64(139), be64(2 ** 40))
  t.equal(bytes.length, MAPPED_HEADER_LENGTH)
  t.same(
    parsesWhenWhole(t, bytes, (some) => parsePrefix(some, 0, readMappedHeader)),
    header,
  )
  const writer = new Writer()
  writeMappedHeader(writer, header)
  t.same(writer.finish(), bytes)
  t.end()
})

t.test('the tail begins with the end of START, what is kept, and an empty END', (t) => {
  const eos = bytesOf(be64(0x10), 0x7e, be32(9))
  t.same(mappedTailStart(9, [bytesOf(1, 2), bytesOf(3)]), bytesOf(eos, [1, 2, 3], 3, be32(9), eos))
  t.end()
})

const [stopped] = mapped
if (stopped === undefined) throw new Error('no mapped-ram file')
const whole = unpack(stopped.file)
const good = open(whole, 0).layout
/** Fields of the first entry: behind 1 + 6 bytes of name and 8 of length. */
const header = (good.blocks[0]?.entryOffset ?? 0) + 15
const second = (good.blocks[1]?.entryOffset ?? 0) + 1 + 20
const last = good.blocks.at(-1)?.mapped ?? { pagesOffset: 0, bitmapOffset: 0 }

const damages: readonly { name: string; change: (bytes: Buffer) => Uint8Array | undefined; says: string }[] =
  [
    { name: 'version 2', change: (bytes) => put32(bytes, header, 2), says: 'found 2, expected 1' },
    { name: 'version 0', change: (bytes) => put32(bytes, header, 0), says: 'found 0, expected 1' },
    {
      name: 'a page size of 8192',
      change: (bytes) => put64(bytes, header + 4, 8192),
      says: 'page size of RAM block "pc.ram": found 8192, expected 4096',
    },
    {
      name: 'a page size of 0',
      change: (bytes) => put64(bytes, header + 4, 0),
      says: 'found 0, expected 4096',
    },
    {
      name: 'a bitmap past the end',
      change: (bytes) => put64(bytes, header + 12, bytes.length - 511),
      says: 'bitmap of RAM block "pc.ram": found 512 bytes at offset',
    },
    {
      name: 'a bitmap in front of the stream',
      change: (bytes) => put64(bytes, header + 12, 0),
      says: 'offset 0, expected at least',
    },
    {
      name: 'a bitmap in the pages of another block',
      change: (bytes) => put64(bytes, header + 12, last.pagesOffset + 8),
      says: 'the end of pages of RAM block "/rom@etc/acpi/rsdp"',
    },
    {
      name: 'a bitmap in the device states',
      change: (bytes) => put64(bytes, header + 12, bytes.length - 600),
      says: 'the end of the device states',
    },
    {
      name: 'a bitmap over another',
      change: (bytes) => put64(bytes, header + 12, last.bitmapOffset),
      says: 'the end of bitmap of RAM block "pc.ram"',
    },
    {
      name: 'pages that are not aligned',
      change: (bytes) => put64(bytes, header + 20, PAGES_ALIGNMENT + 512),
      says: 'pages offset of RAM block "pc.ram": found 1049088, expected a multiple of 4096',
    },
    {
      name: 'pages past the end',
      change: (bytes) => put64(bytes, header + 20, 2 ** 40),
      says: 'pages of RAM block "pc.ram"',
    },
    {
      name: 'an offset of 2^63',
      change: (bytes) => put64(bytes, header + 20, 2n ** 63n),
      says: 'less than 2\\^53',
    },
    {
      name: 'the length of another block',
      change: (bytes) => put64(bytes, second, 4096),
      says: 'name of a RAM block',
    },
    {
      name: 'a block of no length',
      change: (bytes) => put64(bytes, second, 0),
      says: 'found 0, expected a multiple',
    },
    { name: 'more than the total', change: (bytes) => put64(bytes, second, 2 ** 30), says: 'at most 532480' },
    {
      name: 'a file cut in the pages',
      change: (bytes) => bytes.subarray(0, last.pagesOffset),
      says: 'the file.s end',
    },
    {
      name: 'a file cut at the tail',
      change: (bytes) => bytes.subarray(0, good.tailOffset),
      says: 'device states behind it',
    },
    { name: 'a shifted base', change: (bytes) => bytes.subarray(16), says: 'magic number' },
  ]
for (const { name, change, says } of damages) {
  t.test(`a damaged file is refused: ${name}`, (t) => {
    const bytes = Buffer.from(whole)
    const changed = change(bytes) ?? bytes
    t.throws(() => open(changed, 0), { name: 'FormatError', message: new RegExp(says) })
    t.end()
  })
}

function put32(bytes: Buffer, at: number, value: number): undefined {
  bytes.writeUInt32BE(value, at)
}

function put64(bytes: Buffer, at: number, value: number | bigint): undefined {
  bytes.writeBigUInt64BE(BigInt(value), at)
}

t.test('a file without x-ignore-shared is expected', (t) => {
  const fields: BlockFields = { pageSize: PAGE, addresses: true, mapped: true, hostPageSizes: false }
  const place = { base: 0, at: 80, fileLength: 2 ** 30 }
  t.throws(() => MappedList.begin(be64(4), fields, place), new FormatError(refusals.ignoreSharedMapped))
  t.end()
})

t.test('bitmaps are refused when all bits are clear, or of another length', (t) => {
  const bitmaps = bitmapsOf(whole, good)
  const clear = bitmaps.map(({ length }) => new Uint8Array(length))
  t.throws(() => checkBitmaps(good, clear), { message: /all bits of all RAM blocks are clear/ })
  checkBitmaps(good, [...clear.slice(0, -1), bitmaps.at(-1) ?? new Uint8Array()])
  const past = clear.map(({ length }, index) => new Uint8Array(length).fill(index === 4 ? 0xfe : 0))
  t.throws(
    () => checkBitmaps(good, past),
    { message: /never finished/ },
    'only bits past the last page are set',
  )
  t.throws(() => checkBitmaps(good, bitmaps.slice(1)), { message: /found 8 bytes, expected 512 bytes/ })
  t.throws(() => checkBitmaps(good, []), { message: /found 0 bytes, expected 512 bytes/ })
  t.end()
})

/** All that has a place: nothing may lie over another. */
function regionsOf({ base, blocks, tailOffset }: MappedLayout, fileLength: number): [number, number][] {
  return [
    [0, base],
    [base, blocks[0]?.entryOffset ?? base],
    ...blocks.flatMap(
      ({ usedLength, mapped: places, entryOffset, entryLength, bitmapLength }): [number, number][] => [
        [entryOffset, entryOffset + entryLength],
        [places.bitmapOffset, places.bitmapOffset + bitmapLength],
        [places.pagesOffset, places.pagesOffset + usedLength],
      ],
    ),
    [tailOffset, fileLength],
  ]
}

function apart(layout: MappedLayout, fileLength: number): boolean {
  const regions = regionsOf(layout, fileLength).filter(([from, to]) => to > from)
  return regions.every(([from, to], index) =>
    regions.every(([otherFrom, otherTo], other) => other === index || otherTo <= from || otherFrom >= to),
  )
}

t.test('whatever is damaged, a file that passes has nothing over something else, or it is refused', (t) => {
  const ends = good.blocks.map(({ entryOffset, entryLength }) => [entryOffset, entryLength] as const)
  const property = fc.property(fc.nat(ends.length), fc.infiniteStream(fc.nat()), (which, numbers) => {
    const random = (below: number) => (numbers.next().value ?? 0) % below
    const [at, length] = ends[which] ?? [0, 96]
    const saved = Buffer.from(whole.subarray(at, at + length))
    mutate(whole.subarray(at, at + length), length - 8, random)
    try {
      const found = readMappedFile(readAtOf(whole), whole.length, 0)
      return found === undefined || apart(found.layout, whole.length)
    } catch (error) {
      return error instanceof FormatError
    } finally {
      whole.set(saved, at)
    }
  })
  holds(t, property, 3000)
  t.end()
})

t.test('a cut anywhere is refused or asks for more', (t) => {
  const near = [
    0,
    8,
    ...good.blocks.flatMap((block) => [block.entryOffset, block.mapped.pagesOffset]),
    good.tailOffset,
  ]
  const cuts = fc.oneof(
    fc.nat(good.tailOffset),
    fc
      .constantFrom(...near)
      .chain((at) => fc.integer({ min: Math.max(0, at - 50), max: Math.min(good.tailOffset, at + 50) })),
  )
  const parse = (bytes: Uint8Array) => {
    const found = readMappedFile(readAtOf(bytes), bytes.length, 0)
    return found && { value: found, length: 0 }
  }
  const property = fc.property(cuts, (cut) => outcome(parse, whole.subarray(0, cut)) !== 'value')
  holds(t, property, 2000)
  t.end()
})

t.test('any plan is read back as it was made, aligned and with nothing over something else', (t) => {
  const block = fc.record({
    name: fc.string({ minLength: 1, maxLength: 60, unit: 'grapheme-ascii' }),
    usedLength: fc
      .oneof(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 1, max: 2 ** 32 }))
      .map((n) => n * PAGE),
  })
  const blocks = fc.uniqueArray(block, { minLength: 1, maxLength: 20, selector: ({ name }) => name })
  const configuration: Configuration = {
    machine: 'pc',
    pageBits: undefined,
    capabilities: undefined,
    uuid: undefined,
  }
  const property = fc.property(blocks, fc.nat(2 ** 22), fc.nat(100), (list, base, ramId) => {
    const source = { configuration, ramId, blocks: list }
    const layout = planMappedRam(source, base)
    const pieces = mappedPieces(source, layout)
    const readAt = (offset: number) =>
      pieces.find((piece) => piece.offset === offset)?.bytes ?? new Uint8Array()
    const whole = new Uint8Array([...readAt(base), ...readAt(layout.blocks[0]?.entryOffset ?? 0)])
    const fileLength = layout.tailOffset + 1000
    const found = readMappedFile((offset) => (offset === base ? whole : readAt(offset)), fileLength, base)
    const aligned = layout.blocks.every((one) => one.mapped.pagesOffset % PAGES_ALIGNMENT === 0)
    return JSON.stringify(found?.layout) === JSON.stringify(layout) && aligned && apart(layout, fileLength)
  })
  holds(t, property, 300)
  t.end()
})

t.test('blocks too long for a file are refused', (t) => {
  const configuration: Configuration = {
    machine: 'pc',
    pageBits: undefined,
    capabilities: undefined,
    uuid: undefined,
  }
  const blocks = [1, 2].map((n) => ({ name: `b${n}`, usedLength: 2 ** 52 }))
  t.throws(() => planMappedRam({ configuration, ramId: 1, blocks }, 0), FormatError)
  t.end()
})
