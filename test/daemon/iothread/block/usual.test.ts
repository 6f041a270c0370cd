// SPDX-License-Identifier: Apache-2.0
import t from 'tap'
import { Usual, UsualTimes } from '../../../../daemon/iothread/block/usual.js'

function usualOf(...times: readonly number[]): Usual {
  const usual = new Usual()
  for (const ms of times) usual.add(ms)
  return usual
}

const judged = [
  { name: 'as long as usual', calm: [2, 2, 2], ms: 2, as: 'fine' },
  { name: 'not much longer', calm: [2, 2, 2], ms: 3.5, as: 'fine' },
  { name: 'longer', calm: [2, 2, 2], ms: 3.6, as: 'late' },
  { name: 'much longer, and not long', calm: [2, 2, 2], ms: 50, as: 'late' },
  { name: 'long', calm: [2, 2, 2], ms: 51, as: 'stalled' },
  { name: 'long, as some are anyway', calm: [2, 2, 40], ms: 60, as: 'late' },
  { name: 'longer than any', calm: [2, 2, 40], ms: 71, as: 'stalled' },
  { name: 'the median of the last counts', calm: [2, 3, 50], ms: 5, as: 'fine' },
  { name: 'nothing is known', calm: [], ms: 50, as: undefined },
  { name: 'nothing is known, and long', calm: [], ms: 51, as: 'stalled' },
] as const
for (const { name, calm, ms, as } of judged)
  t.test(`${ms} ms where ${calm.join(', ')} are usual: ${name}`, async (t) => {
    t.equal(usualOf(...calm).judge(ms), as)
  })

t.test('how many are late anyway is known, of the last 32', async (t) => {
  t.equal(usualOf().lateShare, 0)
  t.equal(usualOf(2, 2, 2, 8).lateShare, 0.25)
  const usual = usualOf(...Array<number>(24).fill(2), ...Array<number>(8).fill(9))
  t.equal(usual.lateShare, 0.25)
  for (let times = 0; times < 32; times++) usual.add(5)
  t.equal(usual.lateShare, 0)
  t.equal(usual.judge(8), 'fine')
})

t.test('kinds and lengths have times of their own', async (t) => {
  const times = new UsualTimes()
  t.equal(times.of('write', 1), times.of('write', 16384))
  const others = [
    times.of('write', 16384),
    times.of('write', 16385),
    times.of('write', 2 ** 25),
    times.of('read', 16384),
    times.of('durable-write', 16384),
    times.of('flush', 0),
  ]
  t.equal(new Set(others).size, others.length)
})
