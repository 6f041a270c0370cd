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
      this.watch.look(this.at, this.done, this.remaining)
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
