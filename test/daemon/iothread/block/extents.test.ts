// SPDX-License-Identifier: Apache-2.0
import t from 'tap'
import { ExtentCache } from '../../../../daemon/iothread/block/extents.js'
import { newSeed, random } from '../../../helpers/graph.js'

/** Extents of a model file: one byte per unit, 0 hole, 1 data. As the engine lists them. */
function list(model: Uint8Array, offset: number, limit: number): Float64Array {
  const extents: number[] = []
  for (let at = offset; at < model.length && extents.length < limit * 3; ) {
    let end = at + 1
    while (end < model.length && model[end] === model[at]) end += 1
    extents.push(at, end - at, model[at]!)
    at = end
  }
  return Float64Array.from(extents)
}

t.test('a sequential pass asks in few batches', async (t) => {
  const model = Uint8Array.from({ length: 4000 }, (_, i) => i % 2)
  let queries = 0
  const cache = new ExtentCache(async (offset, _length, limit) => {
    queries += 1
    return list(model, offset, limit)
  })
  for (let at = 0; at < model.length; at += 1) {
    const extent = await cache.at(at, model.length)
    t.equal(extent.kind, model[at] === 1 ? 'data' : 'zero')
  }
  t.ok(queries <= 10, `${queries} queries`)
})

t.test('concurrent callers share one query', async (t) => {
  let queries = 0
  const cache = new ExtentCache(async () => {
    queries += 1
    return Float64Array.from([0, 100, 0])
  })
  await Promise.all([cache.at(0, 100), cache.at(10, 100), cache.at(20, 100)])
  t.equal(queries, 1)
})

t.test('a write during a query is not overwritten by its stale hole', async (t) => {
  let answer: (list: Float64Array) => void = () => {}
  const answers = [new Promise<Float64Array>((resolve) => (answer = resolve))]
  const cache = new ExtentCache(async () => answers.shift() ?? Float64Array.from([40, 10, 1, 50, 50, 0]))
  const first = cache.at(0, 100)
  cache.wrote(40, 10)
  answer(Float64Array.from([0, 100, 0]))
  t.match(await first, { kind: 'zero', offset: 0, length: 40 })
  t.match(await cache.at(45, 100), { kind: 'data', offset: 40, length: 10 })
})

t.test('when the asked range itself is written during the query the answer is data', async (t) => {
  const cache = new ExtentCache(async () => {
    await null
    cache.wrote(0, 10)
    return Float64Array.from([0, 100, 0])
  })
  t.match(await cache.at(0, 100), { kind: 'data', offset: 0, length: 10 })
})

t.test('a failed query is told to the one who asked, and the others ask again', async (t) => {
  let queries = 0
  const cache = new ExtentCache(async () => {
    queries += 1
    if (queries === 1) throw new Error('EIO')
    return Float64Array.from([0, 100, 1])
  })
  const first = cache.at(0, 100)
  const second = cache.at(0, 100)
  await t.rejects(first, /EIO/)
  t.match(await second, { kind: 'data' })
})

t.test(
  'random changes: a zero is never claimed where the file has data, and memory is bounded',
  async (t) => {
    const seed = newSeed()
    t.comment(`seed ${seed}`)
    const next = random(seed)
    const size = 512
    const model = new Uint8Array(size)
    const cache = new ExtentCache(async (offset, _length, limit) => list(model, offset, limit), 64)
    for (let step = 0; step < 5000; step++) {
      const offset = next(size)
      const length = 1 + next(Math.min(24, size - offset))
      const kind = next(4)
      if (kind === 0) {
        cache.wrote(offset, length)
        model.fill(1, offset, offset + length)
        cache.wrote(offset, length)
      } else if (kind === 1) {
        cache.forget(offset, length)
        model.fill(0, offset, offset + length)
        cache.forget(offset, length)
      } else {
        const extent = await cache.at(offset, size)
        const inside = extent.offset <= offset && extent.offset + extent.length > offset
        const truth = model.subarray(extent.offset, extent.offset + extent.length)
        const right = truth.every((unit) => unit === (extent.kind === 'data' ? 1 : 0))
        if (!inside || !right) t.fail(`step ${step}: ${JSON.stringify(extent)} at ${offset}`)
      }
      if (cache.size > 64) t.fail(`${cache.size} extents kept`)
    }
    t.pass()
  },
)
