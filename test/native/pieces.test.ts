// SPDX-License-Identifier: Apache-2.0
// Reads and writes of many pieces at once: the same as one by one, in whatever order they lie in the file.

import { join } from 'node:path'
import t from 'tap'
import type { IoEngine, Range } from '../../native/types.js'
import { READ_ZERO } from '../../native/types.js'
import { difference, engineFor, get, KIB, kinds, MIB, pattern, put, random, takeSlot } from './kinds.js'

const EINVAL = -22
const EIO = -5
const EBADF = -9
const ECANCELED = -125
const UNIT = 4 * KIB

/** Ranges of a file of 2 MiB that do not overlap: many of them neighbours, in no order, some with odd ends. */
function scattered(below: (limit: number) => number, odd: boolean): Range[] {
  const units = Array.from({ length: 2 * (MIB / UNIT) }, (_, index) => index)
  const taken = Array.from({ length: 1 + below(60) }, () => units.splice(below(units.length), 1 + below(3)))
  return taken.flat().map((unit) => {
    const cut = odd && below(4) === 0 ? 1 + below(UNIT - 1) : 0
    return { offset: unit * UNIT, length: UNIT - cut }
  })
}

function total(pieces: readonly Range[]): number {
  return pieces.reduce((sum, { length }) => sum + length, 0)
}

for (const { aio, absent } of kinds) {
  t.test(aio, { skip: absent }, async (t) => {
    for (const [direct, odd] of [
      [true, false],
      [true, true],
      [false, true],
    ] as const) {
      const how = `${direct ? 'directly' : 'through the cache'}${odd ? ', with odd ends' : ''}`
      t.test(`pieces written ${how} are where they belong, and are read back`, async (t) => {
        const seed = Number(process.env.TEST_SEED ?? Math.floor(Math.random() * 2 ** 31))
        t.comment(`TEST_SEED=${seed}`)
        const below = random(seed)
        const engine = engineFor(t, { aio })
        const file = await engine.open(join(t.testdir(), 'disk.img'), { write: true, create: true, direct })
        const model = pattern(2 * MIB, 1)
        await put(engine, file, 0, model)
        const slot = takeSlot(engine)
        for (let round = 0; round < 40; round++) {
          const pieces = scattered(below, odd)
          const start = below(2) * 512
          const bytes = engine.slotBytes(slot).subarray(start, start + total(pieces))
          bytes.set(pattern(bytes.length, round + 2))
          let at = 0
          for (const { offset, length } of pieces) {
            model.set(bytes.subarray(at, at + length), offset)
            at += length
          }
          const atOnce = 1 + below(10)
          t.equal(await engine.writePieces(file, pieces, slot, start, atOnce), bytes.length)
          t.equal(difference(await get(engine, file, 0, 2 * MIB), model), undefined, `round ${round}`)
          bytes.fill(0)
          t.equal(await engine.readPieces(file, pieces, slot, start, atOnce), bytes.length)
          t.equal(difference(bytes, pattern(bytes.length, round + 2)), undefined, `round ${round}, read`)
        }
      })
    }

    t.test('a scanned read says whether all pieces are zero', async (t) => {
      const engine = engineFor(t, { aio })
      const file = await engine.open(join(t.testdir(), 'disk.img'), {
        write: true,
        create: true,
        direct: true,
      })
      await engine.truncate(file, 2 * MIB)
      await put(engine, file, MIB, pattern(512))
      const slot = takeSlot(engine)
      const read = (pieces: Range[]) => engine.readPieces(file, pieces, slot, 0, 8, { scan: true })
      const length = 64 * KIB
      const zeroes = [0, 3 * length, length].map((offset) => ({ offset, length }))
      t.equal(await read(zeroes), 3 * length + READ_ZERO)
      t.equal(await read([...zeroes, { offset: MIB, length }]), 4 * length)
      t.equal(await read([{ offset: MIB - length, length: 2 * length }]), 2 * length, 'in one piece')
    })

    t.test('a piece that is not all there is an error that names it', async (t) => {
      const engine = engineFor(t, { aio })
      const file = await engine.open(join(t.testdir(), 'disk.img'), {
        write: true,
        create: true,
        direct: true,
      })
      await engine.truncate(file, MIB + 512)
      const slot = takeSlot(engine)
      const pieces = [MIB, 0, 8 * KIB].map((offset) => ({ offset, length: 4 * KIB }))
      t.same(await engine.readPieces(file, pieces, slot, 0, 8), { result: EIO, piece: 0 })
      const run = [0, MIB, MIB - 4 * KIB].map((offset) => ({ offset, length: 4 * KIB }))
      t.same(await engine.readPieces(file, run, slot, 0, 8), { result: EIO, piece: 2 }, 'the run it is in')
    })

    t.test('what cannot be written is an error that names a piece', async (t) => {
      const engine = engineFor(t, { aio })
      const file = await engine.open(join(t.testdir({ disk: 'x' }), 'disk'), { write: false })
      const slot = takeSlot(engine)
      const pieces = Array.from({ length: 30 }, (_, index) => ({ offset: index * MIB, length: 512 }))
      t.same(await engine.writePieces(file, pieces, slot, 0, 1), { result: EBADF, piece: 0 })
    })

    t.test('pieces that do not fit the slot, or none, are refused', async (t) => {
      const engine = engineFor(t, { aio })
      const file = await engine.open(join(t.testdir({ disk: 'x' }), 'disk'), { write: true })
      const slot = takeSlot(engine)
      const half = { offset: 0, length: engine.slotSize / 2 }
      for (const [what, pieces, at] of [
        ['none', [], 0],
        ['too long together', [half, half, half], 0],
        ['too far in the slot', [half, half], 1],
        ['a negative offset', [{ offset: -512, length: 512 }], 0],
        ['a length that is no number', [{ offset: 0, length: Number.NaN }], 0],
      ] as [string, Range[], number][]) {
        t.same(await engine.writePieces(file, pieces, slot, at, 8), { result: EINVAL, piece: 0 }, what)
      }
      engine.giveSlots([slot])
      t.same(
        await engine.readPieces(file, [half], slot, 0, 8),
        { result: EINVAL, piece: 0 },
        'a slot not taken',
      )
      t.same(await engine.readPieces(file + 1, [half], takeSlot(engine), 0, 8), { result: EBADF, piece: 0 })
    })

    t.test('close waits for all pieces, and an engine that ends does not', async (t) => {
      const engine = engineFor(t, { aio })
      const file = await engine.open(join(t.testdir(), 'disk.img'), {
        write: true,
        create: true,
        direct: true,
      })
      await engine.truncate(file, 64 * MIB)
      const slot = takeSlot(engine)
      const pieces = Array.from({ length: 200 }, (_, index) => ({ offset: 3 * index * UNIT, length: UNIT }))
      const written = engine.writePieces(file, pieces, slot, 0, 4)
      const closed = engine.close(file)
      t.same(await Promise.all([written, closed]), [200 * UNIT, 0])
      t.equal(engine.stats().bytes, 0)
      t.ok(await leavesBehind(engine, join(t.testdirName, 'disk.img')))
    })
  })
}

/** Ends the engine while pieces are under way: they end, or are told that they were left. */
async function leavesBehind(engine: IoEngine, path: string): Promise<boolean> {
  const file = await engine.open(path, { write: true, direct: true })
  const slot = takeSlot(engine)
  const pieces = Array.from({ length: 200 }, (_, index) => ({ offset: 3 * index * UNIT, length: UNIT }))
  const written = engine.writePieces(file, pieces, slot, 0, 4)
  await engine.shutdown(0)
  const result = await written
  return typeof result === 'number' || result.result === ECANCELED
}
