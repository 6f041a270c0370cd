// SPDX-License-Identifier: Apache-2.0
// The scanner of multifd packets against a plain model, plain and compressed; what it refuses.

import t from 'tap'
import { createChannelScanner } from '../../native/page-scanner.js'
import type { ScanMode } from '../../native/stream-types.js'
import {
  deflated,
  HEAD_BYTES,
  type Packet,
  PacketFlag,
  packetBytes,
  randomPackets,
  replayPackets,
  zstandard,
} from './channel-packets.js'
import { engineFor, KIB, pattern, random, takeSlot } from './kinds.js'
import { type BlockSpec, feed, type Memory, Model, makeMemory } from './page-streams.js'

const seed = Number(process.env.TEST_SEED ?? Math.floor(Math.random() * 2 ** 31))
const specs: readonly BlockSpec[] = [
  { name: 'pc.ram', pages: 300 },
  { name: 'x'.repeat(255), pages: 3 },
  { name: 'pc.rom', pages: 40 },
]

type Method = 'none' | 'zlib' | 'zstd'

const methods: readonly { readonly name: Method; readonly bits: number }[] = [
  { name: 'none', bits: 0 },
  { name: 'zlib', bits: PacketFlag.zlib },
  { name: 'zstd', bits: PacketFlag.zstd },
]

async function dataOf(packets: readonly Packet[], method: Method): Promise<Uint8Array[] | undefined> {
  if (method === 'zlib') return deflated(packets)
  return method === 'zstd' ? zstandard(packets) : packets.map(({ pages }) => Buffer.concat(pages))
}

function differ(found: Memory, wanted: Memory): string | undefined {
  for (const [index, block] of found.blocks.entries()) {
    const other = wanted.blocks[index]
    if (block.bitmap.join() !== other?.bitmap.join()) return `bits of ${block.name}`
    if (block.digests.join() !== other.digests.join()) return `digests of ${block.name}`
  }
  return Buffer.compare(found.image, wanted.image) === 0 ? undefined : 'image'
}

for (const { name, bits } of methods) {
  t.test(`${name}: random packets leave what the model leaves, however they are cut`, async (t) => {
    t.comment(`TEST_SEED=${seed}`)
    const engine = engineFor(t, { aio: 'threads', slotSize: 64 * KIB })
    const slots = engine.takeSlots(4)
    const below = random(seed)
    for (let round = 0; round < (name === 'zstd' ? 8 : 25); round++) {
      const pageSize = below(3) === 0 ? 16_384 : 4096
      const packets = randomPackets(below, specs, pageSize, bits)
      const data = await dataOf(packets, name)
      if (data === undefined) {
        t.pass('no libzstd or python3', { skip: true })
        return
      }
      const bytes = Buffer.concat(
        packets.map((packet, index) => packetBytes(packet, data[index] ?? new Uint8Array(0), pageSize)),
      )
      const mode: ScanMode = below(3) === 0 ? 'check' : 'gather'
      const gathers = mode === 'gather'
      const wanted = makeMemory(specs, pageSize)
      const model = new Model(wanted, pageSize, gathers)
      replayPackets(packets, wanted, model)
      const found = makeMemory(specs, pageSize)
      const scanner = createChannelScanner(engine, pageSize, found.blocks, mode)
      const most = [2, 1500, 64 * KIB][below(3)] ?? 1
      const seen = feed(bytes, {
        engine,
        scanner,
        memory: found,
        gathers,
        slots,
        size: (left) => (most === 2 && left > 20_000 ? 20_000 : 1 + below(most)),
        takes: () => below(10) === 0,
      })
      t.equal(scanner.problem(), '', `round ${round}`)
      t.same(seen, model.seen)
      t.equal(scanner.syncs, packets.filter(({ flags }) => (flags & PacketFlag.sync) !== 0).length)
      t.same(scanner.counts(), model.counts)
      t.equal(differ(found, wanted), undefined, `round ${round}`)
      t.notOk(scanner.within())
    }
  })
}

t.test('whatever was changed in packets, they are refused or leave a memory', async (t) => {
  t.comment(`TEST_SEED=${seed}`)
  const engine = engineFor(t, { aio: 'threads', slotSize: 64 * KIB })
  const slots = engine.takeSlots(4)
  const below = random(seed + 1)
  let refused = 0
  for (let round = 0; round < 300; round++) {
    const { name, bits } = methods[round % 2] ?? { name: 'none', bits: 0 }
    const packets = randomPackets(below, specs, 4096, bits).slice(0, 3)
    const data = (await dataOf(packets, name)) ?? []
    let bytes = Buffer.concat(
      packets.map((packet, index) => packetBytes(packet, data[index] ?? new Uint8Array(0), 4096)),
    )
    for (let change = below(4); change >= 0; change--) {
      // Mostly in the first heads, where most of it means something.
      const at = below(2) === 0 ? below(Math.min(bytes.length, HEAD_BYTES(4096))) : below(bytes.length)
      if (below(3) > 0) bytes[at] = below(256)
      else bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + below(9))])
    }
    const memory = makeMemory(specs, 4096)
    const scanner = createChannelScanner(engine, 4096, memory.blocks, 'gather')
    const seen = feed(bytes, {
      engine,
      scanner,
      memory,
      gathers: true,
      slots,
      size: () => 1 + below(30_000),
      takes: () => false,
    })
    if (seen.at(-1) === 'bad') refused++
    if (seen.at(-1) === 'bad' && scanner.problem() === '') t.fail('a problem without a text')
  }
  t.ok(refused > 50 && refused < 300, `${refused} are refused`)
})

const sound: Packet = {
  flags: 0,
  name: 'pc.rom',
  normal: [4096],
  pages: [pattern(4096)],
  zero: [],
  number: 7,
}

function change(packet: Partial<Packet>, edit: (head: Buffer) => unknown = () => undefined): Buffer {
  const whole = { ...sound, ...packet }
  const bytes = packetBytes(whole, Buffer.concat(whole.pages), 4096)
  edit(bytes)
  return bytes
}

t.test('what is refused is named', async (t) => {
  const engine = engineFor(t, { aio: 'threads' })
  const [input = 0, slot = 0] = engine.takeSlots(2)
  const page = pattern(4096)
  for (const [bytes, text] of [
    [change({}, (head) => head.writeUInt32BE(1, 0)), 'a packet with magic 0x1 instead of 0x11223344'],
    [change({}, (head) => head.writeUInt32BE(2, 4)), 'a packet of version 2'],
    [change({ flags: 0x40 }), 'a packet of device state (flag 0x40): not supported'],
    [change({ flags: 0x80 }), 'packet 7 has unknown flags 0x80'],
    [change({ flags: 0x8 }), "packet 7 is compressed with 'qpl': not supported"],
    [change({ flags: 0x6 }), 'packet 7 is compressed with 0x6: not supported'],
    [
      change({}, (head) => head.writeUInt32BE(129, 16)),
      'packet 7 has 129 pages and 0 zero pages, more than 128 in all',
    ],
    [
      change({}, (head) => head.writeUInt32BE(2 ** 32 - 1, 32)),
      'packet 7 has 1 pages and 4294967295 zero pages, more than 128 in all',
    ],
    [change({}, (head) => head.writeUInt32BE(4095, 20)), 'packet 7 has 4095 bytes for 1 pages'],
    [change({ name: 'pc.ro' }), "packet 7 is of an unknown block 'pc.ro'"],
    [change({}, (head) => head.fill(0x61, 64, 320)), `packet 7 is of an unknown block '${'a'.repeat(256)}'`],
    [
      change({ normal: [100] }),
      "packet 7 has a page of block 'pc.rom' at offset 100: not a multiple of the page size",
    ],
    [
      change({ zero: [40 * 4096] }),
      "packet 7 has a page of block 'pc.rom' at offset 163840: beyond its length of 163840",
    ],
    [
      change({ normal: [4096, 0, 4096], pages: [page, page, page] }),
      "packet 7 has a page of block 'pc.rom' at offset 4096 twice",
    ],
    [change({ flags: 0x2 }), 'packet 7 is damaged: no zlib stream'],
    [change({ flags: 0x4 }), 'packet 7 is damaged: no zstd stream'],
  ] as const) {
    const memory = makeMemory(specs, 4096)
    const scanner = createChannelScanner(engine, 4096, memory.blocks, 'gather')
    scanner.gatherInto(slot)
    engine.slotBytes(input).set(bytes)
    t.equal(scanner.scan(input, 0, bytes.length).stop, 'bad', text)
    t.equal(scanner.problem(), text)
    t.same(scanner.take(), { pieces: [], length: 0 })
    t.ok(memory.blocks.every(({ bitmap }) => bitmap.every((byte) => byte === 0)))
  }
})

t.test('a packet with less or more than its pages is refused', async (t) => {
  const engine = engineFor(t, { aio: 'threads' })
  const [input = 0, slot = 0] = engine.takeSlots(2)
  const flags = PacketFlag.zlib
  for (const [pages, text] of [
    [[pattern(4095)], 'packet 7 has too few bytes for 1 pages'],
    [[pattern(4097)], 'packet 7 has more bytes than 1 pages'],
  ] as const) {
    const [data = new Uint8Array(0)] = await deflated([{ ...sound, pages }])
    const scanner = createChannelScanner(engine, 4096, makeMemory(specs, 4096).blocks, 'gather')
    scanner.gatherInto(slot)
    const bytes = packetBytes({ ...sound, flags }, data, 4096)
    engine.slotBytes(input).set(bytes)
    t.equal(scanner.scan(input, 0, bytes.length).stop, 'bad')
    t.equal(scanner.problem(), text)
  }
})

t.test('a packet without pages has no data, whatever its size says', async (t) => {
  const engine = engineFor(t, { aio: 'threads' })
  const input = takeSlot(engine)
  const memory = makeMemory(specs, 4096)
  const scanner = createChannelScanner(engine, 4096, memory.blocks, 'gather')
  const sync = { ...sound, flags: PacketFlag.sync, name: 'no block', normal: [], pages: [], staleSize: 9999 }
  const bytes = Buffer.concat([packetBytes(sync, new Uint8Array(0), 4096), change({ zero: [0], normal: [] })])
  engine.slotBytes(input).set(bytes)
  t.same(scanner.scan(input, 0, bytes.length), { taken: 1344, stop: 'sync' })
  t.equal(scanner.syncs, 1)
  t.same(scanner.scan(input, 1344, 1343), { taken: 1343, stop: 'input' })
  t.ok(scanner.within(), 'in the middle of a packet')
  scanner.scan(input, 2687, 1)
  t.notOk(scanner.within())
  t.equal(scanner.counts().zero, 1)
})

t.test('packets are in order or not as a whole', async (t) => {
  const engine = engineFor(t, { aio: 'threads' })
  const [input = 0, slot = 0] = engine.takeSlots(2)
  const page = pattern(4096)
  const packet = (...pages: number[]) =>
    change({ normal: pages.map((each) => each * 4096), pages: pages.map(() => page) })
  for (const [first, second, stop] of [
    [[1, 3, 2], [4, 5], 'input'],
    [[1, 3, 2], [2], 'order'],
    [[3, 1], [2], 'order'],
    [[1], [5, 2, 0], 'order'],
    [[1], [3, 2], 'input'],
  ] as const) {
    const scanner = createChannelScanner(engine, 4096, makeMemory(specs, 4096).blocks, 'gather')
    scanner.gatherInto(slot)
    const bytes = Buffer.concat([packet(...first), packet(...second)])
    engine.slotBytes(input).set(bytes)
    t.equal(scanner.scan(input, 0, bytes.length).stop, stop, `${first} then ${second}`)
    t.equal(scanner.take().length / 4096, stop === 'order' ? first.length : first.length + second.length)
  }
})

t.test('a compressed packet bears it that nothing comes for long', async (t) => {
  const engine = engineFor(t, { aio: 'threads' })
  const [input = 0, slot = 0] = engine.takeSlots(2)
  const packets = [
    { ...sound, flags: PacketFlag.zstd, normal: [0, 4096], pages: [pattern(4096), pattern(4096, 9)] },
  ]
  const [data] = zstandard(packets) ?? []
  if (data === undefined) {
    t.pass('no libzstd or python3', { skip: true })
    return
  }
  const scanner = createChannelScanner(engine, 4096, makeMemory(specs, 4096).blocks, 'gather')
  scanner.gatherInto(slot)
  const bytes = packetBytes(packets[0] ?? sound, data, 4096)
  engine.slotBytes(input).set(bytes)
  for (let at = 0; at < bytes.length; at += 50) {
    const length = Math.min(50, bytes.length - at)
    t.same(scanner.scan(input, at, length), { taken: length, stop: 'input' })
    for (let again = 0; again < 40; again++) scanner.scan(input, 0, 0)
  }
  t.equal(scanner.problem(), '')
  t.equal(scanner.take().length, 8192)
})

t.test('a channel that changes its compression is refused', async (t) => {
  const engine = engineFor(t, { aio: 'threads' })
  const [input = 0, slot = 0] = engine.takeSlots(2)
  const memory = makeMemory(specs, 4096)
  const scanner = createChannelScanner(engine, 4096, memory.blocks, 'gather')
  scanner.gatherInto(slot)
  const sync = change({ flags: PacketFlag.sync | PacketFlag.zlib, normal: [], pages: [] })
  const bytes = Buffer.concat([sync, change({}), change({ flags: PacketFlag.zlib, normal: [8192] })])
  engine.slotBytes(input).set(bytes)
  t.same(
    scanner.scan(input, 0, bytes.length),
    { taken: sync.length, stop: 'sync' },
    'no data, no compression',
  )
  t.equal(scanner.scan(input, sync.length, bytes.length - sync.length).stop, 'bad')
  t.equal(scanner.problem(), "packet 7 is compressed with 'zlib' instead of 'none'")
  t.equal(scanner.take().length, 4096, 'what came before is there')
})
