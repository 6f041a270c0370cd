// SPDX-License-Identifier: Apache-2.0
// Copies areas of a snapshot. Used by the copy engine.
// Rule: the bits say what is still only in the source, and changes wait for their turn there. A bit is cleared when its chunk is
// taken, here or by whoever copies before a write, and what is dirty never changes meanwhile.

import type { Area } from '../block/dirty-bitmap.js'
import type { Step } from '../block/range-copy.js'
import type { Snapshot } from '../block/snapshot.js'
import type { CopyOptions } from './copy-options.js'
import type { Pace } from './pace.js'
import type { PiecePlan, Run } from './piece-plan.js'
import type { TaskPool } from './task-pool.js'

/** Longest part of a snapshot under way at once, bytes: changes of it wait for all of it. */
const PART = 16 * 2 ** 20

export class StillCopy {
  readonly #options: CopyOptions
  readonly #snapshot: Snapshot
  readonly #pace: Pace
  readonly #plan: PiecePlan

  constructor(options: CopyOptions, snapshot: Snapshot, pace: Pace, plan: PiecePlan) {
    this.#options = options
    this.#snapshot = snapshot
    this.#pace = pace
    this.#plan = plan
  }

  /** Walks an area extent by extent. What is dirty stays as it is until it is copied, here or before a write. */
  async copyArea(area: Area, pool: TaskPool): Promise<void> {
    const { bitmap, source } = this.#options
    const end = area.offset + area.length
    let known: Run | undefined
    for (let at = area.offset; at < end; ) {
      await this.#pace.turn(pool)
      const next = bitmap.nextDirty(at, bitmap.granularity)
      if (next === undefined || next.offset >= end) return
      at = next.offset
      if (known === undefined || known.end <= at) {
        try {
          const extent = await source.status(at, end - at)
          known = this.#plan.wholeRun(extent.kind, at, at + extent.length, end)
        } catch (error) {
          if (this.#pace.judge('read', error) === 'report') throw error
          return
        }
      }
      const left = known.end - at
      const piece = Math.max(bitmap.granularity, this.#plan.pieceLength())
      const length = known.kind === 'zero' ? left : Math.min(left, piece)
      await this.#start({ offset: at, length }, known.kind, pool)
      at += length
    }
  }

  /** What of a range is still to do when its turn has come. */
  async #start(range: Area, kind: 'data' | 'zero', pool: TaskPool): Promise<void> {
    const { buffers, limit, courtesy, piece } = this.#options
    const snapshot = this.#snapshot
    const slot = kind === 'data' ? await this.#pace.slot(pool, piece) : undefined
    try {
      await pool.room()
    } catch (error) {
      if (slot !== undefined) buffers.give(slot)
      throw error
    }
    if (slot !== undefined) limit.charge(range.length)
    await pool.start(async () => {
      try {
        for (const part of snapshot.take(range, PART))
          await courtesy.during(slot === undefined ? 0 : part.length, () => this.#copyPart(part, slot))
      } finally {
        if (slot !== undefined) buffers.give(slot)
      }
    })
  }

  /** @param slot  undefined: the part reads as zero */
  async #copyPart(part: Area, slot: number | undefined): Promise<void> {
    const snapshot = this.#snapshot
    const step: Step = { operation: 'write' }
    try {
      if (slot === undefined) await snapshot.copies.zero(part)
      else await snapshot.copy(part, { slot, offset: 0 }, this.#options.piece, step)
    } catch (error) {
      snapshot.failed(part)
      if (this.#pace.judge(step.operation, error) === 'report') throw error
      return
    }
    snapshot.done(part)
    this.#pace.wentWell()
    await this.#options.copied?.(part)
  }
}
