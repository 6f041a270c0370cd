// SPDX-License-Identifier: Apache-2.0
// How long a row of requests has to be before its client gets a lane. Used by those who lend lanes: nbd/lane.ts, images/lane.ts.
// Rule: the less a lane was good for, the longer the next row must be.

import type { LaneCounts } from '../../../native/lane-types.js'

/** Requests in a row before the first lane, and at most before any. */
const SHORTEST_ROW = 8
const LONGEST_ROW = 4096
/** A lane that served fewer was not worth it. */
const WORTH = 64
/** A client that is silent for so long, or takes so long to send one request, holds no memory and no task. */
export const IDLE_MS = 100

/** Of one client. */
export class LaneRow {
  #length = 0
  #wanted = SHORTEST_ROW

  get longEnough(): boolean {
    return this.#length >= this.#wanted
  }

  /** A request. @param fits  it came alone and is one that lanes serve */
  saw(fits: boolean): void {
    this.#length = fits ? this.#length + 1 : 0
  }

  /** Another row has to come first. */
  restart(): void {
    this.#length = 0
  }

  /** A lane has ended. */
  judge({ reads, writes }: Pick<LaneCounts, 'reads' | 'writes'>): void {
    this.#length = 0
    this.#wanted = reads + writes < WORTH ? Math.min(this.#wanted * 2, LONGEST_ROW) : SHORTEST_ROW
  }
}
