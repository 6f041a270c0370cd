// SPDX-License-Identifier: Apache-2.0

import fc from 'fast-check'
import t from 'tap'
import { ReadCover } from '../../../protocol/nbd/read-cover.js'
import { PeerError } from '../../../protocol/peer-error.js'
import { holds } from '../../helpers/property.js'

t.test('chunks in any order add up', async (t) => {
  for (const order of [
    [0, 1, 2, 3],
    [3, 2, 1, 0],
    [2, 0, 3, 1],
  ]) {
    const cover = new ReadCover({ offset: 1000, length: 400 })
    for (const [index, place] of order.entries()) {
      t.equal(cover.missing, 400 - 100 * index)
      cover.add(1000 + 100 * place, 100)
    }
    t.equal(cover.missing, 0)
  }
})

const wrong = [
  {
    name: 'before the request',
    offset: 999,
    length: 2,
    says: /1000 bytes? at 1000: 2 bytes at 999, which lies not in it/,
  },
  { name: 'beyond its end', offset: 1999, length: 2, says: /lies not in it/ },
  { name: 'the same again', offset: 1100, length: 100, says: /100 bytes at 1100, which was told before/ },
  { name: 'from within a chunk', offset: 1199, length: 2, says: /told before/ },
  { name: 'into a chunk', offset: 1099, length: 2, says: /told before/ },
  { name: 'around a chunk', offset: 1000, length: 1000, says: /told before/ },
]
for (const { name, offset, length, says } of wrong) {
  t.test(`a chunk is refused: ${name}`, async (t) => {
    const cover = new ReadCover({ offset: 1000, length: 1000 })
    cover.add(1100, 100)
    t.throws(() => cover.add(offset, length), { name: 'PeerError', message: says })
    t.equal(cover.missing, 900)
    cover.add(1000, 100)
    cover.add(1200, 800)
    t.equal(cover.missing, 0)
  })
}

t.test('it is what an array of bytes says', async (t) => {
  const chunk = fc.record({ offset: fc.nat(70), length: fc.integer({ min: 1, max: 12 }) })
  const property = fc.property(fc.array(chunk, { maxLength: 40 }), (chunks) => {
    const cover = new ReadCover({ offset: 5, length: 60 })
    const told = new Set<number>()
    return chunks.every(({ offset, length }) => {
      const bytes = Array.from({ length }, (_, index) => offset + index)
      const fits = bytes.every((byte) => byte >= 5 && byte < 65 && !told.has(byte))
      try {
        cover.add(offset, length)
      } catch (error) {
        return error instanceof PeerError && !fits
      }
      for (const byte of bytes) told.add(byte)
      return fits && cover.missing === 60 - told.size
    })
  })
  holds(t, property, 2000)
})
