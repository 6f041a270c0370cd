// SPDX-License-Identifier: Apache-2.0
// Entries of tables against the bits of the specification written out as integers of 64 bits, and against real images.

import fc from 'fast-check'
import t from 'tap'
import { FormatError } from '../../../protocol/format-error.js'
import {
  countInLine,
  formatL1Entry,
  formatL2Entry,
  type L2Entry,
  parseL1Entry,
  parseL2Entry,
  parseRefcountTableEntry,
} from '../../../protocol/qcow2/entries.js'
import { holds } from '../../helpers/property.js'
import { Image, KIB, noQemuImg, viewOf } from './images.js'

const COPIED = 1n << 63n
const COMPRESSED = 1n << 62n
const clusterBits = [9, 16, 21] as const

/** An entry of up to 16 bytes with these bits. */
function entry(value: bigint, subclusters = 0n): DataView {
  const view = new DataView(new ArrayBuffer(16))
  view.setBigUint64(0, value)
  view.setBigUint64(8, subclusters)
  return view
}

/** Host offsets that an entry can hold: whole sectors below 2^56. */
const hostOffset = fc.bigInt({ min: 0n, max: (1n << 47n) - 1n }).map((sector) => sector << 9n)

t.test('L1 entries are bits 9 to 55, and bit 63', (t) => {
  const property = fc.property(hostOffset, fc.boolean(), (offset, copied) => {
    const view = entry(offset | (copied ? COPIED : 0n))
    const found = parseL1Entry(view, 0)
    const written = entry(0n)
    formatL1Entry(written, 0, found)
    const same = BigInt(found.offset) === offset && found.copied === copied && !found.reserved
    return same && written.getBigUint64(0) === view.getBigUint64(0)
  })
  holds(t, property, 500)
  t.end()
})

t.test('every reserved bit of an L1 and of a refcount table entry is seen', (t) => {
  for (let bit = 0n; bit < 64n; bit++) {
    const view = entry(0x5_0000n | (1n << bit))
    t.equal(parseL1Entry(view, 0).reserved, bit < 9n || (bit > 55n && bit < 63n), `L1, bit ${bit}`)
    t.equal(parseRefcountTableEntry(view, 0).reserved, bit < 9n, `refcount table, bit ${bit}`)
  }
  t.end()
})

t.test('refcount table entries are bits 9 to 63', (t) => {
  t.same(parseRefcountTableEntry(entry(0n), 0), { offset: 0, reserved: false })
  t.same(parseRefcountTableEntry(entry(1n << 63n), 0), { offset: 2 ** 63, reserved: false })
  t.same(parseRefcountTableEntry(entry(0x1_2345_6000n), 0), { offset: 0x1_2345_6000, reserved: false })
  t.end()
})

for (const extended of [false, true]) {
  const kind = extended ? 'extended' : 'standard'

  t.test(`${kind} L2 entries are what the specification draws`, (t) => {
    const bits = fc.integer({ min: 0, max: 0xffff_ffff })
    const property = fc.property(
      hostOffset,
      fc.boolean(),
      fc.boolean(),
      bits,
      bits,
      (offset, copied, flag, a, b) => {
        const [allocated, zero] = [a, (b & ~a) >>> 0]
        const first = offset | (copied ? COPIED : 0n) | (flag && !extended ? 1n : 0n)
        const view = entry(first, extended ? (BigInt(zero) << 32n) | BigInt(allocated) : 0n)
        const found = parseL2Entry(view, 0, 16, extended)
        const wanted: L2Entry = {
          kind: 'standard',
          offset: Number(offset),
          copied,
          zero: flag && !extended,
          subclusters: extended ? { zero, allocated } : undefined,
        }
        const written = entry(~0n & 0xffff_ffff_ffff_ffffn, extended ? 0xffff_ffff_ffff_ffffn : 0n)
        formatL2Entry(written, 0, found, 16, extended)
        return JSON.stringify(found) === JSON.stringify(wanted) && sameBits(written, view)
      },
    )
    holds(t, property, 500)
    t.end()
  })

  t.test(`every reserved bit of a ${kind} L2 entry is refused`, (t) => {
    for (let bit = 0n; bit < 64n; bit++) {
      if (bit === 62n) continue
      const reserved = (bit > 0n && bit < 9n) || (bit > 55n && bit < 62n) || (extended && bit === 0n)
      const parse = () => parseL2Entry(entry(0x5_0000n | (1n << bit)), 0, 16, extended)
      if (reserved) t.throws(parse, FormatError, `bit ${bit}`)
      else t.doesNotThrow(parse, `bit ${bit}`)
    }
    t.end()
  })
}

function sameBits(one: DataView, other: DataView): boolean {
  return one.getBigUint64(0) === other.getBigUint64(0) && one.getBigUint64(8) === other.getBigUint64(8)
}

t.test('a subcluster that is both allocated and zero is refused', (t) => {
  t.throws(() => parseL2Entry(entry(0x5_0000n, (1n << 39n) | (1n << 7n)), 0, 16, true), FormatError)
  t.end()
})

for (const bits of clusterBits) {
  t.test(`compressed clusters of 2^${bits} bytes are what the specification draws`, (t) => {
    const x = 62n - BigInt(bits - 8)
    const offsets = fc.bigInt({ min: 0n, max: (1n << (x < 53n ? x : 53n)) - 1n })
    const sectors = fc.bigInt({ min: 0n, max: (1n << (62n - x)) - 1n })
    const property = fc.property(offsets, sectors, fc.boolean(), (offset, more, extended) => {
      const view = entry(COMPRESSED | (more << x) | offset, 0n)
      const found = parseL2Entry(view, 0, bits, extended)
      const written = entry(0n, extended ? 0xffff_ffff_ffff_ffffn : 0n)
      formatL2Entry(written, 0, found, bits, extended)
      const length = Number((more + 1n) * 512n - (offset % 512n))
      return (
        found.kind === 'compressed' &&
        BigInt(found.offset) === offset &&
        found.length === length &&
        sameBits(written, view)
      )
    })
    holds(t, property, 500)
    t.end()
  })

  t.test(`compressed clusters of 2^${bits} bytes reach to the end of a sector`, (t) => {
    const cluster = 2 ** bits
    const property = fc.property(fc.nat(2 ** 40), fc.integer({ min: 1, max: cluster }), (offset, length) => {
      const view = entry(0n)
      formatL2Entry(view, 0, { kind: 'compressed', offset, length }, bits, false)
      const found = parseL2Entry(view, 0, bits, false)
      if (found.kind !== 'compressed' || found.offset !== offset) return false
      return (offset + found.length) % 512 === 0 && found.length >= length && found.length < length + 512
    })
    holds(t, property, 500)
    t.end()
  })
}

/** The L2 entries of the first table. */
function entriesOf(image: Image, count: number): L2Entry[] {
  const header = image.header()
  const bytes = viewOf(image.bytes())
  const table = parseL1Entry(bytes, header.l1Offset)
  const extended = header.incompatible.has(4)
  return Array.from({ length: count }, (_, index) =>
    parseL2Entry(bytes, table.offset + index * (extended ? 16 : 8), header.clusterBits, extended),
  )
}

t.test(
  'entries that QEMU writes are read: data, zero, nothing, compressed',
  { skip: noQemuImg },
  async (t) => {
    const image = new Image(t)
    const io = (...commands: string[]) =>
      image.run('qemu-io', ...commands.flatMap((command) => ['-c', command]), 'disk.qcow2')
    io(
      'write -P 1 0 64k',
      'write -z 64k 64k',
      'write -P 2 192k 64k',
      'write -z 192k 64k',
      'write -c -P 3 256k 64k',
    )
    const found = entriesOf(image, 5)
    t.match(found[0], { kind: 'standard', copied: true, zero: false, offset: Number })
    t.match(found[1], { kind: 'standard', copied: false, zero: true, offset: 0 })
    t.match(found[2], { kind: 'standard', copied: false, zero: false, offset: 0 })
    t.match(found[3], { kind: 'standard', copied: true, zero: true })
    t.not(found[3]?.offset, 0)
    t.match(found[4], { kind: 'compressed', length: 512 })
  },
)

t.test('subclusters that QEMU writes are read', { skip: noQemuImg }, async (t) => {
  const image = new Image(t, ['extended_l2=on', 'cluster_size=128k'])
  image.run(
    'qemu-io',
    '-c',
    'write -P 1 8k 4k',
    '-c',
    'write -z 64k 8k',
    '-c',
    'write -P 1 124k 4k',
    'disk.qcow2',
  )
  const [first] = entriesOf(image, 1)
  const subclusters = { allocated: ((1 << 2) | (1 << 31)) >>> 0, zero: (1 << 16) | (1 << 17) }
  t.match(first, { kind: 'standard', copied: true, zero: false, subclusters })
})

t.test('with a data file, the first cluster is a host offset of 0', { skip: noQemuImg }, async (t) => {
  const image = new Image(t, ['data_file=disk.data'])
  image.run('qemu-io', '-c', 'write 0 64k', '-c', 'write 128k 64k', 'disk.qcow2')
  const found = entriesOf(image, 3)
  t.match(found[0], { offset: 0, copied: true })
  t.match(found[1], { offset: 0, copied: false })
  t.match(found[2], { offset: 128 * KIB, copied: true })
})

t.test('entries in line are those that say nothing but the next host cluster', (t) => {
  const clusterSize = 65536
  const shapes = fc.constantFrom(0n, COPIED, COMPRESSED, 1n, 512n, 1n << 9n, 1n << 60n, 1n << 40n, 65536n)
  const property = fc.property(
    hostOffset,
    fc.boolean(),
    fc.array(shapes, { maxLength: 3 }),
    fc.nat(8),
    (offset, copied, odd, good) => {
      const start = (offset / 65536n) * 65536n
      const plain = (index: number) => (start + BigInt(index * clusterSize)) | (copied ? COPIED : 0n)
      const values = [
        ...Array.from({ length: good }, (_, index) => plain(index)),
        ...odd.map((shape, index) => plain(good + index) ^ shape),
      ]
      const view = new DataView(new ArrayBuffer(8 * values.length))
      for (const [index, value] of values.entries()) view.setBigUint64(index * 8, BigInt.asUintN(64, value))
      const expected = values.findIndex((value, index) => value !== plain(index))
      const found = countInLine(view, 0, values.length, { host: Number(start), copied, clusterSize })
      return found === (expected < 0 ? values.length : expected)
    },
  )
  holds(t, property, 500)
  t.end()
})
