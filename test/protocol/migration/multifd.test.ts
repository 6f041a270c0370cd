// SPDX-License-Identifier: Apache-2.0
// Channels of multifd: the recorded ones, and packets that contradict themselves.

import fc from 'fast-check'
import t from 'tap'
import { formatHello, HELLO_LENGTH, parseHello } from '../../../protocol/migration/multifd-hello.js'
import {
  checkPacket,
  formatPacket,
  isSyncPoint,
  type Packet,
  packetHeadLength,
  parsePacket,
} from '../../../protocol/migration/multifd-packet.js'
import { refusals } from '../../../protocol/migration/refusals.js'
import { channelsOf, streams, unpack } from '../../helpers/migration/fixtures.js'
import { be32, be64, bytesOf, outcome, parsesWhenWhole } from '../../helpers/migration/prefix.js'
import { mutate } from '../../helpers/mutate.js'
import { holds } from '../../helpers/property.js'

const PAGE = 4096
const HEAD = 1344
const sets = streams.filter(({ kind }) => kind === 'multifd-main')
const channels = sets.flatMap((main) => channelsOf(main).map((file, channel) => ({ file, channel })))

/** All packets of a channel's file, with where their heads begin. */
function packetsOf(bytes: Uint8Array): { at: number; packet: Packet }[] {
  const packets: { at: number; packet: Packet }[] = []
  for (let at = HELLO_LENGTH; at < bytes.length; ) {
    const parsed = parsePacket(bytes.subarray(at), PAGE, at)
    if (parsed === undefined) throw new Error(`the file ends in a packet at ${at}`)
    packets.push({ at, packet: parsed.value })
    at += parsed.length + parsed.value.dataLength
    if (at > bytes.length) throw new Error('the file ends in the data of a packet')
  }
  return packets
}

for (const { file, channel } of channels) {
  t.test(`${file}: the hello is read from any prefix and written as it was`, (t) => {
    const bytes = unpack(file).subarray(0, HELLO_LENGTH)
    const hello = parsesWhenWhole(t, bytes, parseHello)
    t.same(hello, { uuid: new Uint8Array(16), channel })
    t.ok(bytes.equals(formatHello(hello)))
    t.end()
  })

  t.test(`${file}: every packet comes back from what is written of it`, (t) => {
    for (const { packet } of packetsOf(unpack(file)))
      t.same(parsePacket(formatPacket(packet, PAGE), PAGE), { value: packet, length: HEAD })
    t.end()
  })
}

for (const main of sets) {
  t.test(`${main.file}: counts of packets and pages are what the manifest says`, (t) => {
    const packets = channelsOf(main).flatMap((file) => packetsOf(unpack(file)).map(({ packet }) => packet))
    const expected = main.after_replay_of_all_files
    const used = new Map(expected?.blocks.map(({ name, used_length }) => [name, used_length]))
    for (const packet of packets) checkPacket(packet, used)
    const sum = (count: (packet: Packet) => number) => packets.reduce((all, packet) => all + count(packet), 0)
    t.match(expected?.totals, {
      normal: sum(({ normal }) => normal.length),
      zero: sum(({ zero }) => zero.length),
      packets: packets.length,
      sync_packets: sum(({ sync }) => (sync ? 1 : 0)),
    })
    t.ok(packets.every(({ method }) => method === 'none'))
    t.end()
  })
}

t.test('the size that QEMU 7.2 leaves in packets without pages is not believed', (t) => {
  const file = 'q72-pc-i440fx-7.2-live-multifd2.channel0'
  const bytes = unpack(file)
  const stale = packetsOf(bytes).filter(({ at, packet }) => packet.dataLength !== bytes.readUInt32BE(at + 20))
  t.ok(stale.length > 0)
  for (const { packet } of stale) t.match(packet, { normal: [], zero: [], block: '', dataLength: 0 })
  t.end()
})

const offsets = fc
  .uniqueArray(fc.nat(2 ** 20), { maxLength: 64 })
  .map((list) => list.map((page) => page * PAGE))
const anyPacket: fc.Arbitrary<Packet> = fc
  .record({
    sync: fc.boolean(),
    method: fc.constantFrom('none', 'zlib', 'zstd', 'qpl', 'uadk', 'qatzip'),
    number: fc.maxSafeNat(),
    block: fc.string({ minLength: 1, maxLength: 60, unit: 'grapheme-ascii' }),
    normal: offsets,
    zero: offsets,
    packed: fc.integer({ min: 1, max: 2 ** 20 }),
  })
  .map(({ packed, block, ...rest }) => {
    const pages = rest.normal.length
    const length = pages === 0 ? 0 : rest.method === 'none' ? pages * PAGE : packed
    return { ...rest, block: pages + rest.zero.length > 0 ? block : '', dataLength: length }
  })

t.test('any packet comes back from its bytes, and every cut asks for more', (t) => {
  const property = fc.property(anyPacket, fc.nat(HEAD - 1), (packet, cut) => {
    const bytes = formatPacket(packet, PAGE)
    const found = parsePacket(bytesOf(bytes, 1), PAGE)
    const same = JSON.stringify(sorted(found?.value)) === JSON.stringify(sorted(packet))
    return same && found?.length === HEAD && parsePacket(bytes.subarray(0, cut), PAGE) === undefined
  })
  holds(t, property, 500)
  t.end()
})

function sorted(packet: Packet | undefined): unknown {
  return packet && Object.entries(packet).sort(([one], [other]) => (one < other ? -1 : 1))
}

t.test('damaged packets are refused or packets within their bounds, nothing else', (t) => {
  const heads = channels.flatMap(({ file }) => {
    const bytes = unpack(file)
    return packetsOf(bytes).map(({ at }) => bytes.subarray(at, at + HEAD))
  })
  const property = fc.property(fc.nat(heads.length - 1), fc.infiniteStream(fc.nat()), (which, numbers) => {
    const bytes = Buffer.from(heads[which] ?? [])
    mutate(bytes, 400, (below) => (numbers.next().value ?? 0) % below)
    if (outcome((some) => parsePacket(some, PAGE), bytes) === 'refused') return true
    const packet = parsePacket(bytes, PAGE)?.value
    return (
      packet !== undefined && packet.normal.length + packet.zero.length <= 128 && packet.dataLength <= 2 ** 20
    )
  })
  holds(t, property, 3000)
  t.end()
})

/** A head with its fields in order, and its offsets. */
function head({
  flags = 0,
  allocated = 128,
  normal = 0,
  size = 0,
  zero = 0,
  block = 'pc.ram',
  pages = [0],
}): Uint8Array {
  const bytes = Buffer.alloc(HEAD)
  bytes.set(
    bytesOf(
      be32(0x1122_3344),
      be32(1),
      be32(flags),
      be32(allocated),
      be32(normal),
      be32(size),
      be64(7),
      be32(zero),
    ),
  )
  bytes.write(block, 64)
  for (const [index, page] of pages.entries()) bytes.writeBigUInt64BE(BigInt(page), 320 + 8 * index)
  return bytes
}

const wrong = [
  { name: 'another magic number', bytes: be32(0x5145_564d), says: 'packet at offset 0: found 0x5145564d' },
  { name: 'another version', bytes: bytesOf(be32(0x1122_3344), be32(2)), says: 'found 2, expected 1' },
  { name: 'states of devices', bytes: head({ flags: 0x40 }), says: refusals.deviceChannels },
  { name: 'an unknown flag', bytes: head({ flags: 0x80 }), says: 'found 0x80, expected SYNC' },
  { name: 'the highest flag', bytes: head({ flags: 0x8000_0000 }), says: 'found 0x80000000' },
  {
    name: 'two methods',
    bytes: head({ flags: 0x06 }),
    says: 'found 0x6, expected SYNC and one of none, zlib',
  },
  {
    name: 'more pages than there is room for',
    bytes: head({ allocated: 129 }),
    says: 'found 129, expected at most 128',
  },
  {
    name: 'more normal pages than allocated',
    bytes: head({ allocated: 1, normal: 2 }),
    says: 'found 2, expected at most 1',
  },
  {
    name: 'more pages of both kinds',
    bytes: head({ normal: 100, size: 409600, zero: 29 }),
    says: 'found 29, expected at most 28',
  },
  {
    name: 'another size than that of its pages',
    bytes: head({ normal: 1, size: 4095 }),
    says: 'found 4095, expected 4096',
  },
  {
    name: 'packed pages without data',
    bytes: head({ flags: 2, normal: 1 }),
    says: 'found 0, expected 1 to 1048576',
  },
  {
    name: 'packed pages of 4 GiB',
    bytes: head({ flags: 2, normal: 1, size: 0xffff_ffff }),
    says: 'found 4294967295',
  },
  { name: 'no block', bytes: head({ zero: 1, block: '' }), says: 'RAM block of a packet' },
  {
    name: 'a block without end',
    bytes: head({ zero: 1, block: 'x'.repeat(256) }),
    says: 'RAM block of a packet',
  },
  {
    name: 'a page that is not aligned',
    bytes: head({ zero: 1, pages: [512] }),
    says: 'found 512, expected a multiple',
  },
]
for (const { name, bytes, says } of wrong) {
  t.test(`a packet is refused: ${name}`, (t) => {
    t.throws(() => parsePacket(bytes, PAGE), { name: 'FormatError', message: new RegExp(says) })
    t.end()
  })
}

t.test('a packet is refused for pages that its block does not have', (t) => {
  const packet = (bytes: Uint8Array) => {
    const parsed = parsePacket(bytes, PAGE)
    if (parsed === undefined) throw new Error('no packet')
    return parsed.value
  }
  const used = new Map([['pc.ram', 2 * PAGE]])
  checkPacket(packet(head({ zero: 2, pages: [0, PAGE] })), used)
  checkPacket(packet(head({ block: 'none' })), used)
  t.throws(() => checkPacket(packet(head({ zero: 2, pages: [0, 2 * PAGE] })), used), {
    message: /found 8192/,
  })
  t.throws(() => checkPacket(packet(head({ zero: 1, block: 'x' })), used), { message: /found "x"/ })
  t.end()
})

t.test('a hello is refused for another magic number or version', (t) => {
  t.throws(() => parseHello(bytesOf(be32(1))), { message: /magic number of a multifd channel/ })
  t.throws(() => parseHello(bytesOf(be32(0x1122_3344), be32(2))), {
    message: /version .* found 2, expected 1/,
  })
  t.end()
})

t.test('sync points are the marked records, or without those every end of a body', (t) => {
  t.equal(isSyncPoint({ kind: 'sync' }, true), true)
  t.equal(isSyncPoint({ kind: 'eos' }, true), false)
  t.equal(isSyncPoint({ kind: 'eos' }, false), true)
  t.equal(isSyncPoint({ kind: 'zero', block: 'pc.ram', offset: 0 }, false), false)
  t.end()
})

t.test('heads have room for 512 KiB of pages', (t) => {
  t.equal(packetHeadLength(4096), 1344)
  t.equal(packetHeadLength(65536), 384)
  t.end()
})
