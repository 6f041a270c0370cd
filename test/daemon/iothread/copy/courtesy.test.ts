// SPDX-License-Identifier: Apache-2.0
import t, { type Test } from 'tap'
import { DirtyBitmap } from '../../../../daemon/iothread/block/dirty-bitmap.js'
import { Guests } from '../../../../daemon/iothread/block/guests.js'
import { Buffers } from '../../../../daemon/iothread/copy/buffers.js'
import { Courtesy, LEAST } from '../../../../daemon/iothread/copy/courtesy.js'
import { CopyEngine } from '../../../../daemon/iothread/copy/engine.js'
import { RateLimit } from '../../../../daemon/iothread/copy/rate-limit.js'
import { testGraph } from '../../../helpers/graph.js'
import { turn } from '../../../helpers/graph-jobs.js'
import { TestControl } from '../../../helpers/test-control.js'

const KIB = 1024
const MIB = 2 ** 20
const FULL = 16 * MIB
const FIRST = 256 * KIB
const STEP = 64 * KIB

/** A copy beside a guest whose requests take 2 ms alone. */
class Beside {
  at = 1000
  readonly guests = new Guests(() => this.at)
  readonly guest = this.guests.join()
  wanted = true
  readonly courtesy = new Courtesy(this.guests, FULL, () => this.wanted)

  constructor() {
    this.courtesy.listen()
  }

  request(ms: number): void {
    const began = this.guest.began()
    this.at += ms
    this.guest.ended('write', 4 * KIB, began)
  }

  /** A guest comes, and it is seen what is usual. */
  come(): void {
    this.request(2)
    while (!this.courtesy.mayBegin()) this.request(2)
  }

  /** Requests while one piece is under way. */
  meanwhile(...times: readonly number[]): void {
    this.courtesy.began(LEAST)
    for (const ms of times) this.request(ms)
    this.courtesy.ended(LEAST)
  }

  /** So many rounds of requests that take so many times as long as alone. */
  rounds(count: number, slowdown: number): void {
    for (let round = 0; round < count; round++) this.meanwhile(...Array<number>(16).fill(2 * slowdown))
  }
}

t.test('nobody there: all may be in flight, in the longest pieces', async (t) => {
  const { courtesy } = new Beside()
  t.equal(courtesy.window(), FULL)
  courtesy.began(FULL)
  t.ok(courtesy.mayBegin(), 'there are other limits')
  t.equal(courtesy.piece(1, MIB), MIB)
})

t.test('somebody comes: nothing begins until it is seen what is usual, then little', async (t) => {
  const { courtesy, guest } = new Beside()
  guest.began()
  t.notOk(courtesy.mayBegin())
  const beside = new Beside()
  beside.come()
  t.equal(beside.courtesy.window(), FIRST)
  t.equal(beside.courtesy.piece(1, MIB), FIRST)
})

t.test('as much is in flight as the window says, and one piece always', async (t) => {
  const beside = new Beside()
  const { courtesy } = beside
  beside.come()
  courtesy.began(FIRST / 2)
  t.ok(courtesy.mayBegin())
  courtesy.began(FIRST / 2)
  t.notOk(courtesy.mayBegin())
  courtesy.ended(FIRST / 2)
  t.ok(courtesy.mayBegin())
  courtesy.ended(FIRST / 2)
  beside.rounds(20, 10)
  beside.come()
  t.equal(courtesy.window(), LEAST)
  courtesy.began(MIB)
  t.notOk(courtesy.mayBegin())
})

t.test('a zeroed range counts as the smallest piece', async (t) => {
  const beside = new Beside()
  beside.come()
  beside.rounds(20, 10)
  beside.come()
  beside.courtesy.began(0)
  t.notOk(beside.courtesy.mayBegin())
})

t.test('a guest that feels little lets the window grow step by step up to all', async (t) => {
  const beside = new Beside()
  beside.come()
  beside.rounds(1, 1.7)
  t.equal(beside.courtesy.window(), FIRST + STEP)
  for (let times = 0; times < 400 && beside.courtesy.window() < FULL; times++) {
    beside.rounds(1, 1)
    beside.come()
  }
  t.equal(beside.courtesy.window(), FULL)
})

t.test(
  'three late requests of a round halve the window; what was asked before that does not again',
  async (t) => {
    const beside = new Beside()
    const { courtesy, guest } = beside
    beside.come()
    beside.meanwhile(5, 5)
    t.equal(courtesy.window(), FIRST)
    const [early, also, late] = [guest.began(), guest.began(), guest.began()]
    beside.meanwhile(5)
    t.equal(courtesy.window(), FIRST / 2)
    courtesy.began(LEAST)
    for (const began of [early, also, late]) guest.ended('write', 4 * KIB, began)
    t.equal(courtesy.window(), FIRST / 2)
  },
)

t.test('requests of which some take long anyway are no fault of a copy', async (t) => {
  const beside = new Beside()
  /** One of four takes five times as long, with a copy or without. */
  const four = [2, 2, 10, 2]
  for (let times = 0; times < 8; times++) for (const ms of four) beside.request(ms)
  for (let times = 0; times < 400; times++) {
    beside.meanwhile(...four, ...four, ...four, ...four)
    while (!beside.courtesy.mayBegin()) for (const ms of four) beside.request(ms)
  }
  t.equal(beside.courtesy.window(), FULL)
  for (let times = 0; times < 40; times++)
    beside.meanwhile(...[...four, ...four, ...four, ...four].map((ms) => 2 * ms))
  t.equal(beside.courtesy.window(), LEAST, 'all take twice as long: it is one')
})

t.test('where more than a quarter is late anyway, more than 6 of 16 are too many', async (t) => {
  const beside = new Beside()
  const many = [2, 2, 2, 2, 2, 2, 10, 10, 10, 10]
  for (let times = 0; times < 4; times++) for (const ms of many) beside.request(ms)
  beside.courtesy.began(LEAST)
  for (const ms of [10, 10, 10, 10, 10, 10]) beside.request(ms)
  t.equal(beside.courtesy.window(), FIRST)
  beside.request(10)
  t.equal(beside.courtesy.window(), FIRST / 2)
  beside.courtesy.ended(LEAST)
})

t.test('one long request is heard among many short ones that are fine', async (t) => {
  const beside = new Beside()
  const { courtesy, guest } = beside
  for (const ms of [8, 10, 12]) {
    const flush = guest.began()
    beside.at += ms
    guest.ended('flush', 0, flush)
  }
  beside.come()
  beside.rounds(4, 1)
  const before = courtesy.window()
  const flush = guest.began()
  beside.rounds(2, 1)
  t.equal(courtesy.window(), before + 2 * STEP, 'the window has changed since')
  courtesy.began(LEAST)
  guest.ended('flush', 0, flush)
  courtesy.ended(LEAST)
  t.equal(courtesy.window(), (before + 2 * STEP) / 2)
})

t.test('a window that grew waits for a request that was asked after that', async (t) => {
  const beside = new Beside()
  const { courtesy, guest } = beside
  beside.come()
  courtesy.began(LEAST)
  const many = Array.from({ length: 64 }, () => guest.began())
  beside.at += 2
  for (const began of many) guest.ended('write', 4 * KIB, began)
  t.equal(courtesy.window(), FIRST + STEP)
  beside.request(2)
  t.equal(courtesy.window(), FIRST + 2 * STEP)
  courtesy.ended(LEAST)
})

t.test('a guest that went and came back finds the first window', async (t) => {
  const beside = new Beside()
  beside.come()
  beside.rounds(20, 10)
  t.equal(beside.courtesy.window(), LEAST)
  beside.at += 100
  t.equal(beside.courtesy.window(), FULL)
  beside.come()
  t.equal(beside.courtesy.window(), FIRST)
})

const pieces = [
  { name: 'the target writes 2 MiB whole', unit: 2 * MIB, most: 4 * MIB, piece: 2 * MIB },
  { name: 'only small ones are wanted', unit: 1, most: 4 * KIB, piece: 4 * KIB },
  { name: 'a unit that divides it', unit: 4 * KIB, most: MIB, piece: FIRST },
]
for (const { name, unit, most, piece } of pieces)
  t.test(`a piece beside a guest: ${name}`, async (t) => {
    const beside = new Beside()
    beside.come()
    t.equal(beside.courtesy.piece(unit, most), piece)
  })

t.test('courtesy gives way to a copy that does not get done, by and by, until it is', async (t) => {
  const beside = new Beside()
  const { courtesy } = beside
  beside.come()
  beside.rounds(20, 10)
  const windows: number[] = []
  for (let looks = 0; looks < 5; looks++) {
    courtesy.press()
    beside.guest.began()
    windows.push(courtesy.window())
  }
  t.same(windows, [512 * KIB, 2 * MIB, 8 * MIB, FULL, FULL])
  courtesy.began(FULL)
  t.ok(courtesy.mayBegin())
  courtesy.ease()
  beside.guest.seen()
  t.equal(courtesy.window(), FULL / 4)
  courtesy.relax()
  t.equal(courtesy.window(), LEAST)
})

t.test('nobody is heeded while that is not wanted', async (t) => {
  const beside = new Beside()
  beside.come()
  beside.wanted = false
  t.equal(beside.courtesy.window(), FULL)
  t.ok(beside.courtesy.mayBegin())
})

/** A copy of 64 MiB to a target that takes nothing yet, beside guests with the test's clock. */
async function stuckCopy(t: Test) {
  const g = testGraph(t)
  const size = 64 * MIB
  for (const name of ['src', 'dst-memory']) await g.add({ driver: 'x-memory', 'node-name': name, size })
  const stall = [{ op: 'write', count: 0, stall: true }]
  await g.add({ driver: 'x-inject', 'node-name': 'dst', file: 'dst-memory', rules: stall })
  const source = g.graph.node('src')
  const target = g.graph.node('dst')
  for (let at = 0; at < size; at += MIB) await g.write(source, at, Buffer.alloc(MIB, 1 + at / MIB))
  const beside = new Beside()
  const control = new TestControl()
  const engine = new CopyEngine({
    ...{ source, target, control, bitmap: new DirtyBitmap(size, 64 * KIB), limit: new RateLimit(0) },
    ...{ buffers: new Buffers(g.engine), courtesy: beside.courtesy, tasks: 16, piece: MIB },
    ...{ unmap: false, targetIsZero: false },
  })
  engine.dirtyAll()
  const before = source.stats.readBytes
  return { g, beside, engine, source, target, begun: () => source.stats.readBytes - before }
}

async function until(state: () => boolean): Promise<void> {
  while (!state()) await turn()
}

t.test(
  'little is in flight while a guest is there, all as soon as it has gone, and the copy is equal',
  async (t) => {
    const { g, beside, engine, source, target, begun } = await stuckCopy(t)
    beside.come()
    const copied = engine.copyDirty()
    await until(() => begun() > 0)
    for (let turns = 0; turns < 300; turns++) await turn()
    t.equal(begun(), FIRST, 'one piece')
    beside.at += 100
    await until(() => begun() >= FIRST + 15 * MIB)
    for (let turns = 0; turns < 300; turns++) await turn()
    t.equal(begun(), FIRST + 15 * MIB, '16 pieces')
    target.driver.release?.()
    await copied
    t.equal(engine.remaining, 0)
    const at = 17 * MIB
    t.ok(Buffer.from(await g.read(target, at, MIB)).equals(await g.read(source, at, MIB)))
  },
)

t.test('a copy under way begins little when a guest comes, and goes on as pieces end', async (t) => {
  const { beside, engine, target, begun } = await stuckCopy(t)
  const copied = engine.copyDirty()
  await until(() => begun() >= FULL)
  beside.guest.began()
  target.driver.release?.()
  await until(() => beside.guests.holdBack())
  t.equal(begun(), FULL, 'nothing begins while it is seen what is usual')
  for (let requests = 0; beside.guests.holdBack(); requests++) {
    t.ok(requests < 100)
    beside.request(1)
    await turn()
  }
  await copied
  t.equal(begun(), 64 * MIB)
  t.equal(engine.remaining, 0)
})
