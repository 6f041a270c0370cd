// SPDX-License-Identifier: Apache-2.0
// Renewals: one round at a time, and one more for all who asked meanwhile.

import t from 'tap'
import { Renewal } from '../../../daemon/common/renewal.js'

/** Rounds that end when the test says so. */
function rounds() {
  const ends: { readonly resolve: () => void; readonly reject: (error: Error) => void }[] = []
  const renewal = new Renewal(() => new Promise<void>((resolve, reject) => ends.push({ resolve, reject })))
  return { renewal, ends }
}

t.test('many who ask during a round get one more, which begins when that has ended', async (t) => {
  const { renewal, ends } = rounds()
  const first = renewal.ask()
  const others = [renewal.ask(), renewal.ask(), renewal.ask()]
  t.equal(ends.length, 1)
  ends[0]?.resolve()
  await first
  await new Promise(setImmediate)
  t.equal(ends.length, 2)
  const late = renewal.ask()
  ends[1]?.resolve()
  await Promise.all(others)
  await new Promise(setImmediate)
  t.equal(ends.length, 3, 'who asked during the second has a third')
  ends[2]?.resolve()
  await late
})

t.test('who asks again when his round has ended joins the round that others wait for', async (t) => {
  const { renewal, ends } = rounds()
  const first = renewal.ask().then(() => renewal.ask())
  const other = renewal.ask()
  ends[0]?.resolve()
  await new Promise(setImmediate)
  t.equal(ends.length, 2, 'one round is under way')
  ends[1]?.resolve()
  await Promise.all([first, other])
  t.equal(ends.length, 2)
})

t.test('a round that fails is told to who asked for it, and the next one runs all the same', async (t) => {
  const { renewal, ends } = rounds()
  const first = renewal.ask()
  const second = renewal.ask()
  ends[0]?.reject(new Error('no'))
  await t.rejects(first, /no/)
  await new Promise(setImmediate)
  ends[1]?.resolve()
  await second
  t.equal(ends.length, 2)
})

t.test('a round is begun at once when none is under way', async (t) => {
  const { renewal, ends } = rounds()
  for (let round = 0; round < 3; round++) {
    const asked = renewal.ask()
    t.equal(ends.length, round + 1)
    ends[round]?.resolve()
    await asked
  }
})
