// SPDX-License-Identifier: Apache-2.0
// Buffers of a worker's engine, shared by its jobs. A job takes one slot for each piece it copies and gives it back at
// once, so a job that is paused or slow holds none; one whose storage is stuck holds them without end, so copies leave some to
// others. Used by the copy engine.

import type { IoEngine } from '../../../native/types.js'

export class Buffers {
  /** Whose they are. */
  readonly engine: IoEngine
  readonly #shares: boolean
  /** Slots taken here. */
  #held = 0

  /** @param shares  none is taken by who holds as many as are free: each leaves half of what it found, and the next half of that */
  constructor(engine: IoEngine, shares = false) {
    this.engine = engine
    this.#shares = shares
  }

  /** Those of one job that takes as many as it gets; what is taken here is given back here. */
  share(): Buffers {
    return new Buffers(this.engine, true)
  }

  get slotSize(): number {
    return this.engine.slotSize
  }

  /**
   * @param length  bytes it has at least
   * @returns a slot, or a run of them, to be given back with give(); undefined while there is none
   */
  take(length = this.slotSize): number | undefined {
    const slot = this.engine.takePiece(length, this.#shares ? this.#held : 0)
    if (slot !== undefined) this.#held += this.#slots(slot)
    return slot
  }

  /** A slot, or a run of them, once there is one; to be given back with give(). */
  async acquire(length?: number): Promise<number> {
    for (;;) {
      const slot = this.take(length)
      if (slot !== undefined) return slot
      await new Promise<void>((resolve) => this.whenGiven(resolve))
    }
  }

  /** The bytes of a slot that is taken; not to be kept after it is given back. */
  bytes(slot: number): Uint8Array {
    return this.engine.slotBytes(slot)
  }

  give(slot: number): void {
    this.#held -= this.#slots(slot)
    this.engine.giveSlots([slot])
  }

  /** How many a slot that is taken, or a run that begins with it, is. */
  #slots(slot: number): number {
    return this.bytes(slot).length / this.slotSize
  }

  /** Calls once, when a slot was given back, by whomever; somebody else may be faster. */
  whenGiven(call: () => void): void {
    this.engine.whenGiven(call)
  }
}
