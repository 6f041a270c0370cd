// SPDX-License-Identifier: Apache-2.0
// Runs of slots: neighbours that are one buffer.

import { join } from 'node:path'
import t from 'tap'
import { engineFor, KIB, kinds } from './kinds.js'

const EINVAL = -22

for (const { aio, absent } of kinds) {
  t.test(aio, { skip: absent }, async (t) => {
    t.test('takeRun gives neighbours as one buffer, which nobody else gets', async (t) => {
      const engine = engineFor(t, { aio, slotSize: 64 * KIB, maxSlots: 12 })
      const [single = -1] = engine.takeSlots(1)
      const run = engine.takeRun(100 * KIB)
      t.not(run, undefined, 'two slots')
      if (run === undefined) return
      t.equal(engine.stats().slotsInUse, 3)
      t.equal(engine.slotBytes(single).length, 64 * KIB)
      t.equal(engine.slotBytes(run).length, 128 * KIB)
      t.equal(engine.takeRun(6 * 64 * KIB), undefined, 'six of a group are taken, four are in the next')
      const others = engine.takeSlots(100)
      t.equal(others.length, 9)
      t.notOk(others.includes(run) || others.includes(run + 1) || others.includes(single))
      engine.slotBytes(run).fill(7)
      const path = join(t.testdir({ disk: '' }), 'disk')
      const file = await engine.open(path, { write: true })
      t.equal(await engine.write(file, 0, 128 * KIB, run, 0), 128 * KIB)
      t.equal(await engine.write(file, 0, 65 * KIB, single, 0), EINVAL, 'a slot stays as long as it is')
      t.equal(await engine.write(file, 0, 4096, run + 1, 0), EINVAL, 'a run is known by its first slot')
      engine.slotBytes(run).fill(0)
      t.equal(await engine.read(file, 1000, 127 * KIB, run, KIB), 127 * KIB)
      t.ok(
        engine
          .slotBytes(run)
          .subarray(KIB)
          .every((byte) => byte === 7),
      )
      t.throws(() => engine.giveSlots([run + 1]), RangeError)
      engine.giveSlots([run])
      t.equal(engine.takeSlots(100).length, 2)
    })

    t.test('takeRun gives nothing longer than a group', async (t) => {
      const engine = engineFor(t, { aio, slotSize: 64 * KIB, maxSlots: 32 })
      t.equal(engine.takeRun(9 * 64 * KIB), undefined)
      t.equal(engine.takeRun(8 * 64 * KIB), 0)
    })

    t.test('pieces leave what is set apart: single ones all of it, runs half', async (t) => {
      const engine = engineFor(t, { aio, slotSize: 64 * KIB, maxSlots: 24, setApart: 16 })
      const single = () => engine.takePiece(64 * KIB)
      const run = () => engine.takePiece(100 * KIB)
      t.same(Array.from({ length: 9 }, single), [0, 1, 2, 3, 4, 5, 6, 7, undefined])
      t.same([run(), run(), run(), run(), run()], [8, 10, 12, 14, undefined])
      t.equal(engine.takeRun(100 * KIB), 16)
      t.same(engine.takeSlots(100), [18, 19, 20, 21, 22, 23])
    })
  })
}
