// SPDX-License-Identifier: Apache-2.0
// Buffers of jobs when they are scarce: who needs neighbours gets them, however busy the others are.

import t, { type Test } from 'tap'
import { DriverBuffers } from '../../../../daemon/iothread/block/driver-buffers.js'
import { Buffers } from '../../../../daemon/iothread/copy/buffers.js'
import { createEngine } from '../../../../native/engine.js'
import { newSeed, random } from '../../../helpers/graph.js'
import { turn } from '../../../helpers/graph-jobs.js'

const MiB = 2 ** 20

function scarce(t: Test) {
  const engine = createEngine({ aio: 'threads', slotSize: MiB, maxSlots: 64, setApart: 32 })
  t.teardown(() => engine.shutdown(5000))
  const buffers = new Buffers(engine)
  const held: number[] = []
  const takeAll = () => {
    for (let slot = buffers.take(); slot !== undefined; slot = buffers.take()) held.push(slot)
  }
  takeAll()
  return { engine, buffers, held, takeAll }
}

t.test(
  'who waits for a run gets it, though each single slot is taken as soon as it is given back',
  async (t) => {
    const { buffers, held, takeAll } = scarce(t)
    const seed = newSeed()
    const pick = random(seed)
    const got: number[] = []
    for (let count = 0; count < 3; count++) void buffers.acquire(2 * MiB).then((run) => got.push(run))
    for (let round = 0; round < 100 && got.length < 3; round++) {
      const [slot] = held.splice(pick(held.length), 1)
      if (slot !== undefined) buffers.give(slot)
      takeAll()
      await turn()
    }
    t.equal(got.length, 3, `seed ${seed}`)
  },
)

t.test('runs that take turns all get one', async (t) => {
  const { buffers } = scarce(t)
  const turns = Array<number>(4).fill(0)
  const enough = () => turns.every((each) => each >= 20)
  const job = async (index: number) => {
    while (!enough()) {
      const runs = await Promise.all([buffers.acquire(2 * MiB), buffers.acquire(2 * MiB)])
      await turn()
      for (const run of runs) buffers.give(run)
      turns[index]! += 1
      if (turns[index]! > 10_000) throw new Error('the others starve')
    }
  }
  await Promise.all(turns.map((_, index) => job(index)))
  t.ok(enough())
})

t.test(
  'a format gets its buffers while jobs hold all they may, and what they leave is scattered',
  async (t) => {
    const { engine, buffers, held } = scarce(t)
    for (const slot of held.filter((_, index) => index % 2 === 1)) buffers.give(slot)
    const formats = new DriverBuffers(engine)
    t.equal(engine.slotBytes(formats.zeroes.slot).length, MiB)
    formats.giveBack()
  },
)

for (const length of [MiB, 2 * MiB])
  t.test(`jobs that give nothing back leave some to the next, ${length / MiB} MiB at a time`, async (t) => {
    const engine = createEngine({ aio: 'threads', slotSize: MiB, maxSlots: 64, setApart: 32 })
    t.teardown(() => engine.shutdown(5000))
    const shared = new Buffers(engine)
    const taken: number[] = []
    for (let job = 0; job < 4; job++) {
      const own = shared.share()
      let count = 0
      while (own.take(length) !== undefined) count += 1
      taken.push(count)
    }
    t.same(taken, length === MiB ? [16, 8, 4, 2] : [12, 6, 3, 2])
  })

t.test('what a job gives back it may take again', async (t) => {
  const engine = createEngine({ aio: 'threads', slotSize: MiB, maxSlots: 8 })
  t.teardown(() => engine.shutdown(5000))
  const own = new Buffers(engine).share()
  const held: number[] = []
  for (let slot = own.take(); slot !== undefined; slot = own.take()) held.push(slot)
  t.equal(held.length, 4)
  for (const slot of held.splice(0, 2)) own.give(slot)
  t.not(own.take(2 * MiB), undefined)
  t.equal(own.take(), undefined)
})

t.test('a job hears of what others than jobs give back', async (t) => {
  const { engine, buffers, held } = scarce(t)
  const waiting = buffers.acquire()
  const [slot = -1] = held
  engine.giveSlots([slot])
  t.equal(await waiting, slot)
})
