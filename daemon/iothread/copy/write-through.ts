// SPDX-License-Identifier: Apache-2.0
// Write-through: a change of the source is answered when it has reached the target too, so that what is left to copy
// only shrinks. Used by the mirror, whose filter gives it every change that comes from above.
//
//   submit to the source ──▶ copy the range from there ──▶ answer          failed, or held up by a pause: it is dirty
//
// The data is read back from the source: of changes of one range at once nobody else knows which was the last.

import type { Area } from '../block/dirty-bitmap.js'
import type { ChangeGuard } from '../block/drivers/mirror-top.js'
import type { CopyEngine } from './engine.js'

export class WriteThrough implements ChangeGuard {
  readonly #engine: CopyEngine
  readonly #wanted: () => boolean
  readonly #copying: (length: number) => void
  readonly #dirtied: (offset: number, length: number) => void
  /** Changes under way that will be copied. */
  readonly #announced = new Set<Area>()
  #under = 0
  #idle: (() => void)[] = []

  /**
   * @param wanted   whether changes are to reach the target now; else they are only marked, by whoever listens to the source
   * @param copying  told of bytes that are about to be copied
   * @param dirtied  told of changes that did not reach the target
   */
  constructor(
    engine: CopyEngine,
    wanted: () => boolean,
    copying: (length: number) => void,
    dirtied: (offset: number, length: number) => void,
  ) {
    this.#engine = engine
    this.#wanted = wanted
    this.#copying = copying
    this.#dirtied = dirtied
  }

  /** A change of the range need not be marked, whoever made it: the range is going to be copied as it is then. */
  covers(offset: number, length: number): boolean {
    for (const each of this.#announced)
      if (each.offset <= offset && offset + length <= each.offset + each.length) return true
    return false
  }

  async change(offset: number, length: number, submit: () => Promise<void>): Promise<void> {
    if (length === 0 || !this.#wanted()) return submit()
    const range = { offset, length }
    this.#announced.add(range)
    this.#under++
    let copied = false
    try {
      await submit()
      this.#announced.delete(range)
      if (!this.#wanted()) return
      this.#copying(length)
      copied = await this.#engine.copyNow(range)
    } finally {
      this.#announced.delete(range)
      if (!copied) this.#dirtied(offset, length)
      this.#under--
      if (this.#under === 0) for (const resolve of this.#idle.splice(0)) resolve()
    }
  }

  /** Waits until no change is under way. */
  async idle(): Promise<void> {
    while (this.#under > 0) await new Promise<void>((resolve) => this.#idle.push(resolve))
  }
}
