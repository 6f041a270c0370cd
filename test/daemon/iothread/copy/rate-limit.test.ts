// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import t from 'tap'
import { RateLimit } from '../../../../daemon/iothread/copy/rate-limit.js'

const MIB = 2 ** 20

t.test('the first piece is never held up, the second pays for it', async (t) => {
  let now = 5000
  const limit = new RateLimit(MIB, () => now)
  t.equal(limit.wait(), 0)
  limit.charge(MIB)
  t.equal(limit.wait(), 1000)
  now += 999
  t.equal(limit.wait(), 1)
  now += 1
  t.equal(limit.wait(), 0)
})

t.test('no speed is no limit', async (t) => {
  const limit = new RateLimit(0, () => 0)
  limit.charge(2 ** 50)
  t.equal(limit.wait(), 0)
})

t.test('a debt is paid at the new speed', async (t) => {
  const limit = new RateLimit(MIB, () => 0)
  limit.charge(MIB)
  limit.set(4 * MIB)
  t.equal(limit.wait(), 250)
  limit.set(0)
  t.equal(limit.wait(), 0)
})

t.test('after the first piece they are a twentieth of a second long', async (t) => {
  const limit = new RateLimit(10 * MIB, () => 1)
  t.equal(limit.piece(65536, MIB), MIB)
  limit.charge(MIB)
  t.equal(limit.piece(65536, MIB), 8 * 65536)
  limit.set(1)
  t.equal(limit.piece(65536, MIB), 65536, 'never below the granularity')
})

t.test('who always comes a little late still gets the whole speed', async (t) => {
  let now = 0
  let passed = 0
  const limit = new RateLimit(100 * MIB, () => now)
  while (now < 10_000) {
    const piece = limit.piece(65536, MIB)
    limit.charge(piece)
    passed += piece
    now += limit.wait() + 1.3
  }
  t.ok(passed > 0.99 * 1000 * MIB, `${passed} bytes in 10 s`)
})

t.test(
  'over any time no more than speed x time passes, plus one piece and what a tenth of a second allows',
  async (t) => {
    t.doesNotThrow(() =>
      fc.assert(
        fc.property(
          fc.integer({ min: 1, max: 1e9 }),
          fc.array(
            fc.record({ sleep: fc.integer({ min: 0, max: 500 }), bytes: fc.integer({ min: 1, max: MIB }) }),
          ),
          (speed, steps) => {
            let now = 1
            let passed = 0
            const limit = new RateLimit(speed, () => now)
            for (const { sleep, bytes } of steps) {
              now += sleep
              if (limit.wait() > 0) continue
              limit.charge(bytes)
              passed += bytes
            }
            return passed <= (speed * (now - 1 + 100)) / 1000 + MIB
          },
        ),
      ),
    )
  },
)

t.test('of a speed and a share the lesser holds, and 0 is neither', async (t) => {
  const limit = new RateLimit(0, () => 0)
  const held: number[] = []
  for (const [speed, share] of [
    [0, 0],
    [0, 4],
    [2, 4],
    [8, 4],
    [8, 0],
  ] as const) {
    limit.set(speed * MIB)
    limit.setShare(share * MIB)
    held.push(limit.speed / MIB)
  }
  t.same(held, [0, 4, 2, 4, 8])
})

t.test('what is charged is counted, without a limit too', async (t) => {
  const limit = new RateLimit(0, () => 0)
  limit.charge(5)
  limit.setShare(10)
  limit.charge(7)
  t.equal(limit.charged, 12)
})
