// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import t from 'tap'
import { DirtyBitmap } from '../../../../daemon/iothread/block/dirty-bitmap.js'

const KIB = 1024

t.test('a new bitmap is clean', async (t) => {
  const bitmap = new DirtyBitmap(10 * 2 ** 40, 64 * KIB)
  t.equal(bitmap.clean, true)
  t.equal(bitmap.nextDirty(0, 2 ** 30), undefined)
})

t.test('one byte dirties its whole chunk', async (t) => {
  const bitmap = new DirtyBitmap(2 ** 40, 64 * KIB)
  bitmap.set(2 ** 39 + 5, 1)
  t.same(bitmap.nextDirty(0, 2 ** 30), { offset: 2 ** 39, length: 64 * KIB })
  t.equal(bitmap.count, 64 * KIB)
})

t.test('the last area ends where the node ends', async (t) => {
  const bitmap = new DirtyBitmap(100 * KIB, 64 * KIB)
  bitmap.set(0, 100 * KIB)
  t.same(bitmap.nextDirty(0, 2 ** 30), { offset: 0, length: 100 * KIB })
  t.equal(bitmap.count, 128 * KIB, 'whole chunks, as managers count')
  t.equal(bitmap.bytes, 100 * KIB)
})

t.test('an area is no longer than asked for', async (t) => {
  const bitmap = new DirtyBitmap(2 ** 30, 64 * KIB)
  bitmap.set(0, 2 ** 30)
  t.same(bitmap.nextDirty(0, 2 ** 20), { offset: 0, length: 2 ** 20 })
})

t.test('an empty range changes nothing', async (t) => {
  const bitmap = new DirtyBitmap(2 ** 20, 64 * KIB)
  bitmap.set(512 * KIB, 0)
  t.equal(bitmap.clean, true)
})

t.test('agrees with a set of chunk numbers whatever is done to it', async (t) => {
  const granularity = 512
  const change = fc.record({
    set: fc.boolean(),
    first: fc.integer({ min: 0, max: 2999 }),
    chunks: fc.integer({ min: 0, max: 1500 }),
  })
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 3000 * granularity }),
        fc.array(change, { maxLength: 40 }),
        (length, changes) => {
          const bitmap = new DirtyBitmap(length, granularity)
          const chunks = Math.ceil(length / granularity)
          const model = new Set<number>()
          for (const { set, first, chunks: count } of changes) {
            const end = Math.min(chunks, first + count)
            if (set) bitmap.set(first * granularity, count * granularity)
            else bitmap.clear(first * granularity, count * granularity)
            for (let chunk = first; chunk < end; chunk++) set ? model.add(chunk) : model.delete(chunk)
          }
          const seen = new Set<number>()
          for (
            let area = bitmap.nextDirty(0, 2 ** 20);
            area;
            area = bitmap.nextDirty(area.offset + area.length, 2 ** 20)
          )
            for (let at = area.offset; at < area.offset + area.length; at += granularity)
              seen.add(at / granularity)
          return (
            bitmap.count === model.size * granularity &&
            seen.size === model.size &&
            [...model].every((chunk) => seen.has(chunk))
          )
        },
      ),
    ),
  )
})
