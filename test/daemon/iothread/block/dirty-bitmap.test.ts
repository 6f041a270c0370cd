// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert'
import fc from 'fast-check'
import t from 'tap'
import { DirtyBitmap } from '../../../../daemon/iothread/block/dirty-bitmap.js'
import { holds } from '../../../helpers/property.js'

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

t.test('bits packed and unpacked are the same bits, however they are cut', async (t) => {
  holds(
    t,
    fc.property(
      fc.integer({ min: 1, max: 5000 }),
      fc.array(fc.nat(5000)),
      fc.integer({ min: 1, max: 40 }),
      (chunks, marks, step) => {
        const bitmap = new DirtyBitmap(chunks * 512 - 100, 512)
        for (const mark of marks) bitmap.set(mark * 512, 1)
        const size = Math.ceil(chunks / 8)
        const other = new DirtyBitmap(chunks * 512 - 100, 512)
        for (let from = 0; from < size; from += step * 4) {
          const part = new Uint8Array(Math.min(step * 4, size - from))
          bitmap.pack(from, part)
          other.unpack(from, part)
        }
        assert.deepEqual(dirtyChunks(other), dirtyChunks(bitmap))
        assert.equal(other.count, bitmap.count)
      },
    ),
    300,
  )
})

t.test('bits beyond the end are not taken', async (t) => {
  const bitmap = new DirtyBitmap(10 * 512, 512)
  bitmap.unpack(0, new Uint8Array(8).fill(0xff))
  t.equal(bitmap.count, 10 * 512)
})

t.test('merging and resizing agree with sets of chunks', async (t) => {
  holds(
    t,
    fc.property(
      fc.integer({ min: 1, max: 3000 }),
      fc.array(fc.nat(3000)),
      fc.array(fc.nat(3000)),
      fc.nat(3),
      fc.integer({ min: 1, max: 4000 }),
      (chunks, mine, theirs, finer, later) => {
        const bitmap = new DirtyBitmap(chunks * 4096, 4096)
        const other = new DirtyBitmap(chunks * 4096, 4096 >> finer)
        for (const mark of mine) bitmap.set(mark * 4096, 1)
        for (const mark of theirs) other.set(mark * 512, 1)
        bitmap.merge(other)
        const marks = [...mine, ...theirs.map((mark) => Math.floor(mark / 8))]
        const expected = (length: number) =>
          [...new Set(marks)].filter((mark) => mark < length).sort((a, b) => a - b)
        assert.deepEqual(dirtyChunks(bitmap), expected(chunks))
        bitmap.resize(later * 4096)
        assert.deepEqual(dirtyChunks(bitmap), expected(Math.min(chunks, later)))
        assert.equal(bitmap.count, dirtyChunks(bitmap).length * 4096)
        assert.deepEqual(dirtyChunks(bitmap.copy()), dirtyChunks(bitmap))
      },
    ),
    300,
  )
})

function dirtyChunks(bitmap: DirtyBitmap): number[] {
  const found: number[] = []
  for (let at = 0; at < bitmap.length; ) {
    const { dirty, end } = bitmap.run(at, bitmap.length)
    for (let chunk = at; dirty && chunk < end; chunk += bitmap.granularity)
      found.push(chunk / bitmap.granularity)
    at = end
  }
  return found
}
