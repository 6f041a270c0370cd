// SPDX-License-Identifier: Apache-2.0
import t from 'tap'
import { Guests } from '../../../../daemon/iothread/block/guests.js'
import { Courtesy, LEAST } from '../../../../daemon/iothread/copy/courtesy.js'
import { Patience } from '../../../../daemon/iothread/copy/patience.js'

const MIB = 2 ** 20
const FULL = 16 * MIB
const HOUR = 3600

/** A copy that is watched twice a second, beside a guest that never rests and is always late. */
class Slow {
  at = 5000
  remaining: number
  limit = 0
  readonly guests = new Guests(() => this.at)
  readonly guest = this.guests.join()
  readonly courtesy = new Courtesy(this.guests, FULL)
  readonly patience = new Patience(this.courtesy)
  heeds = true

  constructor(remaining: number) {
    this.remaining = remaining
    this.courtesy.listen()
    this.guest.began()
    // Nothing is known of it, and it is long.
    for (let halves = 0; halves < 10; halves++) {
      this.guests.copying()
      const began = this.guest.began()
      this.at += 60
      this.guest.ended('read', 4096, began)
      this.guests.copied()
    }
    this.patience.look(this.at, remaining, 0)
  }

  /** So many seconds at such a speed, bytes per second. @returns the window then */
  copies(seconds: number, speed: number): number {
    for (let looks = 0; looks < seconds * 2; looks++) {
      this.at += 500
      this.remaining -= speed / 2
      if (this.heeds) this.guest.seen()
      this.patience.look(this.at, this.remaining, this.limit)
    }
    this.guest.seen()
    return this.courtesy.window()
  }
}

t.test('a copy below 4 MiB/s gains, step by step, until it is as if nobody was there', async (t) => {
  const slow = new Slow(100 * 1024 * MIB)
  t.equal(slow.copies(9, 3 * MIB), LEAST)
  const windows = [1, 10, 10, 10, 10].map((seconds) => slow.copies(seconds, 3 * MIB) / LEAST)
  t.same(windows, [4, 16, 64, 128, 128])
})

const speeds = [
  { name: 'of a small disk', remaining: 1024 * MIB, speed: 5 * MIB, presses: false },
  { name: 'done in 7 hours', remaining: 8 * HOUR * 100 * MIB, speed: 114 * MIB, presses: false },
  { name: 'done in 9 hours', remaining: 8 * HOUR * 100 * MIB, speed: 89 * MIB, presses: true },
  { name: 'limited, at its limit', remaining: 1024 * MIB, limit: MIB, speed: MIB, presses: false },
  { name: 'limited, and far below', remaining: 1024 * MIB, limit: MIB, speed: MIB / 3, presses: true },
  { name: 'stuck', remaining: MIB, speed: 0, presses: true },
]
for (const { name, remaining, limit = 0, speed, presses } of speeds)
  t.test(`a copy ${name} ${presses ? 'gains' : 'goes on as it does'}`, async (t) => {
    const slow = new Slow(remaining)
    slow.limit = limit
    t.equal(slow.copies(10, speed), presses ? 4 * LEAST : LEAST)
  })

t.test('eight times as much as is needed is enough for a smaller window', async (t) => {
  const slow = new Slow(100 * 1024 * MIB)
  slow.copies(20, MIB)
  t.equal(slow.copies(10, 31 * MIB), 16 * LEAST)
  t.equal(slow.copies(10, 33 * MIB), 4 * LEAST)
  t.equal(slow.copies(30, 33 * MIB), LEAST)
})

t.test('a copy near its speed limit takes a step back', async (t) => {
  const slow = new Slow(1024 * MIB)
  slow.limit = 2 * MIB
  slow.copies(20, MIB / 2)
  t.equal(slow.copies(10, 1.7 * MIB), 16 * LEAST)
  t.equal(slow.copies(10, 1.9 * MIB), 4 * LEAST)
})

t.test('time in which the copy stood still, or nobody was there, does not count', async (t) => {
  const slow = new Slow(1024 * MIB)
  slow.copies(9, 0)
  slow.patience.pause()
  t.equal(slow.copies(9, 0), LEAST)
  slow.heeds = false
  slow.at += 5000
  slow.copies(30, 0)
  slow.heeds = true
  t.equal(slow.copies(9, 0), LEAST)
})
