// SPDX-License-Identifier: Apache-2.0
// Buffers of a worker's engine, shared by its jobs. A job takes one slot for each piece it copies and gives it back at
// once, so a job that is paused or slow holds none. Used by the copy engine.

import type { IoEngine } from '../../../native/types.js'

export class Buffers {
  /** Whose they are. */
  readonly engine: IoEngine

  constructor(engine: IoEngine) {
    this.engine = engine
  }

  get slotSize(): number {
    return this.engine.slotSize
  }

  /**
   * @param length  bytes it has at least
   * @returns a slot, or a run of them, to be given back with give(); undefined while there is none
   */
  take(length = this.slotSize): number | undefined {
    return this.engine.takePiece(length)
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
    this.engine.giveSlots([slot])
  }

  /** Calls once, when a slot was given back, by whomever; somebody else may be faster. */
  whenGiven(call: () => void): void {
    this.engine.whenGiven(call)
  }
}
