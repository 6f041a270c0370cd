// SPDX-License-Identifier: Apache-2.0
// Budgets: each a bandwidth that the jobs which name it share, whatever workers they run in. Used by Jobs; the objects
// say how much there is. Shares are handed out anew when jobs come and go, when the bandwidth is changed, and as jobs
// report what they used.
// Invariant: the shares of a budget are together not more than its bandwidth, but for the moment in which workers are told.

import { CommandError } from '../errors.js'
import { shares } from './budget-shares.js'

/** Time between two looks at what is used, milliseconds. */
const LOOK_MS = 500

/** Bytes per second of a budget, 0 = no limit; undefined when there is none of that name. */
export type Bandwidth = (id: string) => number | undefined

interface Working {
  /** Tells its worker. */
  readonly send: (share: number) => void
  /** Bytes that it paid for; undefined until it told. */
  charged: number | undefined
  /** The same at the last look, and what it used then, bytes per second. */
  look: { readonly at: number; readonly charged: number; readonly used: number } | undefined
}

/** A job's part in a budget, from when its start was asked for. */
export class Seat {
  readonly budget: string
  readonly #budgets: Budgets
  working: Working | undefined
  /** Bytes per second, 0 = no limit. */
  share = 0

  constructor(budget: string, budgets: Budgets) {
    this.budget = budget
    this.#budgets = budgets
  }

  /** The job is about to run. @returns its share; others that come later are sent */
  start(send: (share: number) => void): number {
    this.working = { send, charged: undefined, look: undefined }
    this.#budgets.divide(this.budget, this)
    return this.share
  }

  /** The job told how many bytes it paid for altogether. */
  used(bytes: number): void {
    if (this.working === undefined) return
    this.working.charged = bytes
    this.#budgets.look(this.budget)
  }

  /** The job is over, or never was. */
  leave(): void {
    this.working = undefined
    this.#budgets.leave(this)
  }
}

export class Budgets {
  readonly #bandwidth: Bandwidth
  readonly #now: () => number
  readonly #seats = new Set<Seat>()
  /** When each budget was looked at last. */
  readonly #looked = new Map<string, number>()

  /** @param now  monotonic clock, milliseconds */
  constructor(bandwidth: Bandwidth, now = () => performance.now()) {
    this.#bandwidth = bandwidth
    this.#now = now
  }

  /** @throws CommandError when there is no such budget */
  join(id: string): Seat {
    if (this.#bandwidth(id) === undefined) throw new CommandError(`Budget '${id}' does not exist`)
    const seat = new Seat(id, this)
    this.#seats.add(seat)
    return seat
  }

  /** A job names it. */
  inUse(id: string): boolean {
    for (const seat of this.#seats) if (seat.budget === id) return true
    return false
  }

  leave(seat: Seat): void {
    if (!this.#seats.delete(seat)) return
    this.divide(seat.budget)
    if (!this.inUse(seat.budget)) this.#looked.delete(seat.budget)
  }

  /** Hands out shares by what was used since the last look, when that is some time ago. */
  look(id: string): void {
    if (this.#now() - (this.#looked.get(id) ?? 0) >= LOOK_MS) this.divide(id)
  }

  /** Hands out shares now. @param silent  is not sent its share: it asks for it */
  divide(id: string, silent?: Seat): void {
    const bandwidth = this.#bandwidth(id) ?? 0
    const seats = [...this.#seats].filter((seat) => seat.budget === id && seat.working !== undefined)
    const uses = seats.map((seat) => ({ share: seat.share, used: this.#use(seat) }))
    this.#looked.set(id, this.#now())
    const parts = bandwidth === 0 ? seats.map(() => 0) : shares(bandwidth, uses)
    const changes = seats
      .map((seat, index) => ({ seat, share: parts[index] ?? 0 }))
      .filter(({ seat, share }) => seat.share !== share)
    // Who gets less hears of it first.
    changes.sort((a, b) => a.share - a.seat.share - (b.share - b.seat.share))
    for (const { seat, share } of changes) {
      seat.share = share
      if (seat !== silent) seat.working?.send(share)
    }
  }

  /** Bytes per second since the last look; of who told too little yet, all it has. */
  #use({ share, working }: Seat): number {
    if (working?.charged === undefined) return share
    const { charged, look } = working
    const at = this.#now()
    if (look !== undefined && at - look.at < LOOK_MS) return look.used
    const used = look === undefined ? share : ((charged - look.charged) * 1000) / (at - look.at)
    working.look = { at, charged, used }
    return used
  }
}
