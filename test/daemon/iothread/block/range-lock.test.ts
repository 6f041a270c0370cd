// SPDX-License-Identifier: Apache-2.0
import t from 'tap'
import { type RangeHold, RangeLock } from '../../../../daemon/iothread/block/range-lock.js'
import { newSeed, random } from '../../../helpers/graph.js'

t.test('shared holds of one range are given at once', async (t) => {
  const lock = new RangeLock()
  const first = lock.acquire(0, 512, false)
  const second = lock.acquire(0, 512, false)
  t.notOk(first instanceof Promise)
  t.notOk(second instanceof Promise)
})

t.test('a shared request does not overtake a waiting exclusive one', async (t) => {
  const lock = new RangeLock()
  const order: string[] = []
  const held = await lock.acquire(0, 100, false)
  const exclusive = Promise.resolve(lock.acquire(50, 100, true)).then((hold) => {
    order.push('exclusive')
    lock.release(hold)
  })
  const late = Promise.resolve(lock.acquire(60, 10, false)).then((hold) => {
    order.push('late shared')
    lock.release(hold)
  })
  lock.release(held)
  await Promise.all([exclusive, late])
  t.same(order, ['exclusive', 'late shared'])
  t.equal(lock.size, 0)
})

t.test('random requests never hold conflicting ranges, and all of them are served', async (t) => {
  const seed = newSeed()
  t.comment(`seed ${seed}`)
  const next = random(seed)
  const lock = new RangeLock()
  const held = new Set<RangeHold>()
  let served = 0
  let violations = 0
  const tasks: Promise<void>[] = []
  for (let i = 0; i < 500; i++) {
    const offset = next(64)
    const exclusive = next(3) === 0
    const turns = next(4)
    tasks.push(
      (async () => {
        const hold = await lock.acquire(offset, 1 + next(16), exclusive)
        for (const other of held) {
          const overlap = other.offset < hold.end && hold.offset < other.end
          if (overlap && (other.exclusive || hold.exclusive)) violations += 1
        }
        held.add(hold)
        for (let turn = 0; turn < turns; turn++) await null
        held.delete(hold)
        lock.release(hold)
        served += 1
      })(),
    )
    if (next(4) === 0) await null
  }
  await Promise.all(tasks)
  t.equal(violations, 0)
  t.equal(served, 500)
  t.equal(lock.size, 0)
})
