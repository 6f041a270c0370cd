// SPDX-License-Identifier: Apache-2.0

import t from 'tap'
import { parseDirtyBitmapBody } from '../../../protocol/migration/dirty-bitmap.js'
import { be16, be32, be64, bytesOf, counted, parsesWhenWhole } from '../../helpers/migration/prefix.js'

const eos = bytesOf(0x01)
const names = bytesOf(counted('n0'), counted('bitmap0'))
const start = bytesOf(0x1c, names, be32(65536), 1)
const bits = bytesOf(0x40, be64(0), be32(2048), be64(8), new Uint8Array(8).fill(0xff))
const zeroes = bytesOf(0x42, be64(2048), be32(2048))

const good = [
  { name: 'nothing', bytes: eos, empty: true },
  { name: 'the start of two bitmaps', bytes: bytesOf(start, start, eos), empty: false },
  { name: 'bits, zeroes and the end of one', bytes: bytesOf(bits, zeroes, 0x20, eos), empty: false },
  { name: 'another bitmap of the same node', bytes: bytesOf(0x24, counted('b1'), eos), empty: false },
  { name: 'an end that is a record too', bytes: bytesOf(0x21), empty: false },
  { name: 'flags of two bytes', bytes: bytesOf(0x80, 0x20, eos), empty: false },
  { name: 'flags of four bytes', bytes: bytesOf(0x80, 0x80, be16(0x20), eos), empty: false },
]
for (const { name, bytes, empty } of good) {
  t.test(`a body is walked to its end: ${name}`, (t) => {
    t.same(parsesWhenWhole(t, bytes, parseDirtyBitmapBody), { empty })
    t.end()
  })
}

const wrong = [
  {
    name: 'unknown flags in the first of two bytes',
    bytes: bytesOf(0x81, 0x01),
    says: 'flags .* found 0x101',
  },
  { name: 'unknown flags in four bytes', bytes: bytesOf(0x80, 0x80, be16(0x8001)), says: 'found 0x8001' },
  { name: 'start and bits at once', bytes: bytesOf(0x50), says: 'expected one of start' },
  {
    name: 'a granularity of 3',
    bytes: bytesOf(0x10, be32(3)),
    says: 'found 3, expected a power of two from 512',
  },
  { name: 'unknown flags of a bitmap', bytes: bytesOf(0x10, be32(65536), 4), says: 'flags 0x4' },
  { name: 'a node without a name', bytes: bytesOf(0x08, 0), says: 'found 0 bytes' },
  {
    name: 'bits without end',
    bytes: bytesOf(0x40, be64(0), be32(1), be64(10_241)),
    says: 'found 10241, expected at most',
  },
]
for (const { name, bytes, says } of wrong) {
  t.test(`a body is refused: ${name}`, (t) => {
    t.throws(() => parseDirtyBitmapBody(bytes), { name: 'FormatError', message: new RegExp(says) })
    t.end()
  })
}

t.test('a body that never ends is refused at some size', (t) => {
  const record = bytesOf(0x40, be64(0), be32(1), be64(10_240), new Uint8Array(10_240))
  const count = Math.ceil((64 * 2 ** 20) / record.length) + 1
  const body = new Uint8Array(count * record.length)
  for (let index = 0; index < count; index++) body.set(record, index * record.length)
  t.throws(() => parseDirtyBitmapBody(body), { message: /expected at most 67108864/ })
  t.end()
})
