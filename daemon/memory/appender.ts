// SPDX-License-Identifier: Apache-2.0
// Writes bytes one behind the other into a file, in whole slots that begin at multiples of the slot size, so that all but
// the first and the last can go past the page cache. Used by sinks for streams and for what follows the pages.

import type { FileId } from '../../native/types.js'
import { IoError } from '../errors.js'
import { TaskPool } from '../iothread/copy/task-pool.js'
import type { Slots } from './slots.js'

export class Appender {
  readonly #slots: Slots
  readonly #file: FileId
  readonly #name: string
  readonly #pool: TaskPool
  /** Where the slot that is being filled begins in the file, bytes. */
  #start: number
  #slot: number | undefined
  #filled = 0

  /**
   * @param offset  where the first byte goes
   * @param atOnce  writes under way at most
   */
  constructor(slots: Slots, file: FileId, name: string, offset: number, atOnce: number) {
    this.#slots = slots
    this.#file = file
    this.#name = name
    this.#start = offset
    this.#pool = new TaskPool(atOnce)
  }

  /** Offset in the file where the next byte goes. */
  get end(): number {
    return this.#start + this.#filled
  }

  /** Takes a copy. Throws what an earlier write failed with. */
  async add(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      this.#slot ??= await this.#slots.take('gather')
      const room = this.#slots.size - (this.#start % this.#slots.size) - this.#filled
      const step = Math.min(bytes.length - done, room)
      this.#slots.bytes(this.#slot).set(bytes.subarray(done, done + step), this.#filled)
      this.#filled += step
      done += step
      if (step === room) await this.#write()
    }
  }

  /** Everything was written. */
  async flush(): Promise<void> {
    if (this.#filled > 0) await this.#write()
    await this.#pool.idle()
  }

  /** Gives the buffer back once nothing is written from it any more. */
  async drop(): Promise<void> {
    if (this.#slot !== undefined) this.#slots.give(this.#slot)
    this.#slot = undefined
    this.#filled = 0
    await this.#pool.settle()
  }

  async #write(): Promise<void> {
    const [slot, offset, length] = [this.#slot, this.#start, this.#filled]
    if (slot === undefined) return
    this.#slot = undefined
    this.#start += length
    this.#filled = 0
    await this.#pool
      .start(async () => {
        const result = await this.#slots.engine.write(this.#file, offset, length, slot, 0)
        this.#slots.give(slot)
        if (result < 0) throw new IoError(-result, 'write', this.#name, offset, length)
      })
      .catch((error: unknown) => {
        // An earlier write failed: this one was not begun.
        this.#slots.give(slot)
        throw error
      })
  }
}
