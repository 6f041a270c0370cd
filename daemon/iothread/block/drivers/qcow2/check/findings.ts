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

  corruption(line: string): void {
    this.corruptions += 1
    this.say(line)
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
