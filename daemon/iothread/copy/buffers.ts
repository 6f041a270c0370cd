// SPDX-License-Identifier: Apache-2.0
// Buffers of a worker's engine, shared by its jobs: a job asks for as many slots as it wants, gets as many as there
// are, and waits in line only when there is none. Used by job bodies.

import type { IoEngine } from '../../../native/types.js'

export class Buffers {
  readonly #engine: IoEngine
  readonly #line: (() => void)[] = []

  constructor(engine: IoEngine) {
    this.#engine = engine
  }

  get slotSize(): number {
    return this.#engine.slotSize
  }

  /** @returns at least one slot, at most `count`; the caller gives them back with release() */
  async acquire(count: number): Promise<number[]> {
    for (;;) {
      const slots = this.#engine.takeSlots(count)
      if (slots.length > 0) return slots
      await new Promise<void>((resolve) => this.#line.push(resolve))
    }
  }

  release(slots: readonly number[]): void {
    this.#engine.giveSlots(slots)
    for (const next of this.#line.splice(0)) next()
  }
}
