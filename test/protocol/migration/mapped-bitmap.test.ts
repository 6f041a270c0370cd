// SPDX-License-Identifier: Apache-2.0
// Bitmaps against an array of booleans.

import fc from 'fast-check'
import t from 'tap'
import {
  clearPage,
  countPages,
  isPageSet,
  nextRun,
  type PageRun,
  setPage,
  swapBitmapWords,
} from '../../../protocol/migration/mapped-bitmap.js'
import { bitmapLengthOf } from '../../../protocol/migration/mapped-header.js'
import { bytesOf } from '../../helpers/migration/prefix.js'
import { holds } from '../../helpers/property.js'

/** Runs of set and clear pages, in turns. */
const pages = fc
  .array(fc.oneof(fc.nat(3), fc.nat(70)), { minLength: 1, maxLength: 12 })
  .map((runs) => runs.flatMap((length, index) => Array<boolean>(length).fill(index % 2 === 1)))

function bitmapOf(model: readonly boolean[]): Uint8Array {
  const bitmap = new Uint8Array(bitmapLengthOf(model.length, 1))
  for (const [page, set] of model.entries()) if (set) setPage(bitmap, page)
  return bitmap
}

function runsOf(bitmap: Uint8Array, count: number, limit: number): PageRun[] {
  const runs: PageRun[] = []
  for (let from = 0; ; ) {
    const run = nextRun(bitmap, from, count, limit)
    if (run === undefined) return runs
    runs.push(run)
    from = run.page + run.count
  }
}

t.test('pages are set, cleared, found and counted as in an array', (t) => {
  const property = fc.property(pages, fc.nat(1000), (model, other) => {
    const bitmap = bitmapOf(model)
    if (model.length > 0) {
      const page = other % model.length
      model[page] = !model[page]
      if (model[page]) setPage(bitmap, page)
      else clearPage(bitmap, page)
    }
    const same = model.every((set, page) => isPageSet(bitmap, page) === set)
    return same && countPages(bitmap, model.length) === model.filter((set) => set).length
  })
  holds(t, property, 500)
  t.end()
})

t.test('runs cover exactly the pages that are set, and none is longer than allowed', (t) => {
  const property = fc.property(pages, fc.integer({ min: 1, max: 40 }), (model, limit) => {
    const runs = runsOf(bitmapOf(model), model.length, limit)
    const covered = runs.flatMap(({ page, count }) =>
      Array.from({ length: count }, (_, index) => page + index),
    )
    const set = [...model.keys()].filter((page) => model[page])
    return JSON.stringify(covered) === JSON.stringify(set) && runs.every(({ count }) => count <= limit)
  })
  holds(t, property, 500)
  t.end()
})

t.test('bits past the last page mean nothing', (t) => {
  const bitmap = new Uint8Array(8).fill(0xff)
  t.equal(countPages(bitmap, 3), 3)
  t.same(runsOf(bitmap, 3, 100), [{ page: 0, count: 3 }])
  t.same(runsOf(new Uint8Array(8), 64, 100), [])
  t.end()
})

t.test('page n is bit n % 8 of byte n / 8, or of the other end of its word', (t) => {
  const bitmap = new Uint8Array(16)
  for (const page of [0, 9, 64 + 63]) setPage(bitmap, page)
  t.same(bitmap, bytesOf([1, 2, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0x80]))
  swapBitmapWords(bitmap)
  t.same(bitmap, bytesOf([0, 0, 0, 0, 0, 0, 2, 1], [0x80, 0, 0, 0, 0, 0, 0, 0]))
  swapBitmapWords(bitmap)
  t.equal(isPageSet(bitmap, 9), true)
  t.end()
})

t.test('a bitmap has whole words', (t) => {
  const lengths = [1, 64, 65, 4096].map((count) => bitmapLengthOf(count * 4096, 4096))
  t.same(lengths, [8, 8, 16, 512])
  t.end()
})
