// SPDX-License-Identifier: Apache-2.0
// The scanner of page records against a plain model, with input that is cut anywhere; what it refuses; its helpers.

import t from 'tap'
import {
  crc32c,
  createPageScanner,
  pageBits,
  pageDifferences,
  pageDigests,
} from '../../native/page-scanner.js'
import type { ScanMode } from '../../native/stream-types.js'
import type { IoEngine } from '../../native/types.js'
import { difference, engineFor, KIB, MIB, pattern, random, takeSlot } from './kinds.js'
import {
  type Below,
  type BlockSpec,
  Flag,
  feed,
  Model,
  makeMemory,
  RecordReader,
  randomPage,
  randomRecords,
  record,
} from './page-streams.js'

const seed = Number(process.env.TEST_SEED ?? Math.floor(Math.random() * 2 ** 31))

function randomBlocks(below: Below): BlockSpec[] {
  const names = ['pc.ram', '/rom@etc/acpi/tables', 'x'.repeat(255), '', 'pc.rom', 'pc.ra', 'ü']
  return Array.from({ length: 1 + below(5) }, (_, index) => ({
    name: names[(index * 3 + below(2)) % names.length] ?? '',
    pages: 1 + below(40),
  })).filter(({ name }, index, all) => all.findIndex((each) => each.name === name) === index)
}

interface Case {
  readonly engine: IoEngine
  readonly slots: readonly number[]
  readonly specs: readonly BlockSpec[]
  readonly pageSize: number
  readonly mode: ScanMode
}

/** What differs between scanner and model, or undefined. */
function compare(bytes: Buffer, each: Case, cut: (left: number) => number, takes: () => boolean) {
  const { specs, pageSize, mode, engine, slots } = each
  const gathers = mode === 'gather'
  const wanted = makeMemory(specs, pageSize)
  const model = new Model(wanted, pageSize, gathers)
  new RecordReader(bytes, wanted, pageSize, model).replay()
  const found = makeMemory(specs, pageSize)
  const scanner = createPageScanner(engine, pageSize, found.blocks, mode)
  const seen = feed(bytes, { engine, scanner, memory: found, gathers, slots, size: cut, takes })
  const differs = [
    ['stops', seen.join(', '), model.seen.join(', ')],
    ['counts', JSON.stringify(scanner.counts()), JSON.stringify(model.counts)],
    ['bits', ...[found, wanted].map(({ blocks }) => blocks.map(({ bitmap }) => bitmap.join()).join(' '))],
    [
      'digests',
      ...[found, wanted].map(({ blocks }) => blocks.map(({ digests }) => digests.join()).join(' ')),
    ],
    ['problem', `${scanner.problem() !== ''}`, `${model.seen.at(-1) === 'bad'}`],
    // What was gathered before something bad is not taken.
    [
      'image',
      ...[found, wanted].map(({ image }) =>
        model.seen.at(-1) === 'bad' ? '' : Buffer.from(image).toString('base64'),
      ),
    ],
  ].find(([, one, other]) => one !== other)
  return differs && `${differs[0]}: ${differs[1]?.slice(0, 500)} instead of ${differs[2]?.slice(0, 500)}`
}

t.test('random streams leave what the model leaves, however they are cut', async (t) => {
  t.comment(`TEST_SEED=${seed}`)
  const engine = engineFor(t, { aio: 'threads', slotSize: 64 * KIB })
  const slots = engine.takeSlots(4)
  const below = random(seed)
  for (let round = 0; round < 300; round++) {
    const specs = randomBlocks(below)
    const pageSize = [1024, 4096, 4096, 16_384, 65_536][below(5)] ?? 4096
    const mode = below(3) === 0 ? 'check' : 'gather'
    const bytes = randomRecords(below, specs, pageSize)
    const most = [10, 300, 5000, 64 * KIB][below(4)] ?? 1
    const often = below(3) === 0
    const problem = compare(
      bytes,
      { engine, slots, specs, pageSize, mode },
      () => 1 + below(most),
      () => often && below(20) === 0,
    )
    if (problem !== undefined) throw new Error(`round ${round}: ${problem}`)
  }
  t.pass()
})

t.test('a stream may be cut between any two bytes', async (t) => {
  const engine = engineFor(t, { aio: 'threads', slotSize: 64 * KIB })
  const slots = engine.takeSlots(4)
  const specs = [
    { name: 'pc.ram', pages: 20 },
    { name: 'pc.rom', pages: 3 },
  ]
  const page = pattern(1024)
  const bytes = Buffer.concat([
    record(0, Flag.page, 'pc.ram', page),
    record(1024, Flag.page | Flag.continues, page),
    record(4096, Flag.zero | Flag.continues, Buffer.of(0)),
    record(0, Flag.zero, 'pc.rom', Buffer.of(0)),
    record(1024, Flag.xbzrle | Flag.continues, Buffer.of(1, 0, 4, 9, 9, 9, 9)),
    record(0, Flag.xbzrle, 'pc.ram', Buffer.of(1, 0, 0)),
    record(2048, Flag.page | Flag.continues, new Uint8Array(1024)),
    record(0, Flag.flush),
    record(0, Flag.page | Flag.continues, page),
    record(0, Flag.eos),
  ])
  for (const mode of ['gather', 'check'] as const) {
    const each: Case = { engine, slots, specs, pageSize: 1024, mode }
    for (let size = 1; size < 70; size++) {
      for (const takes of [false, true]) {
        const problem = compare(
          bytes,
          each,
          () => size,
          () => takes,
        )
        if (problem !== undefined) throw new Error(`${mode}, ${size} bytes each: ${problem}`)
      }
    }
    for (let first = 1; first < bytes.length; first++) {
      const sizes = [first, bytes.length]
      const problem = compare(
        bytes,
        each,
        () => sizes.shift() ?? 1,
        () => true,
      )
      if (problem !== undefined) throw new Error(`${mode}, cut at ${first}: ${problem}`)
    }
  }
  t.pass()
})

t.test('whatever was changed in a stream, the result is right or the stream is refused', async (t) => {
  t.comment(`TEST_SEED=${seed}`)
  const engine = engineFor(t, { aio: 'threads', slotSize: 64 * KIB })
  const slots = engine.takeSlots(4)
  const below = random(seed + 1)
  let refused = 0
  for (let round = 0; round < 1500; round++) {
    const specs = randomBlocks(below)
    const mode = below(3) === 0 ? 'check' : 'gather'
    let bytes = randomRecords(below, specs, 1024)
    for (let change = below(4); change >= 0; change--) {
      const at = below(bytes.length)
      const kind = below(4)
      if (kind < 2) bytes[at] = below(256)
      else if (kind === 2) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + below(9))])
      else
        bytes = Buffer.concat([
          bytes.subarray(0, at),
          Buffer.alloc(1 + below(9), below(256)),
          bytes.subarray(at),
        ])
      if (bytes.length === 0) bytes = Buffer.alloc(1)
    }
    const each: Case = { engine, slots, specs, pageSize: 1024, mode }
    const problem = compare(
      bytes,
      each,
      () => 1 + below(3000),
      () => below(50) === 0,
    )
    if (problem !== undefined) throw new Error(`round ${round}: ${problem}`)
    const memory = makeMemory(specs, 1024)
    const model = new Model(memory, 1024, true)
    new RecordReader(bytes, memory, 1024, model).replay()
    if (model.seen.at(-1) === 'bad') refused++
  }
  t.ok(refused > 300 && refused < 1500, `${refused} are refused`)
})

t.test('what is refused is named', async (t) => {
  const engine = engineFor(t, { aio: 'threads' })
  const input = takeSlot(engine)
  const specs = [
    { name: 'pc.ram', pages: 2 },
    { name: 'pc.rom', pages: 1 },
  ]
  const zero = Buffer.of(0)
  const start = record(0, Flag.zero, 'pc.ram', zero)
  for (const [bytes, text] of [
    [
      record(0, Flag.zero | Flag.continues, zero),
      'a page at offset 0 continues a block, and none was named before',
    ],
    [record(4096, Flag.page, 'pc.ra'), "a page of an unknown block 'pc.ra' at offset 4096"],
    [record(0, Flag.page, 'a\x01\xff'), "a page of an unknown block 'a\\x01\\xc3\\xbf' at offset 0"],
    [record(0, Flag.page, ''), "a page of an unknown block '' at offset 0"],
    [record(8192, Flag.page, 'pc.ram'), "a page of block 'pc.ram' at offset 8192: beyond its length of 8192"],
    [
      record(4096, Flag.zero, 'pc.rom', zero),
      "a page of block 'pc.rom' at offset 4096: beyond its length of 4096",
    ],
    [
      record(2 ** 63, Flag.zero, 'pc.rom', zero),
      "a page of block 'pc.rom' at offset 9223372036854775808: beyond its length of 4096",
    ],
    [
      record(1024, Flag.page, 'pc.ram'),
      "a page of block 'pc.ram' at offset 1024: not a multiple of the page size",
    ],
    [
      record(4096, Flag.zero, 'pc.ram', Buffer.of(7)),
      "a zero page of block 'pc.ram' at offset 4096: filled with 7",
    ],
    [
      record(4096, Flag.compressed, 'pc.ram'),
      "a compressed page (flag 0x100) of block 'pc.ram' at offset 4096: not supported",
    ],
    [
      record(0, Flag.xbzrle, 'pc.ram', Buffer.of(2, 0, 1)),
      "a delta of block 'pc.ram' at offset 0: unknown encoding 2",
    ],
    [
      record(0, Flag.xbzrle, 'pc.ram', Buffer.of(1, 16, 1)),
      "a delta of block 'pc.ram' at offset 0: its 4097 bytes are more than a page",
    ],
    [record(0, Flag.hook), 'a record of RDMA (flag 0x80) at offset 0: not supported'],
    [
      Buffer.concat([start, record(4096, Flag.hook)]),
      "a record of RDMA (flag 0x80) behind one of block 'pc.ram' at offset 4096: not supported",
    ],
    [record(8192, Flag.memSize), 'a list of blocks (flag 0x4) among pages'],
    [record(0, 0), 'a record with flags 0x0 at offset 0: unknown'],
    [record(0, 1), 'a record with flags 0x1 at offset 0: unknown'],
    [record(4096, Flag.eos), 'a record with flags 0x10 at offset 4096: unknown'],
    [record(0, Flag.eos | Flag.continues), 'a record with flags 0x30 at offset 0: unknown'],
    [record(1024, Flag.flush), 'a record with flags 0x200 at offset 1024: unknown'],
    [record(0, Flag.page | Flag.zero), 'a record with flags 0xa at offset 0: unknown'],
    [
      Buffer.concat([start, record(0, Flag.continues)]),
      "a record with flags 0x20 behind one of block 'pc.ram' at offset 0: unknown",
    ],
  ] as const) {
    const memory = makeMemory(specs, 4096)
    const scanner = createPageScanner(engine, 4096, memory.blocks, 'gather')
    engine.slotBytes(input).set(bytes)
    t.equal(scanner.scan(input, 0, bytes.length).stop, 'bad', text)
    t.equal(scanner.problem(), text)
    t.same(scanner.scan(input, 0, 8), { taken: 0, stop: 'bad' }, 'for ever')
    t.same(scanner.take(), { pieces: [], length: 0 })
    t.ok(memory.blocks.every(({ bitmap }) => bitmap.every((byte) => byte === 0)))
  }
})

t.test('a page out of order is not touched before the caller says so', async (t) => {
  const engine = engineFor(t, { aio: 'threads' })
  const [input = 0, one = 0, other = 0] = engine.takeSlots(3)
  const memory = makeMemory([{ name: 'ram', pages: 8 }], 4096)
  const scanner = createPageScanner(engine, 4096, memory.blocks, 'gather')
  const bytes = Buffer.concat([
    record(4096, Flag.page, 'ram', pattern(4096, 1)),
    record(0, Flag.zero | Flag.continues, Buffer.of(0)),
    record(4096, Flag.page | Flag.continues, pattern(4096, 2)),
    record(8192, Flag.page | Flag.continues, pattern(4096, 3)),
  ])
  engine.slotBytes(input).set(bytes)
  scanner.gatherInto(one)
  const first = scanner.scan(input, 0, bytes.length)
  t.equal(first.stop, 'order')
  t.equal(memory.blocks[0]?.digests[1], crc32c(pattern(4096, 1)))
  t.equal(scanner.counts().walks, 0)
  const place = memory.blocks[0]?.place ?? 0
  t.same(scanner.take(), { pieces: [{ offset: place + 4096, length: 4096 }], length: 4096 })
  t.same(scanner.scan(input, first.taken, bytes.length - first.taken), { taken: 0, stop: 'full' }, 'no slot')
  t.throws(() => scanner.gatherInto(99), RangeError)
  scanner.gatherInto(other)
  t.throws(() => scanner.gatherInto(one), RangeError, 'a slot for a slot')
  t.equal(scanner.scan(input, first.taken, bytes.length - first.taken).stop, 'input')
  t.same(scanner.take(), { pieces: [{ offset: place + 4096, length: 8192 }], length: 8192 })
  t.equal(memory.blocks[0]?.digests[1], crc32c(pattern(4096, 2)))
  t.match(scanner.counts(), { walks: 1, normal: 3, zero: 1 })
})

t.test('a page of which a part has come waits for another slot', async (t) => {
  const engine = engineFor(t, { aio: 'threads' })
  const [input = 0, one = 0, other = 0] = engine.takeSlots(3)
  const memory = makeMemory([{ name: 'ram', pages: 8 }], 4096)
  const scanner = createPageScanner(engine, 4096, memory.blocks, 'gather')
  const bytes = Buffer.concat([
    record(0, Flag.page, 'ram', pattern(4096, 1)),
    record(4096, Flag.page | Flag.continues, pattern(4096, 2)),
  ])
  engine.slotBytes(input).set(bytes)
  scanner.gatherInto(one)
  const first = bytes.length - 1000
  t.same(scanner.scan(input, 0, first), { taken: first, stop: 'input' })
  t.equal(scanner.take().length, 4096)
  t.same(scanner.scan(input, first, 1000), { taken: 0, stop: 'full' })
  t.same(scanner.take(), { pieces: [], length: 0 })
  engine.slotBytes(one).fill(0)
  scanner.gatherInto(other)
  t.equal(memory.blocks[0]?.bitmap[0], 1, 'it is not there yet')
  t.same(scanner.scan(input, first, 1000), { taken: 1000, stop: 'input' })
  t.equal(memory.blocks[0]?.bitmap[0], 3)
  t.equal(scanner.take().length, 4096)
  t.equal(difference(engine.slotBytes(other).subarray(0, 4096), pattern(4096, 2)), undefined)
})

t.test('pieces are as long as pages follow each other in the file', async (t) => {
  const engine = engineFor(t, { aio: 'threads' })
  const [input = 0, slot = 0] = engine.takeSlots(2)
  const bitmap = () => new Uint8Array(1)
  const blocks = [
    { name: 'a', length: 8192, place: 1 * MIB, bitmap: bitmap() },
    { name: 'b', length: 8192, place: 1 * MIB + 8192, bitmap: bitmap() },
    { name: 'c', length: 16_384, place: 2 ** 52, bitmap: bitmap() },
  ]
  const scanner = createPageScanner(engine, 4096, blocks, 'gather')
  scanner.gatherInto(slot)
  const page = pattern(4096)
  const bytes = Buffer.concat([
    record(0, Flag.page, 'a', page),
    record(4096, Flag.page, 'a', page),
    record(0, Flag.page, 'b', page),
    record(0, Flag.page, 'c', page),
    record(8192, Flag.page, 'c', page),
    record(12_288, Flag.page, 'c', page),
  ])
  engine.slotBytes(input).set(bytes)
  t.same(scanner.scan(input, 0, bytes.length), { taken: bytes.length, stop: 'input' })
  t.same(scanner.take(), {
    pieces: [
      { offset: MIB, length: 12_288 },
      { offset: 2 ** 52, length: 4096 },
      { offset: 2 ** 52 + 8192, length: 8192 },
    ],
    length: 24_576,
  })
  t.same(
    blocks.map(({ bitmap }) => bitmap[0]),
    [3, 1, 13],
  )
  t.notOk(scanner.within())
  scanner.scan(input, 0, 3)
  t.ok(scanner.within())
})

t.test('what a scanner cannot be made for is refused', async (t) => {
  const engine = engineFor(t, { aio: 'threads', slotSize: 64 * KIB })
  const block = { name: 'ram', length: 8192, place: 0, bitmap: new Uint8Array(1) }
  const make = (pageSize: number, change: object, mode: ScanMode = 'gather') =>
    t.throws(() => createPageScanner(engine, pageSize, [{ ...block, ...change }], mode), RangeError)
  make(4097, {})
  make(512, {})
  make(128 * KIB, {})
  make(Number.NaN, {})
  make(4096, { length: 5000 })
  make(4096, { length: -4096 })
  make(4096, { length: 9 * 4096 })
  make(4096, { place: -1 })
  make(4096, { place: Number.MAX_SAFE_INTEGER })
  make(4096, { digests: new Uint32Array(1) })
  make(4096, { name: 'x'.repeat(256) })
  make(128 * KIB, {}, 'check')
  t.throws(() => createPageScanner({ ...engine }, 4096, [block], 'check'), TypeError)
  const scanner = createPageScanner(engine, 4096, [block], 'check')
  const slot = takeSlot(engine)
  t.throws(() => scanner.gatherInto(slot), RangeError)
  t.throws(() => scanner.scan(slot + 1, 0, 1), RangeError)
  t.throws(() => scanner.scan(slot, 64 * KIB, 1), RangeError)
  t.same(scanner.scan(slot, 64 * KIB, 0), { taken: 0, stop: 'input' })
  t.same(scanner.delta(), { block: 0, offset: 0, bytes: new Uint8Array(0) })
})

t.test('pageBits tells the pages that hold anything', async (t) => {
  const engine = engineFor(t, { aio: 'threads' })
  const slot = takeSlot(engine)
  const below = random(seed + 2)
  for (let round = 0; round < 20; round++) {
    const pages = 1 + below(100)
    const offset = below(3) * 4096
    const wanted = new Uint8Array(Math.ceil(pages / 8))
    for (let page = 0; page < pages; page++) {
      const data = randomPage(below, 4096)
      engine.slotBytes(slot).set(data, offset + page * 4096)
      if (data.some((byte) => byte !== 0)) wanted[page >> 3] = (wanted[page >> 3] ?? 0) | (1 << (page & 7))
    }
    t.same(pageBits(engine, slot, offset, pages * 4096, 4096), wanted)
  }
  t.throws(() => pageBits(engine, slot, 0, 4097, 4096), RangeError)
  t.throws(() => pageBits(engine, slot, 0, 2 * MIB, 4096), RangeError)
  t.throws(() => pageBits(engine, slot, 0, 4096, 1000), RangeError)
  t.throws(() => pageBits(engine, slot + 1, 0, 4096, 4096), RangeError)
})

t.test('pages of slots have the digests of their bytes, and differ where one byte does', async (t) => {
  const engine = engineFor(t, { aio: 'threads' })
  const [slot, other] = [takeSlot(engine), takeSlot(engine)]
  const bytes = pattern(64 * KIB, 5)
  for (const one of [slot, other]) engine.slotBytes(one).set(bytes)
  const digests = new Uint32Array(20)
  pageDigests(engine, { slot, offset: 4096, length: 8192 }, 4096, digests, 18)
  t.same(
    [...digests.subarray(17)],
    [0, ...[1, 2].map((page) => crc32c(bytes.subarray(page * 4096, (page + 1) * 4096)))],
  )
  t.same(pageDifferences(engine, slot, other, 64 * KIB, 4096), new Uint8Array(2))
  for (const at of [0, 9 * 4096 - 1, 15 * 4096]) engine.slotBytes(other)[at] = (bytes[at] ?? 0) ^ 1
  t.same(pageDifferences(engine, slot, other, 64 * KIB, 4096), Uint8Array.of(0x01, 0x81))
  t.throws(() => pageDigests(engine, { slot, offset: 0, length: 8192 }, 4096, digests, 19), RangeError)
  t.throws(() => pageDigests(engine, { slot, offset: 0, length: 4097 }, 4096, digests, 0), RangeError)
  t.throws(() => pageDigests(engine, { slot, offset: 0, length: 4096 }, 4096, digests, -1), RangeError)
  t.throws(() => pageDifferences(engine, slot, other + 1, 4096, 4096), RangeError)
  t.throws(() => pageDifferences(engine, slot, other, 4095, 4096), RangeError)
})

t.test('CRC-32C by the instruction and by the table is what RFC 3720 says', async (t) => {
  const ascending = Uint8Array.from({ length: 32 }, (_, index) => index)
  for (const [bytes, crc] of [
    [new Uint8Array(32), 0x8a9136aa],
    [new Uint8Array(32).fill(0xff), 0x62a8ab43],
    [ascending, 0x46dd794e],
    [ascending.slice().reverse(), 0x113fdb5c],
    [Buffer.from('123456789'), 0xe3069283],
    [new Uint8Array(0), 0],
  ] as const) {
    t.equal(crc32c(bytes), crc)
    t.equal(crc32c(bytes, true), crc)
  }
  const below = random(seed + 3)
  for (let round = 0; round < 200; round++) {
    const bytes = pattern(below(5000), round).subarray(below(9))
    t.equal(crc32c(bytes), crc32c(bytes, true))
    const cut = below(bytes.length + 1)
    t.equal(crc32c(bytes.subarray(cut), false, crc32c(bytes.subarray(0, cut))), crc32c(bytes), 'in two parts')
  }
})
