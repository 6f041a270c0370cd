// SPDX-License-Identifier: Apache-2.0
// Copies one range, and knows what that does to the target: what was done with how many bytes, whether the target may hold
// what is not durable, and whether it reads as zero where nothing was written. Used by the copy engine and by snapshots.
// Zeroes: what the target proves to be zero is never written, nor are zeroes that were read.

import type { IoEngine } from '../../../native/types.js'
import { TaskPool } from '../copy/task-pool.js'
import type { Area } from './dirty-bitmap.js'
import type { Extent, Slice, WriteHow, ZeroHow } from './driver.js'
import type { BlockNode } from './node.js'
import { type Found, unitFor, zeroRuns } from './zero-runs.js'

/** Requests for the parts of one range at once. */
const PARTS = 16

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

/** Memory that is long enough for what it is used for. */
export type Buffer = Pick<Slice, 'slot' | 'offset'>

export interface CopyHow {
  /** Zero ranges may become holes on the target. */
  readonly unmap: boolean
  /** Shortest run of zeroes among data that is not stored, bytes; 0 or undefined: see zero-runs.ts. */
  readonly sparse?: number | undefined
  /** The user vouches that the target reads as zero where nothing was written yet. */
  readonly vouched: boolean
  /** The target lies above something, or will: zeroes are stored, to hide what shows through where it holds nothing. */
  readonly covering?: boolean
  /** Stored compressed where the target can. */
  readonly compressed?: boolean
  /**
   * Only what nothing is stored for in the target is stored; what is there is newer. Afterwards something else shows
   * through, and zeroes must hide it ('kept'), or nothing does ('cut').
   */
  readonly below?: 'kept' | 'cut' | undefined
}

export class RangeCopy {
  readonly counters: CopyCounters = { copied: 0, zeroed: 0, skipped: 0 }
  readonly #engine: IoEngine
  /** Changed by follow() only. */
  #source: BlockNode
  readonly #target: BlockNode
  readonly #how: CopyHow
  readonly #zeroHow: ZeroHow
  readonly #writeHow: WriteHow | undefined
  /** What was not written reads as zero, as the user vouches. */
  vouched: boolean
  /** Whether the target may hold what is not durable: what was found to be equal may not be, whoever wrote it. */
  unflushed = false

  /** @param engine  that reads, whose buffers are used */
  constructor(engine: IoEngine, source: BlockNode, target: BlockNode, how: CopyHow) {
    this.#engine = engine
    this.#source = source
    this.#target = target
    this.#how = how
    this.#zeroHow = { unmap: how.unmap, fast: false, ...(how.covering && { stored: true }) }
    if (how.below !== undefined) this.#writeHow = BELOW
    else if (how.compressed) this.#writeHow = COMPRESSED
    this.vouched = how.vouched
  }

  /** Another node, which reads the same, takes the place of the source. */
  follow(source: BlockNode): void {
    this.#source = source
  }

  async copy({ offset, length }: Area, buffer: Buffer, step: Step): Promise<void> {
    const slice = { slot: buffer.slot, offset: buffer.offset, length }
    step.operation = 'read'
    const zero = await this.#source.read(offset, slice, { scan: true })
    step.operation = 'write'
    if (zero) return this.zero({ offset, length })
    const unit = unitFor(this.#target.driver.limits.writeAlign, this.#how.sparse)
    const parts = zeroRuns(this.#engine, offset, slice, unit)
    if (parts.length === 1) await this.#write(offset, slice)
    else await this.#writeParts(parts, offset, slice)
  }

  async #write(offset: number, slice: Slice): Promise<void> {
    this.unflushed = true
    await this.#target.write(offset, slice, this.#writeHow)
    this.counters.copied += slice.length
  }

  async #writeParts(parts: readonly Found[], offset: number, { slot, offset: begin }: Slice): Promise<void> {
    const pool = new TaskPool(PARTS)
    try {
      for (const part of parts) {
        const slice = { slot, offset: begin + (part.offset - offset), length: part.length }
        await pool.start(() => (part.zero ? this.zero(part) : this.#write(part.offset, slice)))
      }
    } finally {
      await pool.settle()
    }
    await pool.idle()
  }

  /** Makes the target read as zero, leaving alone what is proved to do so already. */
  async zero({ offset, length }: Area): Promise<void> {
    if (this.#how.below !== undefined) return this.#zeroBelow(offset, length)
    const end = offset + length
    for (let at = offset; at < end; ) {
      const extent = await this.#there(at, end - at)
      if (this.#isZero(extent)) this.counters.skipped += extent.length
      else {
        this.unflushed = true
        await this.#target.zero(at, extent.length, this.#zeroHow)
        this.counters.zeroed += extent.length
      }
      at += extent.length
    }
  }

  async #zeroBelow(offset: number, length: number): Promise<void> {
    if (this.#how.below === 'cut') this.counters.skipped += length
    else {
      this.unflushed = true
      await this.#target.zero(offset, length, { unmap: false, fast: false, below: true })
      this.counters.zeroed += length
    }
  }

  #there(offset: number, length: number): Extent | Promise<Extent> {
    if (this.vouched) return { offset, length, kind: 'zero', allocated: true }
    return this.#target.status(offset, length)
  }

  #isZero({ kind, allocated }: Extent): boolean {
    return kind === 'zero' && (allocated || this.#how.covering !== true)
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

const COMPRESSED = { compressed: true } as const
const BELOW = { below: true } as const
