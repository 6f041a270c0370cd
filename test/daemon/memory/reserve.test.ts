// SPDX-License-Identifier: Apache-2.0
// Storage reserved ahead: in whole windows, once, and given back where no page came.

import { statSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Reserve, type ReservedBlock } from '../../../daemon/memory/reserve.js'
import { createEngine } from '../../../native/engine.js'
import type { IoEngine } from '../../../native/types.js'
import { setPage } from '../../../protocol/migration/mapped-bitmap.js'

const MIB = 2 ** 20
const PAGE = 4096

/** A file, an engine that counts its calls, and a block of so many bytes at 1 MiB. */
async function setUp(t: Test, length: number, able = true) {
  const engine = createEngine({ aio: 'threads', slotSize: MIB, maxSlots: 1 })
  t.teardown(() => engine.shutdown(5000))
  const path = join(t.testdir({}), 'image')
  const file = await engine.open(path, { write: true, create: true })
  await engine.truncate(file, MIB + length)
  const calls: [string, number, number][] = []
  const counting: IoEngine = Object.create(engine, {
    allocate: {
      value: (id: number, offset: number, size: number) => {
        calls.push(['allocate', offset / MIB, size / MIB])
        return engine.allocate(id, offset, size)
      },
    },
    discard: {
      value: (id: number, offset: number, size: number) => {
        calls.push(['discard', offset / MIB, size / MIB])
        return engine.discard(id, offset, size)
      },
    },
  })
  const block: ReservedBlock = { place: MIB, length, bitmap: new Uint8Array(length / PAGE / 8) }
  const set = (offset: number, size: number) => {
    for (let at = offset; at < offset + size; at += PAGE) setPage(block.bitmap, at / PAGE)
  }
  return { reserve: new Reserve(counting, file, [block], able), calls, set, path }
}

t.test('a window is reserved once, and none reaches beyond its block', async (t) => {
  const { reserve, calls } = await setUp(t, 20 * MIB)
  await Promise.all([
    reserve.make([{ offset: MIB, length: MIB }]),
    reserve.make([{ offset: 2 * MIB, length: MIB }]),
  ])
  t.same(calls, [['allocate', 1, 16]])
  await reserve.make([{ offset: 16.5 * MIB, length: MIB }])
  t.same(calls.slice(1), [['allocate', 17, 4]])
  await reserve.make([{ offset: 16.5 * MIB, length: MIB }])
  t.equal(calls.length, 2)
})

t.test('the more was filled the more is reserved at once, up to what is there', async (t) => {
  const { reserve, calls } = await setUp(t, 200 * MIB)
  for (let at = 0; at < 128; at++) await reserve.make([{ offset: (1 + at) * MIB, length: MIB }])
  t.same(calls, [
    ['allocate', 1, 16],
    ['allocate', 17, 16],
    ['allocate', 33, 32],
    ['allocate', 65, 64],
  ])
  await reserve.make([{ offset: 190 * MIB, length: MIB }])
  t.same(calls.slice(4), [['allocate', 177, 24]], 'to the end of the block')
  await reserve.make([{ offset: 129 * MIB, length: MIB }])
  t.same(calls.slice(5), [['allocate', 129, 48]], 'what is reserved is left out')
})

t.test('pages that are written again do not count twice', async (t) => {
  const { reserve, calls } = await setUp(t, 200 * MIB)
  for (let again = 0; again < 64; again++) await reserve.make([{ offset: MIB, length: MIB }])
  await reserve.make([{ offset: 65 * MIB, length: MIB }])
  t.same(calls, [
    ['allocate', 1, 16],
    ['allocate', 65, 16],
  ])
})

t.test('what no page came for has no storage in the end', async (t) => {
  const { reserve, calls, set, path } = await setUp(t, 16 * MIB)
  await reserve.make([{ offset: MIB, length: MIB }])
  t.ok(statSync(path).blocks * 512 >= 16 * MIB)
  set(0, MIB)
  // A short gap is left alone.
  set(MIB + 32 * 1024, MIB)
  await reserve.giveBack(PAGE)
  t.same(calls.slice(1), [['discard', 3 + 1 / 32, 14 - 1 / 32]])
  t.ok(statSync(path).blocks * 512 <= 3 * MIB)
})

t.test('nothing is reserved around scattered pages', async (t) => {
  const { reserve, calls } = await setUp(t, 16 * MIB)
  await reserve.make([
    { offset: MIB, length: PAGE },
    { offset: 3 * MIB, length: 128 * 1024 },
  ])
  await reserve.giveBack(PAGE)
  t.same(calls, [])
})

t.test('where it is not wanted nothing is reserved', async (t) => {
  const { reserve, calls } = await setUp(t, 16 * MIB, false)
  await reserve.make([{ offset: MIB, length: MIB }])
  t.same(calls, [])
})
