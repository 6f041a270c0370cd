// SPDX-License-Identifier: Apache-2.0
// Create: makes an image file as a job, so that a slow disk holds up nobody. Used for `blockdev-create`.

import type { Graph } from '../block/graph.js'
import type { CreateSpec, JobReceipt } from '../messages.js'
import type { BodyProgress, JobBody } from './body.js'
import { Stopwatch } from './stopwatch.js'

export class CreateJob implements JobBody {
  readonly #spec: CreateSpec
  readonly #graph: Graph
  readonly #stopwatch = new Stopwatch()
  #done = 0
  #flushed = false

  constructor(spec: CreateSpec, graph: Graph) {
    this.#spec = spec
    this.#graph = graph
  }

  async prepare(): Promise<void> {}

  async run(): Promise<void> {
    this.#stopwatch.enter('bulk')
    try {
      await this.#graph.createFile(this.#spec, [])
      this.#flushed = true
    } finally {
      this.#done = 1
      this.#stopwatch.stop()
    }
  }

  receipt(): JobReceipt {
    const flush = this.#flushed ? 'ok' : 'not-reached'
    return { copied: 0, zeroed: 0, skipped: 0, flush, durations: this.#stopwatch.durations() }
  }

  /** One step, also when it fails, as managers know it. */
  progress(): BodyProgress {
    return { offset: this.#done, len: 1, busy: this.#done === 0, activelySynced: false }
  }

  async finalize(): Promise<void> {}
}
