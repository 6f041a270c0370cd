// SPDX-License-Identifier: Apache-2.0
// Pages that a scanner gathers, on their way to the sink: gives it slots and hands them on when they are full. Used by
// sources of streams and of multifd channels.

import type { PageScanner } from '../../native/stream-types.js'
import type { MemorySink } from './image.js'
import type { Slots } from './slots.js'

export class PageGatherer {
  readonly #scanner: PageScanner
  readonly #slots: Slots
  readonly #sink: MemorySink
  #slot: number | undefined

  constructor(scanner: PageScanner, slots: Slots, sink: MemorySink) {
    this.#scanner = scanner
    this.#slots = slots
    this.#sink = sink
  }

  /** The scanner has a slot. */
  async ready(): Promise<void> {
    if (this.#slot !== undefined) return
    this.#slot = await this.#slots.take('gather')
    this.#scanner.gatherInto(this.#slot)
  }

  /** Pages are gathered in this slot from now on, which becomes ours. */
  async gatherIn(slot: number): Promise<void> {
    await this.hand()
    this.#slot = slot
    this.#scanner.gatherInto(slot)
  }

  /** Gives what was gathered to the sink. */
  async hand(): Promise<void> {
    const slot = this.#slot
    if (slot === undefined) return
    this.#slot = undefined
    const { pieces, length } = this.#scanner.take()
    if (length === 0) this.#slots.give(slot)
    else await this.#sink.pages({ slot, pieces, length })
  }

  /** Everything gathered so far is in its place. */
  async settle(): Promise<void> {
    await this.hand()
    await this.#sink.barrier()
  }

  /** Gives its slot back. */
  drop(): void {
    if (this.#slot !== undefined) this.#slots.give(this.#slot)
    this.#slot = undefined
  }
}
