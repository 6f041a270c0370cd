// SPDX-License-Identifier: Apache-2.0
// What the main thread says to the body of one job. Used by Job.
// Rule: nobody waits for an answer but who asks for an end or a pause; other verbs are answered by reports. A worker that
// cannot hear ends, and its end ends the job.

import type { CopyMode } from '../../common/job-messages.js'
import type { JobSurroundings, JobWorker } from './surroundings.js'

type Told =
  | ['job-cancel' | 'job-resume', { id: string }]
  | ['job-complete', { id: string; pivot: boolean }]
  | ['job-set-speed', { id: string; speed: number }]
  | ['job-set-share', { id: string; share: number }]
  | ['job-change', { id: string; copyMode: CopyMode }]

export class Verbs {
  readonly #id: string
  readonly #worker: JobWorker
  readonly #log: JobSurroundings['log']

  constructor(id: string, { worker, log }: Pick<JobSurroundings, 'worker' | 'log'>) {
    this.#id = id
    this.#worker = worker
    this.#log = log
  }

  tell(...[name, args]: Told): void {
    this.#worker.request(name, args).catch((error) => this.#unheard(name, error))
  }

  /** Answers when the worker took notice. */
  async pause(): Promise<void> {
    await this.#worker
      .request('job-pause', { id: this.#id })
      .catch((error) => this.#unheard('job-pause', error))
  }

  /** @returns the reason when the worker could not do it */
  async finalize(commit: boolean): Promise<string | undefined> {
    try {
      await this.#worker.request('job-finalize', { id: this.#id, commit })
      return undefined
    } catch (error) {
      this.#unheard('job-finalize', error)
      return error instanceof Error ? error.message : String(error)
    }
  }

  #unheard(verb: string, error: unknown): void {
    this.#log.debug({ job: this.#id, verb, err: error }, 'the worker refused a verb')
  }
}
