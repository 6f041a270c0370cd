// SPDX-License-Identifier: Apache-2.0
// The cache of tables never holds more than it may, however many ask at once, and loses nothing by that: random users
// against tables in memory. Prints its seed; SEED=n repeats it.

import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import type { Image } from '../../../../../../daemon/iothread/block/drivers/qcow2/image.js'
import { TableCache } from '../../../../../../daemon/iothread/block/drivers/qcow2/table-cache.js'
import { Turns } from '../../../../../../daemon/iothread/block/drivers/qcow2/turn.js'
import { newSeed, random } from '../../../../../helpers/graph.js'

const SLICE = 512
const SLICES = 40
const USERS = 16

type Below = (below: number) => number

/** Tables on a disk that takes its time, and the cache that is looked at whenever it is asked for something. */
class Desk {
  readonly disk = Buffer.alloc(SLICES * SLICE)
  readonly cache: TableCache
  most = 0
  reads = 0
  readonly #below: Below
  readonly #turns = new Turns()

  constructor(bytes: number, below: Below) {
    this.#below = below
    const image = {
      readInto: async (offset: number, bytes: Uint8Array) => {
        this.reads += 1
        await this.#wait()
        bytes.set(this.disk.subarray(offset, offset + bytes.length))
      },
      write: async (offset: number, bytes: Uint8Array) => {
        await this.#wait()
        this.disk.set(bytes, offset)
      },
    } as unknown as Image
    this.cache = new TableCache(image, SLICE, bytes, () => this.commit())
  }

  /** One at once, as the driver does it. */
  commit(): Promise<void> {
    return this.#turns.run(() => this.cache.writeBack())
  }

  /** How many slices are in memory. */
  count(): number {
    this.most = Math.max(this.most, this.cache.held)
    return this.cache.held
  }

  async #wait(): Promise<void> {
    for (let left = 1 + this.#below(3); left > 0; left--) {
      this.count()
      await turn()
    }
  }
}

for (const limit of [2, 3, 8]) {
  t.test(`${USERS} users of a cache of ${limit} slices lose nothing, and it holds no more`, async (t) => {
    const seed = newSeed()
    t.comment(`seed ${seed}`)
    const below = random(seed)
    const desk = new Desk(limit * SLICE, below)
    const { cache } = desk
    /** How often each table was changed; each first word counts it, too. */
    const model = new Array<number>(SLICES).fill(0)
    const user = async () => {
      for (let step = 0; step < 60; step++) {
        const slice = below(SLICES)
        if (below(20) === 0) await desk.commit()
        else if (below(2) === 0) {
          await cache.use(slice * SLICE, (found) => {
            found.view.setUint32(0, found.view.getUint32(0) + 1)
            cache.changed(found)
            model[slice] = (model[slice] ?? 0) + 1
          })
        } else {
          const shown = await cache.use(slice * SLICE, ({ view }) => [view.getUint32(0), model[slice]])
          if (shown[0] !== shown[1]) throw new Error(`table ${slice}: ${shown[0]} changes, not ${shown[1]}`)
        }
        desk.count()
      }
    }
    await Promise.all(Array.from({ length: USERS }, user))
    await desk.commit()
    t.same(
      model.map((_, slice) => desk.disk.readUInt32BE(slice * SLICE)),
      model,
    )
    t.ok(desk.most <= limit, `${desk.most} slices at most`)
  })
}

t.test('a smaller limit holds from the next table on', async (t) => {
  const desk = new Desk(20 * SLICE, () => 0)
  for (let slice = 0; slice < 20; slice++) await desk.cache.get(slice * SLICE)
  t.equal(desk.count(), 20)
  desk.cache.keepAtMost(5 * SLICE)
  await desk.cache.get(20 * SLICE)
  t.equal(desk.count(), 5)
  desk.cache.keepAtMost(30 * SLICE)
  for (let slice = 0; slice < 40; slice++) await desk.cache.get(slice * SLICE)
  t.equal(desk.count(), 30)
})

t.test(
  'without room for one more, those that are held stay and the others wait for their turn',
  async (t) => {
    const desk = new Desk(2 * SLICE, () => 0)
    const found = await Promise.all(Array.from({ length: 10 }, (_, slice) => desk.cache.get(slice * SLICE)))
    t.same(
      found.map(({ offset }) => offset / SLICE),
      [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    )
    t.equal(desk.reads, 10, 'each is read once')
    t.ok(desk.most <= 2, `${desk.most} slices at most`)
  },
)

t.test('a table that cannot be read leaves room for others', async (t) => {
  let broken = true
  const image = {
    readInto: async () => {
      await turn()
      if (broken) throw new Error('broken')
    },
  } as unknown as Image
  const cache = new TableCache(image, SLICE, 2 * SLICE, async () => undefined)
  const all = () => Promise.allSettled([0, 1, 2, 3, 4].map((slice) => cache.get(slice * SLICE)))
  t.same(new Set((await all()).map(({ status }) => status)), new Set(['rejected']))
  broken = false
  t.same(new Set((await all()).map(({ status }) => status)), new Set(['fulfilled']))
})
