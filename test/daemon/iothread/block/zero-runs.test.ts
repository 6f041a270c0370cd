// SPDX-License-Identifier: Apache-2.0
// Runs of zeroes in a buffer: every one of whole units is found, nothing that is not zero is in one, and parts follow each other.

import t from 'tap'
import { unitFor, zeroRuns } from '../../../../daemon/iothread/block/zero-runs.js'
import { newSeed, random } from '../../../helpers/graph.js'
import { engineFor } from '../../../native/kinds.js'

const KiB = 1024

const engine = engineFor(t, { aio: 'threads', maxSlots: 2 })
const [slot = 0] = engine.takeSlots(1)
const bytes = engine.slotBytes(slot)

t.test('units of the target', (t) => {
  t.equal(unitFor(undefined), 64 * KiB)
  t.equal(unitFor(1), 64 * KiB)
  t.equal(unitFor(512), 4 * KiB)
  t.equal(unitFor(16 * KiB), 16 * KiB)
  t.equal(unitFor(2048 * KiB), 2048 * KiB)
  t.equal(unitFor(undefined, 512), 4 * KiB)
  t.equal(unitFor(1, 4 * KiB), 4 * KiB)
  t.equal(unitFor(1, 12 * KiB), 8 * KiB)
  t.equal(unitFor(16 * KiB, 4 * KiB), 16 * KiB)
  t.equal(unitFor(16 * KiB, 256 * KiB), 256 * KiB)
  t.end()
})

t.test('random buffers at random places', (t) => {
  const seed = newSeed()
  const pick = random(seed)
  for (let round = 0; round < 60; round++) {
    const unit = [4, 16, 64, 256][pick(4)]! * KiB
    const grain = 512
    const length = (1 + pick(1024)) * grain
    const begin = pick(Math.floor((engine.slotSize - length) / grain)) * grain
    const offset = pick(4096) * grain
    const content = bytes.subarray(begin, begin + length).fill(7)
    for (let hole = 0; hole < 4; hole++) {
      const from = pick(length / grain) * grain
      content.fill(0, from, from + pick(3 * unit))
    }
    const runs = zeroRuns(engine, offset, { slot, offset: begin, length }, unit)
    const name = `seed ${seed}, round ${round}`
    const expected: boolean[] = []
    for (let at = offset; at < offset + length; at += grain) {
      const start = Math.floor(at / unit) * unit
      const whole = start >= offset && start + unit <= offset + length
      expected.push(
        whole && content.subarray(start - offset, start - offset + unit).every((byte) => byte === 0),
      )
    }
    const found = runs.flatMap((run) => Array.from({ length: run.length / grain }, () => run.zero))
    t.same(found, expected, name)
    t.ok(
      runs.every((run, index) => run.length > 0 && run.zero !== runs[index - 1]?.zero),
      name,
    )
    t.equal(runs[0]?.offset, offset, name)
  }
  t.end()
})
