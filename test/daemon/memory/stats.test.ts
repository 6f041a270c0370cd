// SPDX-License-Identifier: Apache-2.0
// What query-migrate is told: phases by the clock, counts from all who read.

import t from 'tap'
import { Stats } from '../../../daemon/memory/stats.js'
import { TimeClasses } from '../../../daemon/memory/time-classes.js'
import { WaitMeter } from '../../../daemon/memory/wait-meter.js'

const head = {
  configuration: { machine: 'pc-q35-10.0' },
  pageSize: 4096,
  section: 2,
  blocks: [
    { name: 'pc.ram', length: 8192 },
    { name: 'vga', length: 4096 },
  ],
  syncPerWalk: false,
} as never

t.test('the time of a transfer is the sum of its phases, and the flush has an age', async (t) => {
  let now = 100
  const stats = new Stats(new WaitMeter(() => now), () => now)
  now += 5
  stats.begun(head)
  now += 70
  stats.pagesDone()
  now += 3
  stats.enter('flush')
  now += 20
  t.same(stats.report().phases, { setup: 5, pages: 70, tail: 3, flush: 20 })
  t.equal(stats.report().flushing, 20)
  stats.stop()
  now += 1000
  t.same(stats.report().phases, { setup: 5, pages: 70, tail: 3, flush: 20 })
  t.equal(stats.report().flushing, undefined)
})

t.test('pages of all who read are counted, and those sent again are not remaining', async (t) => {
  const stats = new Stats(new WaitMeter(() => 0), () => 0)
  t.same(stats.report().remaining, 0)
  stats.begun(head)
  stats.bytes(() => 100)
  stats.bytes(() => 20)
  stats.count(() => ({ normal: 1, zero: 0, walks: 1 }))
  t.match(stats.report(), { transferred: 120, normal: 1, duplicate: 0, remaining: 8192, passes: 1 })
  stats.count(() => ({ normal: 4, zero: 1, walks: 3 }))
  t.match(stats.report(), { normal: 5, duplicate: 1, remaining: 0, passes: 3 })
  t.same(stats.progress(), { offset: 6 * 4096, len: 6 * 4096 })
  stats.shared(10, 4)
  t.match(stats.report(), { normal: 9, duplicate: 7 })
})

t.test('iterations are the times between the beginnings of parts', async (t) => {
  let now = 0
  const stats = new Stats(new WaitMeter(() => now), () => now)
  stats.iteration()
  for (const ms of [1, 60, 2000]) {
    now += ms
    stats.iteration()
  }
  const { iterations, longestIteration } = stats.report()
  t.same(
    iterations.filter(({ count }) => count > 0),
    [
      { upTo: 1, count: 1 },
      { upTo: 100, count: 1 },
      { upTo: undefined, count: 1 },
    ],
  )
  t.equal(longestIteration, 2000)
})

t.test('a wait is counted once for each connection', async (t) => {
  let now = 0
  const meter = new WaitMeter(() => now)
  const [one, other] = [{}, {}]
  meter.begin(one)
  meter.begin(one)
  now += 10
  meter.begin(other)
  now += 5
  meter.end(one)
  meter.end(one)
  meter.end(other)
  t.equal(meter.times.longest, 15)
  t.same(
    meter.times.list().filter(({ count }) => count > 0),
    [
      { upTo: 5, count: 1 },
      { upTo: 20, count: 1 },
    ],
  )
})

t.test('a class holds what is up to its bound', async (t) => {
  const classes = new TimeClasses()
  for (const ms of [0, 1, 1.01, 1000, 1000.5]) classes.add(ms)
  const found = classes.list().filter(({ count }) => count > 0)
  t.same(found, [
    { upTo: 1, count: 2 },
    { upTo: 2, count: 1 },
    { upTo: 1000, count: 1 },
    { upTo: undefined, count: 1 },
  ])
})
