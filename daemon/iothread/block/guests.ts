// SPDX-License-Identifier: Apache-2.0
// What the users of a worker's disks feel of its background copies. Exports tell it of the requests of their clients (Guest),
// copies of what they do; it knows whether anybody is there, how long the requests of an export usually take, and what one was
// that took so long now.
//
// What is usual is what requests took while nothing was copied, of each export by itself: one is reached through a slow network,
// another has its clients' requests limited. A copy that goes on and on would never let that be seen, so copies hold back for
// a moment now and then, while somebody is there:
//
//     copies   ████████████████░░░░████████████████████████████░░░░██████
//                          drained ├─┤ usual times            PROBE_EVERY_MS later
//
// A look lasts until everybody who is there was seen. Requests that take longer than a look are seen by a later one that is longer,
// and comes later in proportion: copies hold back for no more than a fortieth of the time.
//
// Time is handed in, so that tests have their own.

import { type GuestRequest, type Judgement, UsualTimes } from './usual.js'

/** Who asked for nothing for so long is not there, milliseconds. */
const AWAY_MS = 100
/** Time from the end of one look at what is usual to the next, milliseconds; of longer looks so many times as long. */
const PROBE_EVERY_MS = 2000
const PROBE_EVERY = 40
/** A look ends after so many requests of each export, or after so many milliseconds with nothing copied and one of each at least. */
const PROBE_REQUESTS = 8
const PROBE_MS = 10
/** Or after so many altogether: a piece of a copy may be stuck, or take no heed, and the others go on beside it. */
const LONGEST_PROBE_MS = 50
/** And no longer than that, where requests take so long that nothing was seen. */
const MOST_PROBE_MS = 16 * LONGEST_PROBE_MS
/** Copies heed somebody whose request takes no longer, milliseconds: it may never end. */
const STUCK_MS = 5000

/**
 * Hears what a request was that met a copy, and from when until when.
 * @param lateShare  the part of such requests that are late while nothing is copied, 0 to 1
 */
export type Felt = (judged: Judgement, lateShare: number, began: number, ended: number) => void

/** What requests ask the time, and whom they tell. */
interface Disk {
  now(): number
  /** A request has ended. */
  ended(guest: Guest, kind: GuestRequest, length: number, began: number, ended: number): void
}

/** The clients of one export. Its memory goes with the export. */
export class Guest {
  readonly usual = new UsualTimes()
  readonly #disk: Disk
  #seenAt = Number.NEGATIVE_INFINITY
  /** Requests under way. */
  #open = 0
  /** Requests that were seen in the look under way. */
  probed = 0

  constructor(disk: Disk) {
    this.#disk = disk
  }

  /** Whether anybody asked for something just now, or waits for it. */
  isThere(now: number): boolean {
    const quietMs = now - this.#seenAt
    return quietMs < AWAY_MS || (this.#open > 0 && quietMs < STUCK_MS)
  }

  /** Waits for something that has not been seen in the look under way. */
  get unseen(): boolean {
    return this.#open > 0 && this.probed === 0
  }

  /** Somebody asks for what says nothing about the disk. */
  seen(): void {
    this.#seenAt = this.#disk.now()
  }

  /** A request begins, whose end is told by ended() or failed(). @returns for ended() */
  began(): number {
    this.#open++
    this.seen()
    return this.#seenAt
  }

  /** How long it took says nothing. */
  failed(): void {
    this.#open--
    this.seen()
  }

  /** @param length  bytes, 0 of a flush */
  ended(kind: GuestRequest, length: number, began: number): void {
    this.#open--
    this.seen()
    this.#disk.ended(this, kind, length, began, this.#seenAt)
  }

  /** Something that a client waits for. */
  async during<T>(kind: GuestRequest, length: number, work: () => Promise<T>): Promise<T> {
    const began = this.began()
    let result: T
    try {
      result = await work()
    } catch (error) {
      this.failed()
      throw error
    }
    this.ended(kind, length, began)
    return result
  }
}

/** A look that is under way. */
interface Probe {
  readonly began: number
  /** Since then nothing is copied. */
  calmSince: number | undefined
}

export class Guests {
  readonly #now: () => number
  readonly #guests = new Set<Guest>()
  readonly #felt = new Set<Felt>()
  readonly #waiting = new Set<() => void>()
  /** Pieces of copies under way, and when there was one last. */
  #pieces = 0
  #copiedAt = Number.NEGATIVE_INFINITY
  #probe: Probe | undefined
  #nextProbe = Number.NEGATIVE_INFINITY
  #longestProbeMs = LONGEST_PROBE_MS

  /** @param now  monotonic clock, milliseconds */
  constructor(now = () => performance.now()) {
    this.#now = now
  }

  /** Another export. */
  join(): Guest {
    const guest = new Guest({
      now: this.#now,
      ended: (one, kind, length, began, ended) => this.#ended(one, kind, length, began, ended),
    })
    this.#guests.add(guest)
    return guest
  }

  /** It is served no more. */
  leave(guest: Guest): void {
    this.#guests.delete(guest)
  }

  /** Whether anybody is there. */
  get active(): boolean {
    return this.#there(this.#now()).length > 0
  }

  #there(now: number): Guest[] {
    return [...this.#guests].filter((guest) => guest.isThere(now))
  }

  #ended(guest: Guest, kind: GuestRequest, length: number, began: number, ended: number): void {
    const usual = guest.usual.of(kind, length)
    if (this.#pieces === 0 && this.#copiedAt <= began) {
      usual.add(ended - began)
      guest.probed++
      if (this.#probe !== undefined && this.#isOver(this.#probe, ended)) this.#endProbe(ended)
    } else if (this.#probe === undefined && this.#felt.size > 0) {
      const judged = usual.judge(ended - began)
      if (judged === undefined) return
      for (const felt of this.#felt) felt(judged, usual.lateShare, began, ended)
    }
  }

  /** A piece of a copy begins, or what is copied before a change that waits for it. */
  copying(): void {
    this.#pieces++
  }

  copied(): void {
    this.#pieces--
    this.#copiedAt = this.#now()
    this.#wake()
  }

  /**
   * Whether copies are to begin nothing, so that it can be seen what is usual. A look begins and ends here, so whoever copies
   * asks before each piece, and again after whenChanged().
   */
  holdBack(): boolean {
    const now = this.#now()
    if (this.#there(now).length === 0) {
      this.#probe = undefined
      return false
    }
    if (this.#probe === undefined) {
      if (now < this.#nextProbe) return false
      this.#probe = { began: now, calmSince: undefined }
      for (const guest of this.#guests) guest.probed = 0
    }
    if (this.#pieces === 0) this.#probe.calmSince ??= now
    if (this.#isOver(this.#probe, now)) this.#endProbe(now)
    return this.#probe !== undefined
  }

  /** Calls once, when a piece of a copy has ended, or a look at what is usual. */
  whenChanged(call: () => void): void {
    this.#waiting.add(call)
  }

  addListener(felt: Felt): Disposable {
    this.#felt.add(felt)
    return { [Symbol.dispose]: () => this.#felt.delete(felt) }
  }

  #isOver({ began, calmSince }: Probe, now: number): boolean {
    if (now - began >= this.#longestProbeMs) return true
    const fewest = Math.min(...this.#there(now).map(({ probed }) => probed))
    if (fewest >= PROBE_REQUESTS) return true
    return calmSince !== undefined && fewest > 0 && now - calmSince >= PROBE_MS
  }

  #endProbe(now: number): void {
    if (this.#probe === undefined) return
    // Nobody may have looked for long: that says nothing.
    const tookMs = Math.min(now - this.#probe.began, MOST_PROBE_MS)
    const tooShort = this.#pieces === 0 && this.#there(now).some(({ unseen }) => unseen)
    this.#longestProbeMs = tooShort
      ? Math.min(MOST_PROBE_MS, 2 * this.#longestProbeMs)
      : Math.max(LONGEST_PROBE_MS, Math.min(this.#longestProbeMs, 2 * tookMs))
    this.#nextProbe = now + Math.max(PROBE_EVERY_MS, PROBE_EVERY * tookMs)
    this.#probe = undefined
    this.#wake()
  }

  #wake(): void {
    const waiting = [...this.#waiting]
    this.#waiting.clear()
    for (const call of waiting) call()
  }
}
