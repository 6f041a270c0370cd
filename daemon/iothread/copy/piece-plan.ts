// SPDX-License-Identifier: Apache-2.0
// How a copy is cut: in whole units of the target, in pieces as long as memory, speed and guests allow. Used by the copy engine.

import type { CopyOptions } from './copy-options.js'

/** What the source has up to an offset. */
export interface Run {
  readonly kind: 'data' | 'zero'
  readonly end: number
}

export class PiecePlan {
  readonly #options: CopyOptions

  constructor(options: CopyOptions) {
    this.#options = options
  }

  /** A run of the source in units that the target writes whole: what is only partly zero counts as data. */
  wholeRun(kind: 'data' | 'zero', start: number, end: number, limit: number): Run {
    const unit = this.unit
    if (end >= limit || end % unit === 0) return { kind, end: Math.min(end, limit) }
    const down = Math.floor(end / unit) * unit
    if (kind === 'zero' && down > start) return { kind, end: down }
    return { kind: 'data', end: Math.min(limit, down + unit) }
  }

  /** What the target writes whole, or, of a snapshot, is taken at once. */
  get unit(): number {
    const { target, piece, snapshot, bitmap } = this.#options
    return snapshot === undefined ? Math.min(target.driver.limits.writeAlign ?? 1, piece) : bitmap.granularity
  }

  pieceLength(): number {
    const { limit, bitmap, piece, courtesy } = this.#options
    return courtesy.piece(this.unit, limit.piece(Math.min(bitmap.granularity, piece), piece))
  }
}
