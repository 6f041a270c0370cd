// SPDX-License-Identifier: Apache-2.0
// Jobs that end together: when all have done their work all are finalized, and when one fails or is cancelled all others are
// cancelled. Made by a transaction; its members are jobs that nobody has seen yet.

import type { Job } from './job.js'

export class JobGroup {
  /** The one that was started last comes first, as the reference ends them. */
  readonly #members: Job[] = []
  #failed = false

  add(job: Job): void {
    this.#members.unshift(job)
  }

  /** Resolves when all of them are concluded. */
  get ended(): Promise<unknown> {
    return Promise.all(this.#members.map(({ ended }) => ended))
  }

  /** A member has done its work. */
  done(): void {
    if (!this.#members.every(({ state }) => state === 'waiting')) return
    for (const member of this.#members) member.pend()
    if (this.#members.every(({ plan }) => plan.autoFinalize)) void this.finalize()
  }

  /** Applies what all of them did; answers when all are concluded. */
  async finalize(): Promise<void> {
    for (const member of this.#members) member.seal()
    for (const member of this.#members)
      if (this.#failed) member.giveUp()
      else await member.commit()
  }

  /** A member failed or was cancelled. */
  failed(): void {
    if (this.#failed) return
    this.#failed = true
    for (const member of this.#members) member.giveUp()
  }
}
