// SPDX-License-Identifier: Apache-2.0
// Tells clients whether a job converges: one event for each change of the verdict. Used by Job.

import type { Verdict } from '../../common/convergence.js'
import type { JobProgress } from '../../common/job-messages.js'
import type { EventSink } from '../commands.js'

export class Verdicts {
  readonly #id: string
  readonly #events: EventSink
  #last: Verdict = 'unknown'

  constructor(id: string, events: EventSink) {
    this.#id = id
    this.#events = events
  }

  take({ convergence }: JobProgress): void {
    if (convergence === undefined || convergence.verdict === this.#last) return
    const { verdict, dirtyRate, copyRate } = convergence
    this.#last = verdict
    this.#events.emit('x-job-convergence', {
      ...{ id: this.#id, verdict, 'dirty-rate': dirtyRate, 'copy-rate': copyRate },
    })
  }
}
