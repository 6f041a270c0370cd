// SPDX-License-Identifier: Apache-2.0
// Headers against those that qemu-img writes, and refusals against what it says.

import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import t from 'tap'
import { FormatError } from '../../../protocol/format-error.js'
import {
  Autoclear,
  Compatible,
  clusterSizeOf,
  ExtensionType,
  extensionText,
  formatHeader,
  type Header,
  Incompatible,
  parseHeader,
} from '../../../protocol/qcow2/header.js'
import { holds } from '../../helpers/property.js'
import { Image, KIB, MIB, noQemuImg } from './images.js'

const kinds: readonly { name: string; options: readonly string[]; says: Partial<Header> }[] = [
  { name: 'version 2', options: ['compat=0.10'], says: { version: 2, refcountOrder: 4, headerLength: 72 } },
  {
    name: 'version 3',
    options: [],
    says: { version: 3, refcountOrder: 4, headerLength: 112, clusterBits: 16 },
  },
  { name: 'clusters of 512 bytes', options: ['cluster_size=512'], says: { clusterBits: 9 } },
  { name: 'clusters of 2 MiB', options: ['cluster_size=2M'], says: { clusterBits: 21 } },
  ...[1, 2, 4, 8, 16, 32, 64].map((bits, order) => ({
    name: `refcounts of ${bits} bits`,
    options: [`refcount_bits=${bits}`],
    says: { refcountOrder: order },
  })),
  {
    name: 'extended L2 entries',
    options: ['extended_l2=on'],
    says: { incompatible: new Set([Incompatible.extendedL2]) },
  },
  {
    name: 'zstd',
    options: ['compression_type=zstd'],
    says: { compression: 'zstd', incompatible: new Set([Incompatible.compression]) },
  },
  {
    name: 'lazy refcounts',
    options: ['lazy_refcounts=on'],
    says: { compatible: new Set([Compatible.lazyRefcounts]) },
  },
  {
    name: 'a raw data file',
    options: ['data_file=disk.data', 'data_file_raw=on'],
    says: { incompatible: new Set([Incompatible.dataFile]), autoclear: new Set([Autoclear.rawDataFile]) },
  },
]

for (const { name, options, says } of kinds) {
  t.test(`${name}: the header says so, and is written as it was`, { skip: noQemuImg }, async (t) => {
    const image = new Image(t, options)
    const bytes = image.bytes()
    const header = parseHeader(bytes)
    t.match(header, { size: 8 * MIB, encryption: 'none', snapshotCount: 0, backingFile: undefined })
    for (const [field, value] of Object.entries(says)) t.same(header[field as keyof Header], value, field)
    t.ok(Buffer.from(formatHeader(header)).equals(bytes.subarray(0, clusterSizeOf(bytes))))
  })
}

t.test('a backing file and its format are read, and stay where they were', { skip: noQemuImg }, async (t) => {
  for (const version of ['0.10', '1.1']) {
    const image = new Image(t, [`compat=${version}`], ['-u', '-b', 'bäse.raw', '-F', 'raw'])
    const header = image.header()
    t.equal(header.backingFile, 'bäse.raw')
    t.equal(extensionText(header, ExtensionType.backingFormat), 'raw')
    t.ok(Buffer.from(formatHeader(header)).equals(image.bytes().subarray(0, 64 * KIB)))
  }
})

t.test('a byte order mark is part of a name', { skip: noQemuImg }, async (t) => {
  const header = { ...new Image(t).header(), backingFile: '\ufeffbase.raw' }
  t.equal(parseHeader(formatHeader(header)).backingFile, '\ufeffbase.raw')
})

t.test('the name of a data file is read', { skip: noQemuImg }, async (t) => {
  const image = new Image(t, ['data_file=disk.data'])
  t.equal(extensionText(image.header(), ExtensionType.dataFile), 'disk.data')
  t.equal(extensionText(image.header(), ExtensionType.backingFormat), undefined)
})

t.test('qemu-img opens a header written here', { skip: noQemuImg }, async (t) => {
  const image = new Image(t)
  const extensions = [{ type: ExtensionType.backingFormat, data: new TextEncoder().encode('raw') }]
  const bytes = image.bytes()
  bytes.set(formatHeader({ ...image.header(), extensions, backingFile: 'below.raw' }))
  writeFileSync(image.path, bytes)
  t.match(image.info(), { 'backing-filename': 'below.raw', 'backing-filename-format': 'raw' })
})

const refusals: readonly { name: string; change: (bytes: Buffer) => void }[] = [
  { name: 'another magic', change: (bytes) => bytes.writeUInt32BE(1, 0) },
  { name: 'version 4', change: (bytes) => bytes.writeUInt32BE(4, 4) },
  { name: 'clusters of 256 bytes', change: (bytes) => bytes.writeUInt32BE(8, 20) },
  { name: 'clusters of 4 MiB', change: (bytes) => bytes.writeUInt32BE(22, 20) },
  { name: 'an unknown encryption', change: (bytes) => bytes.writeUInt32BE(3, 32) },
  { name: 'refcounts of 128 bits', change: (bytes) => bytes.writeUInt32BE(7, 96) },
  { name: 'a header too short', change: (bytes) => bytes.writeUInt32BE(96, 100) },
  { name: 'a header longer than a cluster', change: (bytes) => bytes.writeUInt32BE(65544, 100) },
  { name: 'unknown bits without names', change: (bytes) => bytes.writeUInt32BE(0x10000060, 72) },
  { name: 'an unknown bit with a name', change: nameUnknownBit },
  { name: 'a compression type without its bit', change: (bytes) => bytes.writeUInt8(1, 104) },
  { name: 'the compression bit without a type', change: (bytes) => bytes.writeUInt32BE(8, 76) },
  { name: 'an unknown compression type', change: (bytes) => bytes.writeUInt8(2, 104) },
  { name: 'a backing name beyond the first cluster', change: (bytes) => bytes.writeUInt32BE(70_000, 12) },
  { name: 'a backing name too long', change: (bytes) => bytes.writeUInt32BE(1024, 16) },
  { name: 'an extension beyond the first cluster', change: (bytes) => bytes.writeUInt32BE(65_000, 116) },
  { name: 'an extension of 4 GiB', change: (bytes) => bytes.writeUInt32BE(0xffff_fff0, 116) },
]

/** Bit 5 where the table of names says which it would be. */
function nameUnknownBit(bytes: Buffer): void {
  const name = bytes.indexOf('dirty bit')
  bytes.writeUInt8(5, name - 1)
  bytes.writeUInt32BE(1 << 5, 76)
}

for (const { name, change } of refusals) {
  t.test(`${name}: refused in qemu-img's words`, { skip: noQemuImg }, async (t) => {
    const bytes = new Image(t, [], ['-u', '-b', 'base.raw', '-F', 'raw']).bytes()
    change(bytes)
    const path = join(t.testdir(), 'changed.qcow2')
    writeFileSync(path, bytes)
    const options = `driver=qcow2,file.filename=${path}`
    const { stderr } = spawnSync('qemu-img', ['info', '--image-opts', options], { encoding: 'utf8' })
    const theirs = /': (.*)\n/.exec(stderr)?.[1]
    t.type(theirs, 'string')
    t.throws(() => parseHeader(bytes), new FormatError(theirs))
  })
}

t.test('subclusters smaller than a sector are refused', { skip: noQemuImg }, async (t) => {
  const bytes = new Image(t, ['cluster_size=4k']).bytes()
  bytes.writeUInt32BE(1 << Incompatible.extendedL2, 76)
  t.throws(() => parseHeader(bytes), new FormatError('Unsupported subcluster size: 128'))
})

t.test('extensions that do not fit into the first cluster are refused', { skip: noQemuImg }, async (t) => {
  const header = new Image(t, ['cluster_size=512']).header()
  const extensions = [{ type: 0x1234, data: new Uint8Array(400) }]
  t.throws(() => formatHeader({ ...header, extensions }), FormatError)
})

t.test('what follows the known fields, and unknown extensions, are kept', { skip: noQemuImg }, async (t) => {
  const extensions = [{ type: 0x1234, data: Uint8Array.of(1, 2, 3) }]
  const unknownFields = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8)
  const header = { ...new Image(t).header(), headerLength: 120, unknownFields, extensions }
  t.same(parseHeader(formatHeader(header)), header)
})

t.test('any header comes back from its bytes', (t) => {
  const bits = fc.uniqueArray(fc.constantFrom(0, 1), { maxLength: 2 }).map((list) => new Set(list))
  const offset = fc.nat(2 ** 30).map((cluster) => cluster * 2 ** 21)
  const fields = fc.record({
    clusterBits: fc.integer({ min: 14, max: 21 }),
    size: fc.maxSafeNat(),
    l1Size: fc.nat(),
    l1Offset: offset,
    refcountTableOffset: offset,
    refcountTableClusters: fc.nat(),
    snapshotCount: fc.nat(),
    snapshotsOffset: offset,
    refcountOrder: fc.integer({ min: 0, max: 6 }),
    compatible: bits,
    autoclear: bits,
    incompatible: fc.uniqueArray(fc.constantFrom(0, 1, 2, 4)).map((list) => new Set(list)),
    backingFile: fc.option(fc.string({ minLength: 1, maxLength: 300, unit: 'grapheme' }), { nil: undefined }),
    extensions: fc.array(
      fc.record({ type: fc.integer({ min: 1, max: 0xffff_ffff }), data: fc.uint8Array({ maxLength: 200 }) }),
      { maxLength: 5 },
    ),
  })
  const fixed = { version: 3, encryption: 'none', headerLength: 112, compression: 'zlib' } as const
  const property = fc.property(fields, (some) => {
    const header: Header = { ...fixed, unknownFields: new Uint8Array(0), ...some }
    const found = parseHeader(formatHeader(header))
    return JSON.stringify(plain(found)) === JSON.stringify(plain(header))
  })
  holds(t, property, 300)
  t.end()
})

/** Comparable as JSON, fields in one order. */
function plain(header: Header): object {
  const sets = [header.incompatible, header.compatible, header.autoclear].map((set) => [...set].sort())
  const extensions = header.extensions.map(({ type, data }) => [type, [...data]])
  const rest = Object.entries(header).filter(([, value]) => typeof value !== 'object')
  return [sets, extensions, [...header.unknownFields], rest.sort()]
}

t.test('damaged headers are format errors or headers, nothing else', { skip: noQemuImg }, async (t) => {
  const bytes = new Image(t, ['cluster_size=512'], ['-u', '-b', 'b', '-F', 'raw']).bytes().subarray(0, 512)
  const changes = fc.array(fc.tuple(fc.nat(300), fc.nat(255)), { minLength: 1, maxLength: 8 })
  const property = fc.property(changes, fc.integer({ min: 0, max: 512 }), (list, length) => {
    const damaged = Buffer.from(bytes)
    for (const [at, value] of list) damaged[at] = value
    try {
      parseHeader(damaged.subarray(0, length < 256 ? 512 : length))
      return true
    } catch (error) {
      return error instanceof FormatError
    }
  })
  holds(t, property, 3000)
})
