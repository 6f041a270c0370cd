// SPDX-License-Identifier: Apache-2.0
// The lanes of a worker (native/lane-types.ts): each holds a task and a piece of memory, so there are few. Used by NBD exports
// and by images.

import type { IoEngine } from '../../../native/types.js'

const MOST_LANES = 16

export class Lanes {
  readonly engine: IoEngine
  #free = MOST_LANES

  constructor(engine: IoEngine) {
    this.engine = engine
  }

  take(): boolean {
    if (this.#free === 0) return false
    this.#free--
    return true
  }

  give(): void {
    this.#free++
  }
}
