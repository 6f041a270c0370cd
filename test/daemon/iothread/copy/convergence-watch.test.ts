// SPDX-License-Identifier: Apache-2.0
import t from 'tap'
import { Guests } from '../../../../daemon/iothread/block/guests.js'
import { ConvergenceWatch } from '../../../../daemon/iothread/copy/convergence-watch.js'
import { Courtesy } from '../../../../daemon/iothread/copy/courtesy.js'

const MIB = 2 ** 20
const CHUNK = 65536
const FULL = 16 * MIB

/** A mirror that is looked at twice a second beside a guest that is always there. */
class Watched {
  at = 1000
  done = 0
  remaining = 1000 * MIB
  first = false
  limit = 0
  readonly guests = new Guests(() => this.at)
  readonly guest = this.guests.join()
  readonly courtesy = new Courtesy(this.guests, FULL)
  readonly watch = new ConvergenceWatch(CHUNK, 'report', this.courtesy, () => undefined)

  /** MiB a second, for so many looks. @returns the window after each, MiB */
  looks(count: number, dirty: number, copy: number): number[] {
    const windows: number[] = []
    for (let look = 0; look < count; look++) {
      this.at += 500
      this.done += (copy * MIB) / 2
      for (let at = 0; at < (dirty * MIB) / 2; at += CHUNK) this.watch.dirtied(at, CHUNK)
      const { done, remaining, first, limit } = this
      this.watch.look(this.at, { done, remaining, first, limit })
      this.guest.began()
      windows.push(this.courtesy.window() / MIB)
    }
    return windows
  }
}

t.test('a guest that makes less dirty than half of what is copied is heeded', async (t) => {
  t.same(new Watched().looks(8, 40, 100), Array(8).fill(0.25))
})

t.test('one that makes more dirty is heeded less from look to look, until nothing is dirty', async (t) => {
  const watched = new Watched()
  t.same(watched.looks(7, 60, 100), [0.25, 0.25, 0.5, 2, 8, 16, 16])
  watched.remaining = MIB
  t.same(watched.looks(2, 60, 100), [16, 16], 'soon done: it stays as it is')
  watched.watch.letGo()
  t.same(watched.looks(2, 60, 100), [0.25, 0.25])
})

t.test('a job that stood still begins anew', async (t) => {
  const watched = new Watched()
  t.equal(watched.looks(7, 60, 100).at(-1), 16)
  watched.watch.pause()
  t.same(watched.looks(2, 60, 100), [0.25, 0.25])
})

/** Windows at the ends of stretches of 10 s. */
const stretches = (watched: Watched, count: number, dirty: number, copy: number) =>
  Array.from({ length: count }, () => {
    watched.remaining -= (copy - dirty) * 10 * MIB
    return watched.looks(20, dirty, copy).at(-1)
  })

t.test('beside a guest that only reads, a first pass below 4 MiB/s gains as any copy does', async (t) => {
  const watched = new Watched()
  watched.first = true
  watched.looks(1, 0, 3)
  t.same(stretches(watched, 4, 0, 3), [0.5, 2, 8, 16])
  t.same(stretches(watched, 2, 0, 33), [4, 1], 'and gives back what it does not need')
  watched.watch.pause()
  t.same(stretches(watched, 1, 0, 3), [0.25], 'a job that stood still begins anew')
})

t.test('so does one that has a speed limit, where it is far below it', async (t) => {
  const watched = new Watched()
  watched.first = true
  watched.limit = 2 * MIB
  watched.looks(1, 0, 2)
  t.same(stretches(watched, 2, 0, 2), [0.25, 0.25])
  t.same(stretches(watched, 1, 0, 0), [0.5])
})

t.test('a mirror that was ready is not watched with patience', async (t) => {
  const watched = new Watched()
  watched.looks(1, 0, 0)
  t.same(stretches(watched, 3, 0, 0), [0.25, 0.25, 0.25])
})

t.test('what changes press for is not eased while they do', async (t) => {
  const watched = new Watched()
  watched.first = true
  watched.remaining *= 100
  watched.looks(7, 60, 100)
  t.same(stretches(watched, 2, 60, 100), [16, 16])
})
