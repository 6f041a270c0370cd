// SPDX-License-Identifier: Apache-2.0
// A bitmap in the hands of a job or an export: nobody else may use it, nor change it, until it is given back.
// A job calls, in this order: freeze() where nothing is under way on the node; finish() with how it ended; release().

import type { BitmapMode } from '../../messages-bitmaps.js'
import type { DirtyBitmap } from '../dirty-bitmap.js'
import type { NamedBitmap } from './named-bitmap.js'
import type { NodeBitmaps } from './node-bitmaps.js'

export class BitmapUse {
  readonly bitmap: NamedBitmap
  readonly #bitmaps: NodeBitmaps
  readonly #ended: () => Promise<void>
  #over = false

  /** @param ended  called once, when it was given back */
  constructor(bitmap: NamedBitmap, bitmaps: NodeBitmaps, ended: () => Promise<void>) {
    this.bitmap = bitmap
    this.#bitmaps = bitmaps
    this.#ended = ended
    bitmap.busy = true
  }

  /**
   * Changes from now on are kept apart. To be called in a drained section: a change under way would count as later,
   * and what is read of it may be either.
   * @returns what is dirty now; not to be changed
   */
  freeze(): DirtyBitmap {
    this.#bitmaps.freeze(this.bitmap)
    return this.bitmap.bits
  }

  /**
   * on-success: after success the bitmap shows what changed since freeze(), else that and what was dirty before.
   * never: always that and what was dirty before. always: what changed since, and what was not copied.
   * @param left  what of the frozen was not copied; counts after a failure only
   */
  finish(mode: BitmapMode, success: boolean, left?: DirtyBitmap): void {
    const done = mode !== 'never' && (success || (mode === 'always' && left !== undefined))
    this.bitmap.thaw(done, success ? undefined : left)
  }

  /** Others may use the bitmap again. One that was frozen and not finished is as after a failure. */
  async release(): Promise<void> {
    if (this.#over) return
    this.#over = true
    this.bitmap.thaw(false, undefined)
    this.bitmap.busy = false
    await this.#ended()
  }
}
