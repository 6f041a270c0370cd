// SPDX-License-Identifier: Apache-2.0
// Courtesy: how much a copy may have in flight while guests use the disks of its worker. A device serves what it has been given,
// so a guest's request waits for the copy's bytes that are before it: with 16 MiB in flight some 15 ms, with 256 KiB a third
// of one. Each copy has one; used by the copy engine, and by the watch over convergence, for which courtesy gives way.
//
// Additive increase, multiplicative decrease, as networks share a line: requests that take no longer than they may widen
// the window by a step, a round with more late ones than there would be anyway halves it, and so does a single one that took
// very long. Nobody there: no window.
// Invariant: one piece may always be in flight, but for the moments in which nothing is (Guests.holdBack).

import type { Guests } from '../block/guests.js'
import type { Judgement } from '../block/usual.js'

/** Smallest window, bytes: one such piece at a time copies at some 30 % of full speed or more, and half as much spares guests nothing. */
export const LEAST = 128 * 1024
/** By that much a window grows, bytes; pieces are multiples of it. */
const STEP = 64 * 1024
/** What is in flight at first, when somebody has come. */
const FIRST = 256 * 1024
/** Requests of a round at least, and late ones among them, besides those that are late anyway, that do not make it a bad one. */
const ROUND = 16
const MOST_LATE = 2
/** The part of requests that may be late anyway: where more are, what is usual says little, and the copy may be why. */
const MOST_ANYWAY = 0.25
/** By how much the smallest window grows when a copy does not get done. */
const PRESSURE = 4

export class Courtesy {
  readonly #guests: Guests
  readonly #full: number
  readonly #wanted: () => boolean
  #window = FIRST
  #least = LEAST
  #inFlight = 0
  /** When the window was halved last: what was asked before that says nothing about it. */
  #halvedAt = Number.NEGATIVE_INFINITY
  /** When it changed last: a round is not over before something has ended that was asked after that. */
  #changedAt = Number.NEGATIVE_INFINITY
  #requests = 0
  #late = 0
  /** Of how many the round's requests are late anyway. */
  #lateAnyway = 0

  /**
   * @param full    in flight at most, bytes
   * @param wanted  whether guests are to be heeded now
   */
  constructor(guests: Guests, full: number, wanted: () => boolean = () => true) {
    this.#guests = guests
    this.#full = full
    this.#wanted = wanted
  }

  /** Bytes that may be in flight now. When everybody has gone, the next who comes finds the first window. */
  window(): number {
    if (this.#least >= this.#full || !this.#wanted()) return this.#full
    if (this.#guests.active) return Math.min(this.#full, Math.max(this.#least, this.#window))
    this.#window = FIRST
    return this.#full
  }

  /** Whether less may be in flight than there could be, for guests who are there, or was just now. */
  get yields(): boolean {
    return this.#wanted() && this.#guests.active
  }

  /** Whether a piece may begin now; see Guests.holdBack for when to ask. */
  mayBegin(): boolean {
    const window = this.window()
    if (window >= this.#full) return true
    return this.#inFlight < window && !this.#guests.holdBack()
  }

  /** Calls once, when there may be room; the same function is called once however often it was handed in. */
  whenRoom(call: () => void): void {
    this.#guests.whenChanged(call)
  }

  /**
   * Longest piece to begin, bytes. One as long as the window, not two that are read and written at once: beside guests it is
   * the processors that are short of time, and they have half as much to do (2 × 128 KiB: 640 MiB/s, 1 × 256 KiB: 720).
   * @param unit  pieces are multiples of this
   */
  piece(unit: number, most: number): number {
    const window = this.window()
    if (window >= this.#full) return most
    const step = Math.max(STEP, unit)
    return Math.min(most, Math.max(step, Math.floor(window / step) * step))
  }

  /** A piece begins; also what moves no bytes is work for a disk. */
  began(bytes: number): void {
    this.#inFlight += Math.max(LEAST, bytes)
    this.#guests.copying()
  }

  ended(bytes: number): void {
    this.#inFlight -= Math.max(LEAST, bytes)
    this.#guests.copied()
  }

  /** Work that guests may have to wait for. */
  async during(bytes: number, work: () => Promise<void>): Promise<void> {
    this.began(bytes)
    try {
      await work()
    } finally {
      this.ended(bytes)
    }
  }

  /** While the copy is at work it hears what guests feel of it. */
  listen(): Disposable {
    return this.#guests.addListener((judged, lateShare, began, ended) => {
      if (began >= this.#halvedAt) this.#felt(judged, lateShare, began, ended)
    })
  }

  /** The copy does not get done: guests are heeded less, and after some times not at all. */
  press(): void {
    this.#least = Math.min(this.#full, this.#least * PRESSURE)
  }

  /** It gets done by far: takes one press() back. */
  ease(): void {
    this.#least = Math.max(LEAST, this.#least / PRESSURE)
  }

  /** It got done. */
  relax(): void {
    this.#least = LEAST
  }

  #felt(judged: Judgement, lateShare: number, began: number, at: number): void {
    this.#requests++
    this.#lateAnyway += lateShare
    if (judged !== 'fine') this.#late++
    const anyway = Math.min(MOST_ANYWAY, this.#lateAnyway / this.#requests)
    const bad = this.#late > (MOST_LATE / ROUND + anyway) * Math.max(ROUND, this.#requests)
    if (bad || judged === 'stalled') {
      this.#window = Math.max(LEAST, this.#window / 2)
      this.#halvedAt = at
    } else if (this.#requests < ROUND || began < this.#changedAt) return
    else this.#window = Math.min(this.#full, this.#window + STEP)
    this.#changedAt = at
    this.#requests = 0
    this.#late = 0
    this.#lateAnyway = 0
  }
}
