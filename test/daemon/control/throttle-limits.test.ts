// SPDX-License-Identifier: Apache-2.0
// What is refused, and in which words, was asked of qemu-storage-daemon 10.0.13.
import t from 'tap'
import {
  changedLimits,
  definedLimits,
  type GroupOptions,
  LIMIT_DEFAULTS,
  workerLimits,
} from '../../../daemon/control/throttle-limits.js'

const range = 'bps/iops/max values must be within [0, 1000000000000000]'
const both = 'bps/iops/max total values and read/write values cannot be used at the same time'
const length = 'bps-total-max-length value must be in the range [0, 4294967295]'
const tooHigh = 'burst length too high for this burst rate'
const requires = 'bps_max/iops_max require corresponding bps/iops values'

const refused: readonly (readonly [GroupOptions, string])[] = [
  [{ 'bps-total-max': 5 }, requires],
  [{ 'bps-total': 10, 'bps-total-max': 5 }, 'bps_max/iops_max cannot be lower than bps/iops'],
  [{ 'bps-total': 10, 'bps-total-max-length': 5 }, 'burst length set without burst rate'],
  [{ 'bps-total': 10, 'bps-total-max': 20, 'bps-total-max-length': 0 }, 'the burst length cannot be 0'],
  [{ 'bps-total': 10, 'bps-total-max': 20, 'bps-total-max-length': 5e9 }, length],
  [{ 'bps-total': 10, 'bps-total-max': 20, 'bps-total-max-length': -1 }, length],
  [{ 'bps-total': 1e15, 'bps-total-max': 1e15, 'bps-total-max-length': 2 }, tooHigh],
  [{ 'bps-total': 1e15 + 1 }, range],
  [{ 'iops-total-max': -4 }, range],
  [{ 'iops-size': 4096 }, 'iops size requires an iops value to be set'],
  [{ 'iops-size': 4096, 'bps-total': 3 }, 'iops size requires an iops value to be set'],
  [{ 'iops-size': -1, 'iops-read': 3 }, range],
  [{ 'bps-total': 1, 'bps-read': 2 }, both],
  [{ 'bps-total': 1, 'bps-total-max': 2, 'bps-read-max': 2 }, both],
  [{ 'bps-total': 1, 'bps-read-max': 2 }, requires],
  [{ 'iops-total-max-length': 0 }, 'the burst length cannot be 0'],
]
for (const [limits, message] of refused)
  t.test(`${JSON.stringify(limits)} is refused`, async (t) => {
    t.throws(() => changedLimits(LIMIT_DEFAULTS, limits), { message })
  })

t.test('what is left out stays, and is checked with what is new', async (t) => {
  const limits = changedLimits(LIMIT_DEFAULTS, { 'bps-total': 10 })
  t.same(changedLimits(limits, { 'iops-read': 3 }), { ...LIMIT_DEFAULTS, 'bps-total': 10, 'iops-read': 3 })
  t.throws(() => changedLimits(limits, { 'bps-read': 3 }), { message: both })
})

t.test('a group has members of its own for all limits, which come over those together', async (t) => {
  const group = { 'qom-type': 'throttle-group', id: 'g' } as const
  t.match(definedLimits({ ...group, 'x-bps-total': 10, limits: { 'bps-total': 7 } }), { 'bps-total': 10 })
  for (const [more, message] of [
    [{ 'x-bps-total': -1 }, 'Property values cannot be negative'],
    [{ 'x-iops-size': -5 }, 'Property values cannot be negative'],
    [{ 'x-iops-size': 5 }, 'iops size requires an iops value to be set'],
    [{ 'x-bps-total-max-length': 0 }, 'the burst length cannot be 0'],
    [{ 'x-bps-total-max-length': 5 }, 'burst length set without burst rate'],
    [{ 'x-bps-total-max-length': 5e9 }, length],
  ] as const)
    t.throws(() => definedLimits({ ...group, ...more }), { message })
})

t.test('workers are told all of them', async (t) => {
  const limits = {
    'bps-read': 10,
    'bps-read-max': 20,
    'bps-read-max-length': 3,
    'iops-total': 5,
    'iops-size': 512,
  }
  const none = { rate: 0, burst: 0, burstSeconds: 1 }
  t.same(workerLimits(changedLimits(LIMIT_DEFAULTS, limits)), {
    ...{ bpsTotal: none, bpsRead: { rate: 10, burst: 20, burstSeconds: 3 }, bpsWrite: none },
    ...{ iopsTotal: { ...none, rate: 5 }, iopsRead: none, iopsWrite: none, iopsSize: 512 },
  })
})
