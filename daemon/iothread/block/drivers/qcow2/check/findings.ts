// SPDX-License-Identifier: Apache-2.0
// What a check found: counters as `qemu-img check` counts them, and its lines of text. Filled by the files of this folder,
// shown by `blockferry check`. Lines are bounded: a broken image has millions of them.

import type { CheckResult } from '../../../../messages.js'

/** Lines kept; the others are counted only. */
export const MAX_LINES = 1000

export class Findings {
  checkErrors = 0
  corruptions = 0
  leaks = 0
  corruptionsFixed = 0
  leaksFixed = 0
  allocatedClusters = 0
  fragmentedClusters = 0
  compressedClusters = 0
  totalClusters = 0
  imageEndOffset = 0
  /** The refcount structures cannot be mended where they are. */
  rebuild = false
  #lines: string[] = []
  #leftOut = 0

  say(line: string): void {
    if (this.#lines.length < MAX_LINES) this.#lines.push(line)
    else this.#leftOut += 1
  }

  /**
   * @param times  how often it was found; each is told of
   * @param more   a line that follows each time
   */
  corruption(line: string, times = 1, more?: string): void {
    this.corruptions += times
    let left = times
    for (; left > 0 && this.#lines.length < MAX_LINES; left--) {
      this.say(line)
      if (more !== undefined) this.say(more)
    }
    this.#leftOut += left * (more === undefined ? 1 : 2)
  }

  /** Lines so far, those left out too. */
  get told(): number {
    return this.#lines.length + this.#leftOut
  }

  result(): CheckResult {
    return {
      checkErrors: this.checkErrors,
      corruptions: this.corruptions,
      leaks: this.leaks,
      corruptionsFixed: this.corruptionsFixed,
      leaksFixed: this.leaksFixed,
      totalClusters: this.totalClusters,
      allocatedClusters: this.allocatedClusters,
      fragmentedClusters: this.fragmentedClusters,
      compressedClusters: this.compressedClusters,
      imageEndOffset: this.imageEndOffset,
      lines: [...this.#lines],
      linesLeftOut: this.#leftOut,
    }
  }
}
