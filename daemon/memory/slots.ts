// SPDX-License-Identifier: Apache-2.0
// Buffers of a memory worker: whole slots of its engine, waited for in line. Used by sources and sinks.
// Rule: receivers may hold RESERVED slots less than all, so that what was received can always be gathered and written;
// else both sides could wait for each other.

import type { IoEngine } from '../../native/types.js'

/** Slots that only pages on their way out may hold. */
const RESERVED = 8
/** Slots a connection must be able to hold: one that is being read, one that is being filled. */
export const LEAST_SHARE = 2
/** Slots for as many connections as multifd can have. */
export const MOST_SLOTS = LEAST_SHARE * 256 + RESERVED

interface Waiter {
  readonly receiving: boolean
  readonly resolve: (slot: number) => void
}

export class Slots {
  readonly engine: IoEngine
  #most: number
  readonly #line: Waiter[] = []
  #taken = 0

  /** @param most  slots altogether, at least RESERVED + 2 */
  constructor(engine: IoEngine, most: number) {
    this.engine = engine
    this.#most = most
  }

  get size(): number {
    return this.engine.slotSize
  }

  /** Slots that receivers may hold together. */
  get forReceivers(): number {
    return this.#most - RESERVED
  }

  /** There are so many connections: for many there become more slots. */
  provideFor(connections: number): void {
    this.#most = Math.max(this.#most, LEAST_SHARE * connections + RESERVED)
  }

  /** What each of so many receivers may hold, so that none can take what another needs. */
  shareOf(receivers: number): number {
    this.provideFor(receivers)
    return Math.floor(this.forReceivers / receivers)
  }

  /** A slot, once there is one. */
  take(use: 'receive' | 'gather'): Promise<number> | number {
    const slot = this.#tryTake(use === 'receive')
    if (slot !== undefined) return slot
    return new Promise((resolve) => this.#line.push({ receiving: use === 'receive', resolve }))
  }

  give(slot: number): void {
    this.engine.giveSlots([slot])
    this.#taken -= 1
    for (let index = 0; index < this.#line.length; ) {
      const next = this.#line[index]
      const free = next === undefined ? undefined : this.#tryTake(next.receiving)
      if (next === undefined || free === undefined) index += 1
      else {
        this.#line.splice(index, 1)
        next.resolve(free)
      }
    }
  }

  bytes(slot: number): Uint8Array {
    return this.engine.slotBytes(slot)
  }

  #tryTake(receiving: boolean): number | undefined {
    if (this.#taken >= (receiving ? this.forReceivers : this.#most)) return undefined
    const [slot] = this.engine.takeSlots(1)
    if (slot !== undefined) this.#taken += 1
    return slot
  }
}
