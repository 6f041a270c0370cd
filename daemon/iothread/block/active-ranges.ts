// SPDX-License-Identifier: Apache-2.0
// Ranges that are being copied. Two that overlap never are at once: the older content could come last. Used by the copy
// engine.
// Rule: whoever waits for a range has the buffers he needs already, so those who copy never wait for those who wait.

import type { Area } from '../block/dirty-bitmap.js'

export class ActiveRanges {
  readonly #ranges = new Set<Area>()
  #waiting: (() => void)[] = []

  get size(): number {
    return this.#ranges.size
  }

  /** Waits until nothing of the range is being copied. Somebody else may begin before the caller goes on: ask again. */
  async free(range: Area): Promise<void> {
    while (this.overlaps(range)) await new Promise<void>((resolve) => this.#waiting.push(resolve))
  }

  overlaps(range: Area): boolean {
    for (const other of this.#ranges) if (overlap(range, other)) return true
    return false
  }

  add(range: Area): void {
    this.#ranges.add(range)
  }

  delete(range: Area): void {
    this.#ranges.delete(range)
    for (const wake of this.#waiting.splice(0)) wake()
  }
}

export function overlap(one: Area, other: Area): boolean {
  return one.offset < other.offset + other.length && other.offset < one.offset + one.length
}
