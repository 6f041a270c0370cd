// SPDX-License-Identifier: Apache-2.0
// Random reads, writes and zeroes of odd ranges, several at once, against a plain array.

import { join } from 'node:path'
import t from 'tap'
import type { IoEngine } from '../../native/types.js'
import { difference, engineFor, get, KIB, kinds, MIB, random, takeSlot } from './kinds.js'

const SIZE = 2 * MIB
const LANES = 8
const LANE = SIZE / LANES

for (const { aio, absent } of kinds) {
  for (const direct of [true, false]) {
    const title = `${aio}, ${direct ? 'direct' : 'cached'}: a file behaves like an array`
    t.test(title, { skip: absent }, async (t) => {
      const seed = Number(process.env.TEST_SEED ?? Math.floor(Math.random() * 2 ** 31))
      t.comment(`TEST_SEED=${seed}`)
      const engine = engineFor(t, { aio, slotSize: 64 * KIB })
      const file = await engine.open(join(t.testdir(), 'disk.img'), { write: true, create: true, direct })
      await engine.truncate(file, SIZE)
      const model = new Uint8Array(SIZE)
      // Each lane works on bytes of its own; lanes meet in the blocks at their borders.
      const lanes = Array.from({ length: LANES }, (_, index) =>
        play(engine, file, model, index * LANE + (index % 2) * 77, LANE - 100, random(seed + index)),
      )
      for (const problem of await Promise.all(lanes)) t.equal(problem, undefined)
      t.equal(difference(await get(engine, file, 0, SIZE), model), undefined, 'the whole file')
    })
  }
}

/** A hundred operations within a range; what went wrong first, if anything. */
async function play(
  engine: IoEngine,
  file: number,
  model: Uint8Array,
  start: number,
  span: number,
  below: (limit: number) => number,
): Promise<string | undefined> {
  const slot = takeSlot(engine)
  for (let round = 0; round < 100; round++) {
    const length = 1 + below(below(2) === 0 ? 700 : 60 * KIB)
    const offset = start + below(span - length)
    const slotOffset = below(3) === 0 ? below(4 * KIB) : 0
    const bytes = engine.slotBytes(slot).subarray(slotOffset, slotOffset + length)
    const what = `round ${round} at ${offset}+${length}`
    switch (below(4)) {
      case 0: {
        const rung = await engine.zero(file, offset, length, { unmap: below(2) === 0, fast: false })
        if (rung < 0) return `${what}: zero ${rung}`
        model.fill(0, offset, offset + length)
        break
      }
      case 1: {
        const result = await engine.read(file, offset, length, slot, slotOffset)
        const problem = difference(bytes, model.subarray(offset, offset + length))
        if (result !== length || problem !== undefined) return `${what}: read ${result}, ${problem}`
        break
      }
      default: {
        for (let index = 0; index < length; index++) bytes[index] = below(256)
        const result = await engine.write(file, offset, length, slot, slotOffset)
        if (result !== length) return `${what}: write ${result}`
        model.set(bytes, offset)
      }
    }
  }
  return undefined
}
