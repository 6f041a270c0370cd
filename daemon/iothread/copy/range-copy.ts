// SPDX-License-Identifier: Apache-2.0
// Copies one range, and knows what that does to the target: what was done with how many bytes, whether the target may hold
// what is not durable, and whether it reads as zero where nothing was written. Used by the copy engine.
// Zeroes: what the target proves to be zero is never written.

import type { Area } from '../block/dirty-bitmap.js'
import type { BlockNode } from '../block/node.js'

/** Bytes, by what was done with them. */
export interface CopyCounters {
  copied: number
  zeroed: number
  skipped: number
}

/** Which side is being asked, to say where an error comes from. */
export interface Step {
  operation: 'read' | 'write'
}

export class RangeCopy {
  readonly counters: CopyCounters = { copied: 0, zeroed: 0, skipped: 0 }
  readonly #source: BlockNode
  readonly #target: BlockNode
  readonly #unmap: boolean
  /** What was not written reads as zero, as the user vouches. */
  vouched: boolean
  /** Whether the target may hold what is not durable: what was found to be equal may not be, whoever wrote it. */
  unflushed = false

  constructor(source: BlockNode, target: BlockNode, unmap: boolean, vouched: boolean) {
    this.#source = source
    this.#target = target
    this.#unmap = unmap
    this.vouched = vouched
  }

  /** @param slot  a buffer at least as long as the range */
  async copy({ offset, length }: Area, slot: number, step: Step): Promise<void> {
    const slice = { slot, offset: 0, length }
    step.operation = 'read'
    const zero = await this.#source.read(offset, slice, { scan: true })
    step.operation = 'write'
    if (zero) return this.zero({ offset, length })
    this.unflushed = true
    await this.#target.write(offset, slice)
    this.counters.copied += length
  }

  /** Makes the target read as zero, leaving alone what is proved to do so already. */
  async zero({ offset, length }: Area): Promise<void> {
    const end = offset + length
    for (let at = offset; at < end; ) {
      const extent = this.vouched
        ? { kind: 'zero', length: end - at }
        : await this.#target.status(at, end - at)
      if (extent.kind === 'zero') this.counters.skipped += extent.length
      else {
        this.unflushed = true
        await this.#target.zero(at, extent.length, { unmap: this.#unmap, fast: false })
        this.counters.zeroed += extent.length
      }
      at += extent.length
    }
  }

  /** Makes what was written durable. Throws when that fails: it is never tried again and believed. */
  async flush(): Promise<void> {
    if (!this.unflushed) return
    this.unflushed = false
    try {
      await this.#target.flush()
    } catch (error) {
      this.unflushed = true
      throw error
    }
  }
}
