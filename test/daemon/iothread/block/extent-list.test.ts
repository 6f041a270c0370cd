// SPDX-License-Identifier: Apache-2.0
// The list of known extents against a map of single bytes. SEED=n repeats a run.

import t from 'tap'
import { ExtentList } from '../../../../daemon/iothread/block/extent-list.js'
import { newSeed, random } from '../../../helpers/graph.js'

type Known = 'data' | 'zero' | undefined

/** As it is listed: [start, end, whether it is a hole]. */
function extentsOf(model: readonly Known[]): [number, number, boolean][] {
  const extents: [number, number, boolean][] = []
  for (const [at, known] of model.entries()) {
    const last = extents.at(-1)
    if (known === undefined) continue
    if (last?.[1] === at && last[2] === (known === 'zero')) last[1] = at + 1
    else extents.push([at, at + 1, known === 'zero'])
  }
  return extents
}

const listed = (list: ExtentList) =>
  Array.from({ length: list.size }, (_, index) => [list.start(index), list.end(index), list.zero(index)])

t.test('random ranges that are put and cut are those of a model', async (t) => {
  const seed = newSeed()
  t.comment(`seed ${seed}`)
  const next = random(seed)
  for (const size of [40, 1000]) {
    const list = new ExtentList(size)
    const model = new Array<Known>(size).fill(undefined)
    let most = 0
    for (let step = 0; step < 4000; step++) {
      const start = next(size)
      const end = start + 1 + next(Math.min(9, size - start))
      const kind = next(3)
      if (kind === 0) list.cut(start, end)
      else list.put(start, end, kind === 1)
      model.fill(kind === 0 ? undefined : kind === 1 ? 'zero' : 'data', start, end)
      const wanted = extentsOf(model)
      if (JSON.stringify(listed(list)) !== JSON.stringify(wanted)) {
        t.strictSame(listed(list), wanted, `step ${step}`)
        return
      }
      most = Math.max(most, list.size)
      const at = next(size)
      const found = wanted.findIndex(([from, to]) => from <= at && at < to)
      if (list.find(at) !== found) t.fail(`step ${step}: ${at} is in ${found}, not ${list.find(at)}`)
    }
    t.ok(most > 5, `${most} extents at one time`)
    list.clear()
    t.equal(list.size, 0)
    t.equal(list.find(3), -1)
  }
})

t.test('what has no room is not known, and nothing else is lost', async (t) => {
  const list = new ExtentList(3)
  for (let at = 0; at < 100; at += 10) list.put(at, at + 5, false)
  t.strictSame(listed(list), [
    [0, 5, false],
    [10, 15, false],
    [20, 25, false],
  ])
  list.cut(11, 12)
  t.strictSame(listed(list), [
    [0, 5, false],
    [10, 11, false],
    [20, 25, false],
  ])
  list.put(5, 10, false)
  t.strictSame(listed(list), [
    [0, 11, false],
    [20, 25, false],
  ])
})

t.test('offsets beyond 32 bits are kept exactly', async (t) => {
  const list = new ExtentList(1000)
  const far = 2 ** 52
  for (let index = 0; index < 300; index++) list.put(far + index * 8192, far + index * 8192 + 4096, true)
  t.equal(list.size, 300)
  t.equal(list.start(299), far + 299 * 8192)
  t.equal(list.find(far + 299 * 8192 + 4095), 299)
  t.equal(list.find(far + 299 * 8192 + 4096), -1)
})
