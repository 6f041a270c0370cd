// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check'
import t from 'tap'
import { shares } from '../../../daemon/control/budget-shares.js'
import { holds } from '../../helpers/property.js'

const cases = [
  { name: 'one has all', bandwidth: 100, uses: [[0, 0]], given: [100] },
  {
    name: 'new ones get equal parts',
    bandwidth: 100,
    uses: [
      [100, 100],
      [0, 0],
    ],
    given: [50, 50],
  },
  {
    name: 'all that use theirs have equal parts',
    bandwidth: 90,
    uses: [
      [10, 10],
      [70, 66],
      [10, 9],
    ],
    given: [30, 30, 30],
  },
  {
    name: 'who uses less leaves it to the others',
    bandwidth: 100,
    uses: [
      [50, 16],
      [50, 50],
    ],
    given: [20, 80],
  },
  {
    name: 'who uses nothing keeps a little',
    bandwidth: 80,
    uses: [
      [40, 0],
      [40, 40],
    ],
    given: [5, 75],
  },
  {
    name: 'who wants more again gets it',
    bandwidth: 80,
    uses: [
      [5, 5],
      [75, 75],
    ],
    given: [40, 40],
  },
  {
    name: 'what nobody wants is there for all',
    bandwidth: 100,
    uses: [
      [50, 8],
      [50, 16],
    ],
    given: [45, 55],
  },
  {
    name: 'of too little each gets something',
    bandwidth: 1,
    uses: [
      [0, 0],
      [0, 0],
    ],
    given: [1, 1],
  },
]
for (const { name, bandwidth, uses, given } of cases)
  t.test(name, async (t) => {
    t.same(
      shares(
        bandwidth,
        uses.map(([share = 0, used = 0]) => ({ share, used })),
      ),
      given,
    )
  })

t.test('all of it is given, and never more; who wants more gets no less than others', async (t) => {
  const use = fc.record({ share: fc.nat(1000), used: fc.nat(1000) })
  holds(
    t,
    fc.property(
      fc.integer({ min: 1000, max: 1e9 }),
      fc.array(use, { minLength: 1, maxLength: 9 }),
      (bandwidth, uses) => {
        const given = shares(bandwidth, uses)
        const sum = given.reduce((a, b) => a + b, 0)
        const hungry = given.filter((_, index) => (uses[index]?.used ?? 0) >= (uses[index]?.share ?? 0))
        const least = Math.min(...hungry)
        return (
          given.every((share) => share >= 1) &&
          sum <= bandwidth &&
          sum > bandwidth - uses.length - 1 &&
          given.every((share) => share <= least + 1 || hungry.length === 0)
        )
      },
    ),
    500,
  )
})
