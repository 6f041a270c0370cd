// SPDX-License-Identifier: Apache-2.0
// The buffers of exports against a naive model: never over the limit, no byte twice, the share of a client, and everything
// given back.

import fc from 'fast-check'
import t from 'tap'
import { type Holder, type Piece, PiecePool, SMALL } from '../../../../daemon/iothread/exports/piece-pool.js'
import { createEngine } from '../../../../native/engine.js'
import { holds } from '../../../helpers/property.js'

const SLOT = 4 * SMALL

/** What is held, byte by byte of 64 KiB. */
class Model {
  readonly held = new Map<Holder, Piece[]>()

  of(holder: Holder): Piece[] {
    const pieces = this.held.get(holder) ?? []
    this.held.set(holder, pieces)
    return pieces
  }

  bytes(holder: Holder): number {
    return this.of(holder).reduce((sum, { length }) => sum + (length <= SMALL ? SMALL : SLOT), 0)
  }

  total(): number {
    return [...this.held.keys()].reduce((sum, holder) => sum + this.bytes(holder), 0)
  }

  /** Everything that is held, as places; a place twice would show. */
  places(): string[] {
    return [...this.held.values()].flat().flatMap(({ slot, offset, length }) => {
      const count = Math.ceil(length / SMALL)
      return Array.from({ length: count }, (_, index) => `${slot}:${offset + index * SMALL}`)
    })
  }
}

const step = fc.oneof(
  fc.record({
    kind: fc.constant('take' as const),
    who: fc.nat(5),
    length: fc.integer({ min: 1, max: 9 * SMALL }),
  }),
  fc.record({ kind: fc.constant('give' as const), who: fc.nat(5), which: fc.nat(99) }),
  fc.record({ kind: fc.constant('job' as const), count: fc.integer({ min: 1, max: 8 }) }),
)

type Step = typeof step extends fc.Arbitrary<infer T> ? T : never

interface Play {
  readonly most: number
  readonly steps: readonly Step[]
}

function play({ most, steps }: Play): void {
  const engine = createEngine({ aio: 'threads', slotSize: SLOT, maxSlots: 24 })
  const pool = new PiecePool(engine, most)
  const model = new Model()
  const holders: Holder[] = Array.from({ length: 6 }, () => ({ held: 0 }))
  const jobs: number[] = []
  try {
    for (const each of steps) {
      if (each.kind === 'job') jobs.push(...engine.takeSlots(each.count))
      else {
        const holder = holders[each.who]
        if (holder === undefined) throw new Error('no such client')
        if (each.kind === 'take') take(pool, holder, each.length, most, model, jobs.length === 0)
        else giveOne(pool, holder, each.which, model)
      }
      check(holders, most, model)
    }
    for (const [holder, pieces] of model.held) for (const piece of pieces.splice(0)) pool.give(holder, piece)
    engine.giveSlots(jobs)
    check(holders, most, model)
    const all = engine.takeSlots(24)
    if (all.length !== 24) throw new Error(`${24 - all.length} slots were not given back`)
  } finally {
    void engine.shutdown(0)
  }
}

function take(pool: PiecePool, holder: Holder, length: number, most: number, model: Model, alone: boolean) {
  const free = most * SLOT - model.total()
  const shared = free - (most * SLOT) / 8
  const before = model.bytes(holder)
  const piece = pool.take(holder, length)
  const may = shared / 4 - before
  if (piece === undefined) {
    if (alone && free >= SMALL && (before === 0 || may >= SMALL)) throw new Error(`nothing of ${free} bytes`)
    return
  }
  if (before > 0 && may < SMALL) throw new Error(`a piece with ${before} bytes held and ${free} free`)
  if (piece.length > SMALL && may < SLOT) throw new Error(`a slot with ${before} bytes held, ${free} free`)
  if (piece.length > length || piece.bytes.length !== piece.length) throw new Error('of another length')
  if (length <= SMALL && piece.length !== length) throw new Error('shorter than it need be')
  model.of(holder).push(piece)
}

function giveOne(pool: PiecePool, holder: Holder, which: number, model: Model): void {
  const pieces = model.of(holder)
  const [piece] = pieces.length > 0 ? pieces.splice(which % pieces.length, 1) : []
  if (piece !== undefined) pool.give(holder, piece)
}

function check(holders: readonly Holder[], most: number, model: Model): void {
  for (const holder of holders)
    if (holder.held !== model.bytes(holder))
      throw new Error(`${holder.held} held, not ${model.bytes(holder)}`)
  const places = model.places()
  if (new Set(places).size !== places.length) throw new Error('a place is held twice')
  if (new Set(places.map((place) => place.split(':')[0])).size > most)
    throw new Error('more slots than it may')
}

t.test('random clients get what they may, and no byte twice', async (t) => {
  const plays = fc.record({
    most: fc.constantFrom(8, 16, 24),
    steps: fc.array(step, { minLength: 20, maxLength: 300, size: 'max' }),
  })
  holds(t, fc.property(plays, play), 150)
})

t.test('clients that give nothing back leave a piece for each that comes', async (t) => {
  const engine = createEngine({ aio: 'threads', slotSize: 1 << 20, maxSlots: 96 })
  t.teardown(() => engine.shutdown(0))
  const pool = new PiecePool(engine, 96)
  const holders: Holder[] = Array.from({ length: 192 }, () => ({ held: 0 }))
  for (const [index, holder] of holders.entries()) {
    let pieces = 0
    while (pool.take(holder, 1 << 20) !== undefined) pieces++
    if (pieces === 0) t.fail(`client ${index} gets nothing`)
  }
  t.equal(holders[0]?.held, 17 << 20, 'the first holds about a fifth')
})

t.test('whoever waits is woken when it may take, not before', async (t) => {
  const engine = createEngine({ aio: 'threads', slotSize: SLOT, maxSlots: 8 })
  t.teardown(() => engine.shutdown(0))
  const pool = new PiecePool(engine, 8)
  const [one, other]: [Holder, Holder] = [{ held: 0 }, { held: 0 }]
  const pieces: Piece[] = []
  for (let piece = pool.take(one, SLOT); piece !== undefined; piece = pool.take(one, SLOT)) pieces.push(piece)
  const others: Piece[] = []
  for (let piece = pool.take(other, SLOT); piece !== undefined; piece = pool.take(other, SLOT))
    others.push(piece)
  const woken: string[] = []
  pool.whenGiven(one, () => woken.push('one'))
  const small = pieces.find(({ length }) => length <= SMALL)
  if (small === undefined) throw new Error('no small piece')
  pool.give(one, small)
  t.strictSame(woken, ['one'], 'a piece of its own was given back')
  pool.whenGiven(other, () => woken.push('other'))
  for (const piece of others) pool.give(other, piece)
  t.strictSame(woken, ['one', 'other'], 'once')
})

t.test('one slot is kept from jobs, and given back in the end', async (t) => {
  const engine = createEngine({ aio: 'threads', slotSize: SLOT, maxSlots: 8 })
  t.teardown(() => engine.shutdown(0))
  const pool = new PiecePool(engine, 6)
  t.ok(pool.keep())
  t.ok(pool.keep(), 'for a second export')
  t.equal(engine.takeSlots(99).length, 7)
  const holder = { held: 0 }
  const pieces = [pool.take(holder, SLOT), pool.take(holder, SLOT), pool.take(holder, SLOT)]
  for (const piece of pieces) if (piece !== undefined) pool.give(holder, piece)
  t.ok(pieces[0])
  t.equal(engine.takeSlots(1).length, 0, 'kept')
  pool.release()
  t.equal(engine.takeSlots(2).length, 1)
  t.notOk(pool.keep(), 'there is none now')
})
