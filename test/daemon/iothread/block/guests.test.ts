// SPDX-License-Identifier: Apache-2.0
import t from 'tap'
import { type GuestRequest, Guests } from '../../../../daemon/iothread/block/guests.js'

/** Guests with a clock of the test's, and what was felt. */
class Disk {
  at = 1000
  readonly guests = new Guests(() => this.at)
  readonly felt: number[] = []

  constructor() {
    this.guests.addListener((slowdown) => this.felt.push(slowdown))
  }

  /** One request that takes so long. */
  request(ms: number, kind: GuestRequest = 'write', length = 4096): void {
    const began = this.guests.began()
    this.at += ms
    this.guests.ended(kind, length, began)
  }

  /** Somebody asks while copies hold back until that is over. */
  listen(): void {
    while (this.guests.listening) this.request(2)
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

t.test('what a request took beside a copy is told as times the median of those that met none', async (t) => {
  const disk = new Disk()
  for (const ms of [2, 3, 50]) disk.request(ms)
  disk.guests.copying()
  disk.request(9)
  disk.guests.copied()
  t.same(disk.felt, [3])
})

t.test('a request that a piece of a copy crossed does not say what is usual', async (t) => {
  const disk = new Disk()
  disk.request(2)
  disk.guests.copying()
  const [before, among] = [disk.guests.began(), disk.guests.began()]
  disk.at += 8
  disk.guests.copied()
  disk.guests.ended('write', 4096, before)
  disk.at += 2
  disk.guests.copying()
  disk.guests.copied()
  disk.guests.ended('write', 4096, among)
  t.same(disk.felt, [4, 5])
})

t.test('requests of other kinds and lengths are others', async (t) => {
  const disk = new Disk()
  disk.request(2)
  disk.request(10, 'flush', 0)
  disk.request(100, 'write', 2 ** 20)
  disk.guests.copying()
  disk.request(20, 'flush', 0)
  disk.request(400, 'write', 2 ** 20)
  disk.request(2, 'write', 16384)
  disk.request(7, 'read')
  t.same(disk.felt, [2, 4, 1], 'of reads nothing is known')
})

t.test('copies hold back once for 8 requests, and again two seconds later', async (t) => {
  const disk = new Disk()
  t.notOk(disk.guests.listening, 'nobody is there')
  disk.request(0)
  t.ok(disk.guests.listening)
  for (let requests = 0; requests < 7; requests++) disk.request(1)
  t.ok(disk.guests.listening)
  disk.request(1)
  t.notOk(disk.guests.listening)
  for (let ms = 0; ms < 1999; ms++) disk.request(1)
  t.notOk(disk.guests.listening)
  disk.request(1)
  t.ok(disk.guests.listening)
})

t.test('copies hold back for 10 ms at most, from when nothing is under way any more', async (t) => {
  const disk = new Disk()
  disk.guests.copying()
  disk.guests.began()
  t.ok(disk.guests.listening)
  disk.at += 30
  t.ok(disk.guests.listening, 'a piece is under way')
  disk.guests.copied()
  t.ok(disk.guests.listening)
  disk.request(9)
  t.ok(disk.guests.listening)
  disk.at += 1
  t.notOk(disk.guests.listening)
})

t.test('copies hold back for 50 ms at most where no request ends, or a piece does not', async (t) => {
  for (const stuck of [false, true]) {
    const disk = new Disk()
    if (stuck) disk.guests.copying()
    disk.guests.began()
    t.ok(disk.guests.listening)
    disk.at += 49
    t.ok(disk.guests.listening)
    disk.at += 1
    t.notOk(disk.guests.listening)
    disk.request(1950)
    t.notOk(disk.guests.listening, 'nor before the next look')
  }
})

t.test('who waits for a request is there, but not for ever; failures say nothing of times', async (t) => {
  const disk = new Disk()
  disk.request(2)
  const began = disk.guests.began()
  disk.at += 4999
  t.ok(disk.guests.active)
  disk.at += 1
  t.notOk(disk.guests.active)
  disk.guests.ended('write', 4096, began)
  disk.guests.began()
  disk.guests.failed()
  disk.guests.copying()
  disk.request(2)
  t.same(disk.felt, [2 / 5000], 'the upper median of 2 and 5000')
  disk.at += 100
  t.notOk(disk.guests.active, 'all requests have ended')
})

t.test('what was asked before copies held back is not held against them', async (t) => {
  const disk = new Disk()
  disk.request(2)
  disk.guests.copying()
  const began = disk.guests.began()
  t.ok(disk.guests.listening)
  disk.at += 50
  disk.guests.copied()
  disk.guests.ended('write', 4096, began)
  t.same(disk.felt, [])
})

t.test('copies do not wait for a guest that has gone', async (t) => {
  const disk = new Disk()
  disk.guests.copying()
  disk.guests.seen()
  t.ok(disk.guests.listening)
  disk.at += 100
  t.notOk(disk.guests.listening)
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
  t.ok(disk.guests.listening)
  disk.guests.whenChanged(tell)
  disk.listen()
  t.equal(told, 2)
})
