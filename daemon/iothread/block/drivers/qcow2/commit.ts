// SPDX-License-Identifier: Apache-2.0
// Commit: brings the tables to the disk so that the image is whole at every instant, whatever of the unflushed is lost.
//
//   refcounts ─ flush ─ L2 tables ─ (flush ─ L1) ─ flush ─ freed places may be used again
//      └ data written before is durable with the first flush, before an L2 entry that shows it
//
// Without changes of the map a flush is a flush. While tables are written nobody links: the gate is closed.

import type { Frees } from './frees.js'
import type { Image } from './image.js'
import type { L1Table } from './l1-table.js'
import type { Refcounts } from './refcounts.js'
import type { TableCache } from './table-cache.js'
import { Turns } from './turn.js'

export interface CommitParts {
  readonly image: Image
  readonly refcounts: Refcounts
  readonly l1: L1Table
  readonly l2: TableCache
  readonly frees: Frees
}

export class Commit {
  readonly #parts: CommitParts
  readonly #turns = new Turns()
  /** One that has not begun yet: it serves everybody who asks until then. */
  #queued: Promise<void> | undefined
  #gate: Promise<void> | undefined

  constructor(parts: CommitParts) {
    this.#parts = parts
  }

  /** While set, nothing may be made visible: no L2 or L1 entry changed. Look again after waiting. */
  get gate(): Promise<void> | undefined {
    return this.#gate
  }

  /** Everything linked before the call is durable when this resolves. */
  run(): Promise<void> {
    if (this.#queued !== undefined) return this.#queued
    this.#queued = this.#turns.run(async () => {
      // Not in the same breath as the call: who asks later must not get this one.
      await undefined
      this.#queued = undefined
      await this.#commit()
    })
    return this.#queued
  }

  /** Counts that were lowered since go to the disk. Nothing depends on them: without this they are leaks after a crash. */
  tidy(): Promise<void> {
    const { refcounts } = this.#parts
    return this.#turns.run(async () => {
      if (refcounts.dirty) await refcounts.writeBack()
    })
  }

  async #commit(): Promise<void> {
    const { image, refcounts, l1, l2, frees } = this.#parts
    if (!l2.dirty && !l1.dirty && !frees.pending) {
      if (refcounts.dirty) await refcounts.writeBack()
      await image.flush()
      return
    }
    const freed = frees.take()
    try {
      await this.#writeTables()
      await image.flush()
    } catch (error) {
      frees.putBack(freed)
      throw error
    }
    frees.durable(freed)
  }

  async #writeTables(): Promise<void> {
    const { image, refcounts, l1, l2 } = this.#parts
    let open: () => void = () => {}
    this.#gate = new Promise((resolve) => {
      open = resolve
    })
    try {
      await refcounts.writeBack()
      await image.flush()
      await l2.writeBack()
      if (l1.dirty) {
        await image.flush()
        await l1.writeBack()
      }
    } finally {
      this.#gate = undefined
      open()
    }
  }
}
