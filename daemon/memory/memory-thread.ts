// SPDX-License-Identifier: Apache-2.0
// Root object of a memory worker: one engine, one transfer as a job. Takes the main thread's requests and answers each
// exactly once. The worker's entry makes one; tests make one in-process.

import type { IoEngine } from '../../native/types.js'
import { atMost } from '../common/deadline.js'
import type { OldestRequest } from '../common/job-messages.js'
import { toWire } from '../common/worker-messages.js'
import { CommandError } from '../errors.js'
import type { JobControl } from '../iothread/jobs/body.js'
import { JobTable } from '../iothread/jobs/job-table.js'
import { InspectJob } from './inspect/inspect-job.js'
import type { FromWorker, Report, Requests, ToWorker } from './messages.js'
import { Slots } from './slots.js'
import { TransferJob } from './transfer.js'

/** Slots of a transfer with few connections; its engine has MOST_SLOTS. */
export const SLOTS = 64

/** A failing write or flush ends the transfer: half an image is none. */
const POLICY = { read: 'report', write: 'report' } as const

type Handlers = {
  [N in keyof Requests]: (args: Requests[N]['args']) => Promise<Requests[N]['reply']> | Requests[N]['reply']
}

export class MemoryThread {
  readonly #engine: IoEngine
  readonly #post: (message: FromWorker) => void
  readonly #slots: Slots
  readonly #jobs: JobTable
  readonly #handlers: Handlers
  /** The one there is. */
  #transfer: TransferJob | undefined

  constructor(engine: IoEngine, post: (message: FromWorker) => void) {
    this.#engine = engine
    this.#post = post
    this.#slots = new Slots(engine, SLOTS)
    const report = (message: Report) => this.#post({ report: message })
    this.#jobs = new JobTable(report, () => this.#oldest())
    this.#handlers = {
      ...this.#jobs.handlers,
      'job-start': async ({ id, spec }) => {
        const makeBody = (control: JobControl) => {
          if (spec.kind === 'inspect') return new InspectJob(id, spec, this.#slots, control, report)
          this.#transfer = new TransferJob(id, spec, this.#slots, control, report)
          return this.#transfer
        }
        await this.#jobs.start(id, makeBody, POLICY)
        return null
      },
      'set-sink': async ({ sink }) => {
        if (this.#transfer === undefined) throw new CommandError('Job not found')
        await this.#transfer.setSink(sink)
        return null
      },
      shutdown: ({ deadlineMs }) => this.#shutdown(deadlineMs),
    }
  }

  /** Answers one request; never rejects. */
  async receive(message: ToWorker): Promise<void> {
    try {
      const handler = this.#handlers[message.name] as (args: unknown) => unknown
      this.#post({ reply: message.request, value: await handler(message.args) })
    } catch (error) {
      this.#post({ reply: message.request, error: toWire(error) })
    }
  }

  #oldest(): OldestRequest | undefined {
    const oldest = this.#engine.oldest()
    return oldest === undefined ? undefined : { op: oldest.op, node: '', ageMs: oldest.ageMs }
  }

  async #shutdown(deadlineMs: number): Promise<{ left: number }> {
    const started = performance.now()
    this.#jobs.cancelAll()
    const timeLeft = () => Math.max(0, deadlineMs - (performance.now() - started))
    await atMost(this.#jobs.conclude(), deadlineMs)
    await atMost(this.#transfer?.settled() ?? Promise.resolve(), timeLeft())
    return { left: await this.#engine.shutdown(timeLeft()) }
  }
}
