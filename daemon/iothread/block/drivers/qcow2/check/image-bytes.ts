// SPDX-License-Identifier: Apache-2.0
// The metadata of an image as bytes: reads and writes of any length through one slot at a time, which is given back
// after each piece. Used by the files of this folder. What lies beyond the end of the file reads as zero.

import type { IoEngine } from '../../../../../../native/types.js'
import { type BlockNode, SECTOR } from '../../../node.js'

/** Longest time the thread is kept, milliseconds. */
const TURN_MS = 10

/** Where slots come from; copy/buffers.ts is one. */
export interface SlotSource {
  readonly slotSize: number
  take(): number | undefined
  give(slot: number): void
  whenGiven(call: () => void): void
}

export interface CheckIo {
  readonly node: BlockNode
  readonly engine: Pick<IoEngine, 'slotBytes'>
  readonly slots: SlotSource
  /** Waits while paused. @throws Cancelled */
  pausePoint(): Promise<void>
}

export class ImageBytes {
  readonly #io: CheckIo
  #turn = performance.now()
  /** Writes since the last flush. */
  #written = false

  constructor(io: CheckIo) {
    this.#io = io
  }

  /** Bytes, in whole sectors. */
  get length(): number {
    return Math.ceil(this.#io.node.length() / SECTOR) * SECTOR
  }

  /** @returns fresh bytes, the caller's */
  async read(offset: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length)
    const end = Math.min(offset + length, this.length)
    for (let at = offset; at < end; ) {
      const piece = Math.min(end - at, this.#io.slots.slotSize)
      await this.#withSlot(async (slot) => {
        await this.#io.node.read(at, { slot, offset: 0, length: piece })
        bytes.set(this.#io.engine.slotBytes(slot).subarray(0, piece), at - offset)
      })
      at += piece
    }
    return bytes
  }

  /** What lies beyond the end of the file is left out: a table cut short was read with zeroes there. */
  async write(offset: number, bytes: Uint8Array): Promise<void> {
    this.#written = true
    const length = Math.min(bytes.length, this.length - offset)
    for (let done = 0; done < length; ) {
      const piece = Math.min(length - done, this.#io.slots.slotSize)
      await this.#withSlot(async (slot) => {
        this.#io.engine.slotBytes(slot).set(bytes.subarray(done, done + piece))
        await this.#io.node.write(offset + done, { slot, offset: 0, length: piece })
      })
      done += piece
    }
  }

  /** A barrier: what was written before is durable, where something was. */
  async flush(): Promise<void> {
    if (!this.#written) return
    await this.#io.node.flush()
    this.#written = false
  }

  async resize(length: number): Promise<void> {
    this.#written = true
    await this.#io.node.resize(length)
  }

  /** Whether it is time to call rest(): so that loops need not await in every round. */
  get tired(): boolean {
    return performance.now() - this.#turn > TURN_MS
  }

  /** Lets others run, and ends here when the check is cancelled. */
  async rest(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve))
    this.#turn = performance.now()
    await this.#io.pausePoint()
  }

  async #withSlot(work: (slot: number) => Promise<void>): Promise<void> {
    await this.#io.pausePoint()
    const { slots } = this.#io
    let slot = slots.take()
    for (; slot === undefined; slot = slots.take()) await new Promise<void>((next) => slots.whenGiven(next))
    try {
      await work(slot)
    } finally {
      slots.give(slot)
    }
  }
}
