// SPDX-License-Identifier: Apache-2.0
import t from 'tap'
import { brakeLimit, WriteBrake } from '../../../../daemon/iothread/copy/write-brake.js'

const MIB = 2 ** 20
const least = MIB / 4

const limits = [
  { name: 'as much as leaves a fifth', write: 100, dirty: 100, copy: 50, waiting: 0, limit: 40 },
  { name: 'what is written dirties more', write: 10, dirty: 160, copy: 80, waiting: 0, limit: 4 },
  { name: 'the copy has become faster', write: 40, dirty: 40, copy: 100, waiting: 0, limit: 80 },
  { name: 'nothing is dirtied', write: 0, dirty: 0, copy: 100, waiting: 0, limit: 7 },
  { name: 'nobody waits too long', write: 100, dirty: 100, copy: 10, waiting: 100, limit: 20 },
  { name: 'nothing is copied', write: 100, dirty: 100, copy: 0, waiting: 0, limit: least / MIB },
]
for (const { name, write, dirty, copy, waiting, limit } of limits)
  t.test(`${name}: ${limit} MiB/s`, async (t) => {
    const traffic = {
      ...{ writeRate: write * MIB, dirtyRate: dirty * MIB },
      ...{ copyRate: copy * MIB, waiting: waiting * MIB },
    }
    t.equal(brakeLimit(traffic, 7 * MIB), limit * MIB)
  })

t.test('the limit comes to rest whatever the window saw before', async (t) => {
  let limit = 0
  // A writer of 100 MiB/s, of which the window still holds a part.
  for (const write of [100, 80, 60, 40, 32, 32])
    limit = brakeLimit({ writeRate: write, dirtyRate: 16 * write, copyRate: 640 * MIB, waiting: 0 }, limit)
  t.equal(limit, 32 * MIB)
})

t.test('without a limit nobody waits', async (t) => {
  const brake = new WriteBrake(() => 0)
  t.equal(brake.admit(MIB), undefined)
  t.equal(brake.written, MIB)
})

t.test('changes go in order as time passes, and all of them when the brake is released', async (t) => {
  let now = 1000
  const brake = new WriteBrake(() => now)
  const gone: number[] = []
  const change = async (name: number) => {
    await brake.admit(MIB)
    gone.push(name)
  }
  brake.set(MIB)
  const changes = [1, 2, 3, 4].map(change)
  await changes[0]
  t.same(gone, [1], 'the first is not held up')
  t.equal(brake.waiting, 3 * MIB)
  now += 1000
  brake.set(MIB)
  await changes[1]
  t.same(gone, [1, 2])
  brake.release()
  await Promise.all(changes)
  t.same(gone, [1, 2, 3, 4])
  t.match(brake, { waiting: 0, written: 4 * MIB, limit: 0 })
  t.equal(brake.admit(1), undefined)
})
