// SPDX-License-Identifier: Apache-2.0
// Refcounts of every width against a naive model of bits, and against those of real images.

import fc from 'fast-check'
import t from 'tap'
import { parseRefcountTableEntry } from '../../../protocol/qcow2/entries.js'
import { getRefcount, maxRefcount, setRefcount } from '../../../protocol/qcow2/refcount-block.js'
import { holds } from '../../helpers/property.js'
import { Image, noQemuImg, viewOf } from './images.js'

const orders = [0, 1, 2, 3, 4, 5, 6] as const
const BLOCK = 64

/** The block bit by bit: below a byte from the least significant bit on, above it big-endian. */
function blockOf(values: readonly number[], width: number): Uint8Array {
  const bytes = new Uint8Array(BLOCK)
  for (const [index, value] of values.entries()) {
    for (let bit = 0; bit < width; bit++) {
      if (((BigInt(value) >> BigInt(bit)) & 1n) === 0n) continue
      const first = (index * width) >> 3
      const at = width < 8 ? first : first + width / 8 - 1 - (bit >> 3)
      const shift = width < 8 ? ((index * width) & 7) + bit : bit & 7
      bytes[at] = (bytes[at] ?? 0) | (1 << shift)
    }
  }
  return bytes
}

for (const order of orders) {
  const width = 2 ** order

  t.test(`refcounts of ${width} bits lie where the specification puts them`, (t) => {
    const count = (BLOCK * 8) / width
    const change = fc.tuple(
      fc.nat(count - 1),
      fc.maxSafeNat().map((some) => some % (maxRefcount(order) + 1)),
    )
    const property = fc.property(fc.array(change, { maxLength: 3 * count }), (changes) => {
      const values = new Array<number>(count).fill(0)
      const bytes = new Uint8Array(BLOCK)
      for (const [index, value] of changes) {
        values[index] = value
        setRefcount(viewOf(bytes), index, order, value)
      }
      const read = values.map((_, index) => getRefcount(viewOf(bytes), index, order))
      return Buffer.from(blockOf(values, width)).equals(bytes) && read.join() === values.join()
    })
    holds(t, property, 200)
    t.end()
  })

  t.test(`refcounts of ${width} bits that QEMU writes are read`, { skip: noQemuImg }, async (t) => {
    const image = new Image(t, [`refcount_bits=${width}`])
    image.run('qemu-io', '-c', 'write 0 192k', 'disk.qcow2')
    if (width > 1) image.run('qemu-img', 'snapshot', '-c', 'one', 'disk.qcow2')
    const bytes = viewOf(image.bytes())
    const { offset } = parseRefcountTableEntry(bytes, image.header().refcountTableOffset)
    const block = new DataView(bytes.buffer, bytes.byteOffset + offset, 65536)
    const found = Array.from({ length: 12 }, (_, cluster) => getRefcount(block, cluster, order))
    // Header, refcount table and block, L1 table, L2 table, three of data; then the snapshot's L1 and their table.
    if (width === 1) t.same(found, [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0])
    else t.same(found, [1, 1, 1, 1, 2, 2, 2, 2, 1, 1, 0, 0])
  })
}

t.test('the largest refcount is all ones, or what a number holds', (t) => {
  t.same(orders.map(maxRefcount), [1, 3, 15, 255, 65535, 2 ** 32 - 1, Number.MAX_SAFE_INTEGER])
  t.end()
})
