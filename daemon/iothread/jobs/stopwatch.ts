// SPDX-License-Identifier: Apache-2.0
// How long a job spent in each phase. Used by job bodies for their receipts.

import type { JobPhase } from '../../common/job-messages.js'

export class Stopwatch {
  readonly #spent: Partial<Record<JobPhase, number>> = {}
  #phase: JobPhase | undefined
  #since = 0

  /** The one it is in. */
  get phase(): JobPhase | undefined {
    return this.#phase
  }

  enter(phase: JobPhase): void {
    this.stop()
    this.#phase = phase
    this.#since = performance.now()
  }

  stop(): void {
    if (this.#phase === undefined) return
    this.#spent[this.#phase] = (this.#spent[this.#phase] ?? 0) + performance.now() - this.#since
    this.#phase = undefined
  }

  /** Milliseconds by phase, whole numbers; phases never entered are absent. */
  durations(): Readonly<Partial<Record<JobPhase, number>>> {
    return Object.fromEntries(Object.entries(this.#spent).map(([phase, ms]) => [phase, Math.round(ms)]))
  }
}
