// SPDX-License-Identifier: Apache-2.0
// Whose turn it is under a speed limit.

import t from 'tap'
import { Pace } from '../../../daemon/memory/pace.js'

const MIB = 2 ** 20
/** Nobody waits that long: a turn that answers was woken. */
const LONG = 10_000 * MIB

t.test('without a limit everything may move at once', async (t) => {
  const pace = new Pace(0, new AbortController().signal)
  pace.charge(LONG)
  await pace.turn()
  t.equal(pace.piece(MIB), MIB)
  t.notOk(pace.limited)
})

t.test('a stretch is a twentieth of a second long, from the first one on', async (t) => {
  const signal = new AbortController().signal
  t.equal(new Pace(MIB, signal).piece(MIB), Math.floor(MIB / 20))
  t.equal(new Pace(100 * MIB, signal).piece(MIB), MIB, 'never more than asked for')
  t.equal(new Pace(3, signal).piece(MIB), 1, 'never nothing')
})

t.test('a new speed wakes who waits', async (t) => {
  const pace = new Pace(MIB, new AbortController().signal)
  pace.charge(LONG)
  const turn = pace.turn()
  pace.set(0)
  await turn
  await pace.pay(LONG)
  t.pass('woken')
})

t.test('who pays hears of a cancellation, who only waits for the turn goes on', async (t) => {
  const cancel = new AbortController()
  const pace = new Pace(MIB, cancel.signal)
  pace.charge(LONG)
  const [turn, payment] = [pace.turn(), pace.pay(1)]
  cancel.abort()
  await turn
  await t.rejects(payment, { name: 'Cancelled' })
  await t.rejects(pace.pay(1), { name: 'Cancelled' })
})

t.test('a wait that is longer than timers know is one', async (t) => {
  const warnings: string[] = []
  const hear = ({ name }: Error) => void warnings.push(name)
  process.on('warning', hear)
  t.teardown(() => process.off('warning', hear))
  const pace = new Pace(1, new AbortController().signal)
  pace.charge(2 ** 40)
  const turn = pace.turn()
  await new Promise((resolve) => setImmediate(resolve))
  pace.set(0)
  await turn
  t.same(warnings, [])
})
