// SPDX-License-Identifier: Apache-2.0
// Sync points of multifd: nobody passes before all have come and everything is in its place.

import t from 'tap'
import { SyncPoints } from '../../../daemon/memory/sync-points.js'

const ENDED = { name: 'FormatError', message: 'vm.sock: a multifd channel ended before the others' }

/** Points whose settling the test lets happen, and what happened in order. */
function setUp(parties: number) {
  const seen: string[] = []
  let settled = (): void => {}
  const points = new SyncPoints(
    parties,
    async () => {
      seen.push('settles')
      await new Promise<void>((resolve) => {
        settled = resolve
      })
    },
    'vm.sock',
  )
  const arrive = async (name: string) => {
    await points.arrive()
    seen.push(name)
  }
  return { points, seen, arrive, settle: () => settled() }
}

t.test('all pass together, after what they brought is in its place', async (t) => {
  const { seen, arrive, settle } = setUp(3)
  for (let round = 0; round < 2; round++) {
    seen.length = 0
    const passing = [arrive('a'), arrive('b')]
    await new Promise((resolve) => setImmediate(resolve))
    t.same(seen, [])
    passing.push(arrive('c'))
    await new Promise((resolve) => setImmediate(resolve))
    t.same(seen, ['settles'])
    settle()
    await Promise.all(passing)
    t.same(seen, ['settles', 'a', 'b', 'c'])
  }
})

t.test('who waits for a connection that ended is told', async (t) => {
  const { points, arrive } = setUp(2)
  const waiting = arrive('a')
  points.leave()
  await t.rejects(waiting, ENDED)
})

t.test('who comes when another has left is told too', async (t) => {
  const { points, arrive } = setUp(2)
  points.leave()
  await t.rejects(arrive('a'), ENDED)
})

t.test('a point that the main connection does not come to is one too many', async (t) => {
  const MORE = { name: 'FormatError', message: /sync point more than the main connection/ }
  const { points, arrive } = setUp(2)
  const waiting = arrive('a')
  points.close()
  await t.rejects(waiting, MORE)
  const later = setUp(2)
  later.points.close()
  later.points.leave()
  await t.rejects(later.arrive('a'), MORE)
})

t.test('all may leave when nobody waits', async (t) => {
  const { points, seen } = setUp(2)
  points.leave()
  points.leave()
  t.same(seen, [])
})

t.test('a failure reaches who waits, and who comes later', async (t) => {
  const { points, arrive } = setUp(3)
  const waiting = arrive('a')
  points.fail(new Error('the disk is full'))
  await t.rejects(waiting, { message: 'the disk is full' })
  await t.rejects(arrive('b'), { message: 'the disk is full' })
})

t.test('what cannot be put in its place fails all', async (t) => {
  const points = new SyncPoints(
    2,
    async () => {
      throw new Error('no space')
    },
    'vm.sock',
  )
  const both = [points.arrive(), points.arrive()]
  for (const one of both) await t.rejects(one, { message: 'no space' })
})
