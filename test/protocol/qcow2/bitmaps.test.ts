// SPDX-License-Identifier: Apache-2.0
// Persistent bitmaps as qemu-img makes them.

import fc from 'fast-check'
import t from 'tap'
import { FormatError } from '../../../protocol/format-error.js'
import {
  formatBitmapDirectory,
  formatBitmapsExtension,
  parseBitmapDirectory,
  parseBitmapsExtension,
  parseBitmapTableEntry,
  type StoredBitmap,
} from '../../../protocol/qcow2/bitmaps.js'
import { Autoclear, ExtensionType } from '../../../protocol/qcow2/header.js'
import { holds } from '../../helpers/property.js'
import { Image, noQemuImg, viewOf } from './images.js'

/** An image with three bitmaps, and some of it written since. */
function marked(t: { testdir(): string }): Image {
  const image = new Image(t)
  image.run('qemu-img', 'bitmap', '--add', 'disk.qcow2', 'one')
  image.run('qemu-img', 'bitmap', '--add', '-g', '512', 'disk.qcow2', 'größer')
  image.run('qemu-img', 'bitmap', '--add', '-g', '2M', '--disable', 'disk.qcow2', 'still')
  image.run('qemu-io', '-c', 'write 1M 128k', 'disk.qcow2')
  return image
}

function extensionOf(image: Image): Uint8Array {
  const found = image.header().extensions.find(({ type }) => type === ExtensionType.bitmaps)
  if (found === undefined) throw new Error('no bitmaps extension')
  return found.data
}

function directoryOf(image: Image): { bytes: Buffer; count: number } {
  const { count, directorySize, directoryOffset } = parseBitmapsExtension(extensionOf(image))
  return { bytes: image.bytes().subarray(directoryOffset, directoryOffset + directorySize), count }
}

t.test('bitmaps are what qemu-img lists', { skip: noQemuImg }, async (t) => {
  const image = marked(t)
  t.ok(image.header().autoclear.has(Autoclear.bitmaps))
  const { bytes, count } = directoryOf(image)
  const found = parseBitmapDirectory(bytes, count)
  const listed = found.map(({ name, granularityBits, auto }) => ({
    flags: auto ? ['auto'] : [],
    name,
    granularity: 2 ** granularityBits,
  }))
  const byName = (one: { name: string }, other: { name: string }) => (one.name < other.name ? -1 : 1)
  const theirs = [...(image.info()['format-specific'].data.bitmaps ?? [])]
  t.same(listed.sort(byName), theirs.sort(byName))
  t.ok(found.every(({ inUse, extra }) => !inUse && extra.length === 0))
})

t.test('the extension and the directory are written as they were', { skip: noQemuImg }, async (t) => {
  const image = marked(t)
  const extension = extensionOf(image)
  t.ok(Buffer.from(formatBitmapsExtension(parseBitmapsExtension(extension))).equals(extension))
  const { bytes, count } = directoryOf(image)
  t.ok(Buffer.from(formatBitmapDirectory(parseBitmapDirectory(bytes, count))).equals(bytes))
})

t.test('the bits that QEMU stored are found through the table', { skip: noQemuImg }, async (t) => {
  const image = marked(t)
  const { bytes, count } = directoryOf(image)
  const whole = image.bytes()
  const table = (name: string) => {
    const found = parseBitmapDirectory(bytes, count).find((bitmap) => bitmap.name === name)
    return parseBitmapTableEntry(viewOf(whole), found?.tableOffset ?? 0)
  }
  const { offset, ones } = table('one')
  t.equal(ones, false)
  t.same([...whole.subarray(offset, offset + 5)], [0, 0, 0b11, 0, 0], 'clusters 16 and 17')
  t.same(table('still'), { offset: 0, ones: false })
})

t.test('a table entry is an offset, all zeroes or all ones', (t) => {
  const entry = (value: bigint) => {
    const view = new DataView(new ArrayBuffer(8))
    view.setBigUint64(0, value)
    return () => parseBitmapTableEntry(view, 0)
  }
  t.same(entry(0n)(), { offset: 0, ones: false })
  t.same(entry(1n)(), { offset: 0, ones: true })
  t.same(entry(0x1_2345_0000n)(), { offset: 0x1_2345_0000, ones: false })
  t.throws(entry(0x1_0001n), FormatError, 'ones with an offset')
  for (const bit of [1n, 8n, 56n, 63n]) t.throws(entry(0x5_0000n | (1n << bit)), FormatError, `bit ${bit}`)
  t.end()
})

t.test('any directory comes back from its bytes', (t) => {
  const bitmap: fc.Arbitrary<StoredBitmap> = fc.record({
    name: fc.string({ minLength: 1, maxLength: 200, unit: 'grapheme' }),
    tableOffset: fc.nat(2 ** 30).map((cluster) => cluster * 65536),
    tableSize: fc.nat(),
    inUse: fc.boolean(),
    auto: fc.boolean(),
    granularityBits: fc.integer({ min: 9, max: 31 }),
    extraCompatible: fc.boolean(),
    extra: fc.uint8Array({ maxLength: 50 }),
  })
  const property = fc.property(fc.array(bitmap, { maxLength: 6 }), (list) => {
    const found = parseBitmapDirectory(formatBitmapDirectory(list), list.length)
    return JSON.stringify(found) === JSON.stringify(list.map((some) => ({ ...some })))
  })
  holds(t, property, 300)
  t.end()
})

t.test('damaged directories are format errors or bitmaps, nothing else', { skip: noQemuImg }, async (t) => {
  const { bytes, count } = directoryOf(marked(t))
  const changes = fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { minLength: 1, maxLength: 6 })
  const property = fc.property(changes, fc.nat(bytes.length), (list, length) => {
    const damaged = Buffer.from(bytes)
    for (const [at, value] of list) damaged[at] = value
    try {
      parseBitmapDirectory(damaged.subarray(0, length), count)
      return true
    } catch (error) {
      return error instanceof FormatError
    }
  })
  holds(t, property, 2000)
})

const extensions: readonly { name: string; change: (bytes: Buffer) => Uint8Array }[] = [
  { name: 'too short', change: (bytes) => bytes.subarray(0, 16) },
  { name: 'too long', change: (bytes) => Buffer.concat([bytes, bytes]) },
  { name: 'none counted', change: (bytes) => bytes.fill(0, 0, 4) },
  { name: 'too many counted', change: (bytes) => bytes.fill(1, 0, 4) },
  { name: 'reserved bits', change: (bytes) => bytes.fill(1, 4, 8) },
]
for (const { name, change } of extensions) {
  t.test(`a bitmaps extension is refused: ${name}`, (t) => {
    const good = formatBitmapsExtension({ count: 3, directorySize: 96, directoryOffset: 65536 })
    t.throws(() => parseBitmapsExtension(change(Buffer.from(good))), FormatError)
    t.end()
  })
}
