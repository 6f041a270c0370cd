// SPDX-License-Identifier: Apache-2.0
import t from 'tap'
import { type Guest, Guests } from '../../../../daemon/iothread/block/guests.js'
import type { GuestRequest, Judgement } from '../../../../daemon/iothread/block/usual.js'

/** Guests with a clock of the test's, one that is used, and what was felt. */
class Disk {
  at = 1000
  readonly guests = new Guests(() => this.at)
  readonly guest = this.guests.join()
  readonly felt: Judgement[] = []

  constructor() {
    this.guests.addListener((judged) => this.felt.push(judged))
  }

  /** One request that takes so long. */
  request(ms: number, kind: GuestRequest = 'write', length = 4096, guest = this.guest): void {
    const began = guest.began()
    this.at += ms
    guest.ended(kind, length, began)
  }

  /** Requests of one guest after the other, while copies hold back. @returns how long that was, ms */
  look(...guests: readonly { readonly guest: Guest; readonly ms: number }[]): number {
    const from = this.at
    while (this.guests.holdBack()) for (const { guest, ms } of guests) this.request(ms, 'write', 4096, guest)
    return this.at - from
  }

  /** A request beside a piece of a copy. */
  beside(ms: number, kind: GuestRequest = 'write', length = 4096, guest = this.guest): void {
    this.guests.copying()
    this.request(ms, kind, length, guest)
    this.guests.copied()
  }
}

t.test('a guest is there for 100 ms after its last request', async (t) => {
  const disk = new Disk()
  t.notOk(disk.guests.active, 'nobody was there yet')
  disk.request(5)
  disk.at += 99
  t.ok(disk.guests.active)
  disk.at += 1
  t.notOk(disk.guests.active)
})

t.test('what a request took beside a copy is judged by those that met none', async (t) => {
  const disk = new Disk()
  for (const ms of [2, 3, 50]) disk.request(ms)
  disk.beside(5)
  disk.beside(9)
  t.same(disk.felt, ['fine', 'late'])
})

t.test('a request that a piece of a copy crossed does not say what is usual', async (t) => {
  const disk = new Disk()
  disk.request(2)
  disk.guests.copying()
  const [before, among] = [disk.guest.began(), disk.guest.began()]
  disk.at += 8
  disk.guests.copied()
  disk.guest.ended('write', 4096, before)
  disk.at += 2
  disk.guests.copying()
  disk.guests.copied()
  disk.guest.ended('write', 4096, among)
  t.same(disk.felt, ['late', 'late'])
  disk.beside(2)
  t.equal(disk.felt.at(-1), 'fine', 'the 8 ms are not usual')
})

t.test('requests of other kinds and lengths are others', async (t) => {
  const disk = new Disk()
  disk.request(2)
  disk.request(10, 'flush', 0)
  disk.request(100, 'write', 2 ** 20)
  disk.beside(20, 'flush', 0)
  disk.beside(400, 'write', 2 ** 20)
  disk.beside(2, 'write', 16384)
  disk.beside(7, 'read')
  t.same(disk.felt, ['late', 'stalled', 'fine'], 'of reads nothing is known')
})

t.test('what is usual of one export is nothing to another, and goes with it', async (t) => {
  const disk = new Disk()
  const slow = disk.guests.join()
  for (let requests = 0; requests < 40; requests++) {
    disk.request(20, 'write', 4096, slow)
    disk.request(1)
  }
  disk.beside(20, 'write', 4096, slow)
  disk.beside(1)
  disk.beside(2)
  t.same(disk.felt, ['fine', 'fine', 'late'])
  disk.guests.leave(slow)
  disk.at += 99
  t.ok(disk.guests.active)
  disk.at += 1
  slow.seen()
  t.notOk(disk.guests.active)
})

t.test('a look sees everybody who is there', async (t) => {
  const disk = new Disk()
  const slow = disk.guests.join()
  const began = slow.began()
  t.ok(disk.guests.holdBack())
  for (let requests = 0; requests < 20; requests++) disk.request(1)
  t.ok(disk.guests.holdBack(), 'more than 10 ms have passed')
  slow.ended('write', 4096, began)
  t.notOk(disk.guests.holdBack())
  disk.beside(20, 'write', 4096, slow)
  t.same(disk.felt, ['fine'])
})

t.test('requests that take longer than a look are seen by a longer one, and such are rarer', async (t) => {
  const disk = new Disk()
  disk.request(1)
  disk.guests.copying()
  const first = disk.guest.began()
  disk.at += 10
  disk.guests.copied()
  const looks: number[] = []
  let began = first
  /** Copies whenever it may. A request takes 150 ms, and the next begins at once. */
  for (const end = disk.at + 20_000; disk.at < end; disk.at++) {
    const from = disk.at
    for (; disk.guests.holdBack(); disk.at++)
      if (disk.at - began >= 150) {
        disk.guest.ended('flush', 0, began)
        began = disk.guest.began()
      }
    if (disk.at > from) looks.push(disk.at - from)
    disk.guests.copying()
    if (disk.at - began >= 150) {
      disk.guest.ended('flush', 0, began)
      began = disk.guest.began()
    }
    disk.guests.copied()
  }
  t.same(looks.slice(0, 2), [50, 100])
  t.ok(
    looks.some((ms) => ms >= 150 && ms < 400),
    `${looks}`,
  )
  t.ok(looks.reduce((sum, ms) => sum + ms) <= 20_000 / 40 + 800, `${looks}`)
  t.equal(disk.felt[0], 'stalled', 'it is long, and nothing is known')
  t.equal(disk.felt.at(-1), 'fine', 'it is usual')
})

t.test('copies hold back once for 8 requests, and again two seconds later', async (t) => {
  const disk = new Disk()
  t.notOk(disk.guests.holdBack(), 'nobody is there')
  disk.request(0)
  t.ok(disk.guests.holdBack())
  for (let requests = 0; requests < 7; requests++) disk.request(1)
  t.ok(disk.guests.holdBack())
  disk.request(1)
  t.notOk(disk.guests.holdBack())
  for (let ms = 0; ms < 1999; ms++) disk.request(1)
  t.notOk(disk.guests.holdBack())
  disk.request(1)
  t.ok(disk.guests.holdBack())
})

t.test('copies hold back for 10 ms at most, from when nothing is under way any more', async (t) => {
  const disk = new Disk()
  disk.guests.copying()
  disk.guest.began()
  t.ok(disk.guests.holdBack())
  disk.at += 30
  t.ok(disk.guests.holdBack(), 'a piece is under way')
  disk.guests.copied()
  t.ok(disk.guests.holdBack())
  disk.request(9)
  t.ok(disk.guests.holdBack())
  disk.at += 1
  t.notOk(disk.guests.holdBack())
})

t.test('copies hold back for 50 ms at most where no request ends, or a piece does not', async (t) => {
  for (const stuck of [false, true]) {
    const disk = new Disk()
    if (stuck) disk.guests.copying()
    disk.guest.began()
    t.ok(disk.guests.holdBack())
    disk.at += 49
    t.ok(disk.guests.holdBack())
    disk.at += 1
    t.notOk(disk.guests.holdBack())
    disk.request(1950)
    t.notOk(disk.guests.holdBack(), 'nor before the next look')
  }
})

t.test('who waits for a request is there, but not for ever; failures say nothing of times', async (t) => {
  const disk = new Disk()
  disk.request(2)
  const began = disk.guest.began()
  disk.at += 4999
  t.ok(disk.guests.active)
  disk.at += 1
  t.notOk(disk.guests.active)
  disk.guest.ended('write', 4096, began)
  disk.guest.began()
  disk.guest.failed()
  disk.beside(2000)
  t.same(disk.felt, ['fine'], 'the upper median of 2 and 5000 is usual')
  disk.at += 100
  t.notOk(disk.guests.active, 'all requests have ended')
})

t.test('what was asked before copies held back is not held against them', async (t) => {
  const disk = new Disk()
  disk.request(2)
  disk.guests.copying()
  const began = disk.guest.began()
  t.ok(disk.guests.holdBack())
  disk.at += 50
  disk.guests.copied()
  disk.guest.ended('write', 4096, began)
  t.same(disk.felt, [])
})

t.test('copies do not wait for a guest that has gone', async (t) => {
  const disk = new Disk()
  disk.guests.copying()
  disk.guest.seen()
  t.ok(disk.guests.holdBack())
  disk.at += 100
  t.notOk(disk.guests.holdBack())
})

t.test('whoever waits is told once of the end of a piece, and of the end of a look', async (t) => {
  const disk = new Disk()
  let told = 0
  const tell = () => {
    told++
  }
  disk.guests.copying()
  disk.guests.whenChanged(tell)
  disk.guests.whenChanged(tell)
  disk.guests.copied()
  t.equal(told, 1)
  disk.request(0)
  t.ok(disk.guests.holdBack())
  disk.guests.whenChanged(tell)
  disk.look({ guest: disk.guest, ms: 2 })
  t.equal(told, 2)
})

t.test('a look that nobody ended for an hour is followed by the next one soon', async (t) => {
  const disk = new Disk()
  disk.request(1)
  disk.guests.copying()
  t.ok(disk.guests.holdBack())
  disk.at += 3_600_000
  disk.guest.seen()
  t.notOk(disk.guests.holdBack())
  disk.at += 60_000
  disk.guest.seen()
  t.ok(disk.guests.holdBack())
})
