// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { NO_LIMITS, type ThrottleLimits } from '../../../../daemon/common/throttle-limits.js'
import { type Direction, ThrottleState } from '../../../../daemon/iothread/block/throttle-state.js'
import { holds } from '../../../helpers/property.js'

const bucket = (rate: number, burst = 0, burstSeconds = 1) => ({ rate, burst, burstSeconds })

/** Requests of one size as fast as they may go. @returns how many went in each second */
function flow(
  limits: Partial<ThrottleLimits>,
  seconds: number,
  bytes: number,
  direction: Direction,
): number[] {
  let now = 5000
  const state = new ThrottleState({ ...NO_LIMITS, ...limits }, now)
  const went: number[] = new Array(seconds).fill(0)
  for (;;) {
    const waitMs = state.waitMs(direction, now)
    // In steps that a clock has: what is left of a rounding is no time.
    now += Math.ceil(waitMs)
    const second = Math.floor((now - 5000) / 1000)
    if (second >= seconds) return went
    if (waitMs > 0) continue
    state.account(direction, bytes)
    went[second] = (went[second] ?? 0) + 1
  }
}

/** The first request goes into an empty bucket, and one more into what is not full: two requests above what is said. */
const about = (t: Test, found: readonly number[], wanted: readonly number[]) => {
  t.ok(
    found.length === wanted.length &&
      found.every((count, index) => Math.abs(count - (wanted[index] ?? 0)) <= 2),
    `${found} are about ${wanted}`,
  )
}

const flows = [
  // A tenth of a second's worth goes at once.
  { name: 'a rate of requests', limits: { iopsTotal: bucket(100) }, wanted: [110, 100, 100, 100] },
  { name: 'a rate of bytes', limits: { bpsWrite: bucket(4096 * 50) }, wanted: [55, 50, 50] },
  {
    name: 'the lesser of two',
    limits: { bpsWrite: bucket(4096 * 50), iopsWrite: bucket(20) },
    wanted: [22, 20],
  },
  {
    name: 'limits of reads do not hold up writes',
    limits: { iopsRead: bucket(1), iopsTotal: bucket(50) },
    wanted: [55],
  },
  // All of the burst at once, as its bucket has room for it.
  { name: 'a burst of a second', limits: { iopsTotal: bucket(100, 500) }, wanted: [600, 100, 100] },
  // 2000 × 2 fill the bucket, from which 100 a second leak.
  {
    name: 'a burst of some seconds keeps its rate',
    limits: { iopsTotal: bucket(100, 1000, 3) },
    wanted: [1100, 1000, 1000, 300, 100],
  },
  {
    name: 'twice the size counts twice',
    limits: { iopsTotal: bucket(100), iopsSize: 2048 },
    wanted: [55, 50],
  },
  {
    name: 'and a part of it as a part',
    limits: { iopsTotal: bucket(100), iopsSize: 3072 },
    wanted: [83, 75],
  },
  {
    name: 'what is shorter counts as one',
    limits: { iopsTotal: bucket(100), iopsSize: 1e6 },
    wanted: [110, 100],
  },
]
for (const { name, limits, wanted } of flows)
  t.test(name, async (t) => about(t, flow(limits, wanted.length, 4096, 'write'), wanted))

t.test('a bucket that leaked lets bursts through again', async (t) => {
  const state = new ThrottleState({ ...NO_LIMITS, iopsTotal: bucket(10, 100) }, 0)
  const atOnce = (now: number) => {
    let count = 0
    for (; state.waitMs('read', now) === 0; count++) state.account('read', 1)
    return count
  }
  t.equal(atOnce(0), 101)
  t.equal(atOnce(0), 0)
  t.equal(atOnce(3000), 30)
  t.equal(atOnce(60_000), 101)
})

t.test('reads and writes share what is total, and nothing else', async (t) => {
  const state = new ThrottleState({ ...NO_LIMITS, bpsTotal: bucket(1000), iopsRead: bucket(10) }, 0)
  state.account('read', 2000)
  t.equal(state.waitMs('write', 0), 1900)
  t.equal(state.waitMs('write', 1900), 0)
  state.account('write', 1)
  state.account('read', 0)
  t.equal(state.waitMs('write', 2000), 0)
})

t.test('no more goes in any time than the rate and what the bucket holds', async (t) => {
  const number = (max: number) => fc.integer({ min: 1, max })
  const limits = fc.record({ rate: number(1000), times: number(20), burstSeconds: number(10) })
  const requests = fc.array(fc.record({ after: fc.nat(5000), bytes: number(100) }), { minLength: 1 })
  holds(
    t,
    fc.property(limits, requests, ({ rate, times, burstSeconds }, all) => {
      const burst = rate * times
      const state = new ThrottleState({ ...NO_LIMITS, bpsTotal: { rate, burst, burstSeconds } }, 0)
      let [now, sum] = [0, 0]
      for (const { after, bytes } of all) {
        now += after
        now += state.waitMs('read', now)
        now += state.waitMs('read', now)
        state.account('read', bytes)
        sum += bytes
        if (sum > burst * burstSeconds + (rate * now) / 1000 + bytes + 1e-6) return false
      }
      return true
    }),
    200,
  )
})
