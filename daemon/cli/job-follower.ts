// SPDX-License-Identifier: Apache-2.0
// Follows one job from before its start to its end: events as they come, progress asked for now and then, and at the
// end what became of it. Used by the commands that start jobs. Listens before the job is started, so no event is missed.

import type { JsonObject } from '../../protocol/json-value.js'
import type { Client, ConnectionLost, QmpEvent } from './client.js'
import { asObject, numberOf, objectsOf, textOf } from './values.js'

/** How far a job is; bytes, and bytes per second. */
export interface Progress {
  readonly status: string
  readonly phase: string
  readonly offset: number
  readonly length: number
  readonly rate: number
  readonly etaSeconds?: number
  readonly ioStatus: string
  /** The request that storage answers latest. */
  readonly oldest?: { readonly operation: string; readonly ageMs: number }
}

export interface Receipt {
  readonly copied: number
  readonly zeroed: number
  readonly skipped: number
  readonly flush: string
  /** As the daemon sent it. */
  readonly value: JsonObject
}

export interface Outcome {
  readonly kind: 'completed' | 'failed' | 'cancelled'
  readonly error?: string
  readonly receipt?: Receipt
  /** What a job found out that finds something out; as the daemon sent it. */
  readonly result?: JsonObject
  readonly progress?: Progress
  /** What failed when the job ended by an I/O error: read is about the source, write about the target. */
  readonly failedOperation?: string
  /** I/O errors that the policy 'ignore' had retried. */
  readonly ignoredErrors: number
}

export interface FollowerEvents {
  event(event: QmpEvent): void
  progress(progress: Progress): void
  /** An error policy has paused the job. */
  stopped(operation: string, progress: Progress | undefined): void
}

/** The error of a job that was cancelled, where no event tells it. */
const CANCELLED = 'Operation canceled'

/** Milliseconds between two questions for progress. */
const pollMs = 250

export class JobFollower {
  readonly #client: Client
  readonly #id: string
  readonly #list: 'query-block-jobs' | 'query-jobs'
  readonly #tell: FollowerEvents
  readonly #release: (() => void)[] = []
  #asking = false
  #last: Progress | undefined
  #ending: { kind: Outcome['kind']; error?: string } | undefined
  #ignored = 0
  #stopOperation: string | undefined
  #failedOperation: string | undefined
  /** Settled by the event that says the job is over, or by the loss of the connection. */
  readonly #concluded: Promise<void>

  /** @param list  the query that tells how far the job is; only mirrors are in query-block-jobs */
  constructor(
    client: Client,
    id: string,
    tell: FollowerEvents,
    list: 'query-block-jobs' | 'query-jobs' = 'query-block-jobs',
  ) {
    this.#list = list
    this.#client = client
    this.#id = id
    this.#tell = tell
    this.#concluded = new Promise((resolve, reject) => {
      this.#release.push(client.onEvent((event) => this.#event(event, resolve)))
      this.#release.push(client.onLost((reason: ConnectionLost) => reject(reason)))
    })
    // The caller asks for the outcome later, or never when the job does not start.
    this.#concluded.catch(() => undefined)
    const timer = setInterval(() => this.#poll(), pollMs)
    this.#release.push(() => clearInterval(timer))
  }

  /**
   * Waits for the end; forgets the job in the daemon.
   * @throws ConnectionLost
   */
  async outcome(): Promise<Outcome> {
    try {
      await this.#concluded
      await this.#ask()
      const job = objectsOf(await this.#client.execute('query-jobs')).find(
        (one) => textOf(one, 'id') === this.#id,
      )
      const receipt = receiptOf(job)
      const result = asObject(job?.['x-result'])
      const error = this.#ending?.error ?? textOf(job, 'error')
      if (job !== undefined) await this.#client.execute('job-dismiss', { id: this.#id })
      return {
        kind: this.#ending?.kind ?? kindOf(error),
        ...(error === undefined ? {} : { error }),
        ...(receipt === undefined ? {} : { receipt }),
        ...(result === undefined ? {} : { result }),
        ...(this.#last === undefined ? {} : { progress: this.#last }),
        ...(this.#failedOperation === undefined ? {} : { failedOperation: this.#failedOperation }),
        ignoredErrors: this.#ignored,
      }
    } finally {
      this.stop()
    }
  }

  /** Ends listening and asking. */
  stop(): void {
    for (const release of this.#release.splice(0)) release()
  }

  #event(event: QmpEvent, resolve: () => void): void {
    const { name, data } = event
    if ((textOf(data, 'id') ?? textOf(data, 'device')) !== this.#id) return
    this.#tell.event(event)
    if (name === 'BLOCK_JOB_CANCELLED') this.#ending = { kind: 'cancelled' }
    if (name === 'BLOCK_JOB_COMPLETED') {
      const error = textOf(data, 'error')
      this.#ending = error === undefined ? { kind: 'completed' } : { kind: 'failed', error }
    }
    if (name === 'BLOCK_JOB_ERROR')
      this.#ioError(textOf(data, 'action'), textOf(data, 'operation') ?? 'request')
    if (name === 'JOB_STATUS_CHANGE') this.#status(textOf(data, 'status'), resolve)
  }

  #ioError(action: string | undefined, operation: string): void {
    if (action === 'ignore') this.#ignored++
    if (action === 'stop') this.#stopOperation = operation
    if (action === 'report') this.#failedOperation = operation
  }

  #status(status: string | undefined, resolve: () => void): void {
    if (status === 'concluded' || status === 'null') resolve()
    if ((status === 'paused' || status === 'standby') && this.#stopOperation !== undefined) {
      const operation = this.#stopOperation
      this.#stopOperation = undefined
      this.#ask().then(
        () => this.#tell.stopped(operation, this.#last),
        () => undefined, // the loss of the connection is told by #concluded
      )
    }
  }

  #poll(): void {
    if (this.#asking) return
    this.#asking = true
    this.#ask()
      .then(() => this.#last && this.#tell.progress(this.#last))
      .catch(() => undefined) // the loss of the connection is told by #concluded
      .finally(() => {
        this.#asking = false
      })
  }

  async #ask(): Promise<void> {
    const jobs = objectsOf(await this.#client.execute(this.#list))
    const job = jobs.find((one) => (textOf(one, 'device') ?? textOf(one, 'id')) === this.#id)
    if (job !== undefined) this.#last = progressOf(job)
  }
}

/** Reads one entry of query-block-jobs or query-jobs. */
export function progressOf(job: JsonObject): Progress {
  const oldest = asObject(job['x-oldest-request'])
  const eta = numberOf(job, 'x-eta')
  return {
    status: textOf(job, 'status') ?? 'unknown',
    phase: textOf(job, 'x-phase') ?? textOf(job, 'status') ?? 'unknown',
    offset: numberOf(job, 'offset') ?? numberOf(job, 'current-progress') ?? 0,
    length: numberOf(job, 'len') ?? numberOf(job, 'total-progress') ?? 0,
    rate: numberOf(job, 'x-rate') ?? 0,
    ...(eta === undefined ? {} : { etaSeconds: eta }),
    ioStatus: textOf(job, 'io-status') ?? 'ok',
    ...(oldest === undefined
      ? {}
      : {
          oldest: {
            operation: textOf(oldest, 'operation') ?? 'request',
            ageMs: numberOf(oldest, 'age-ms') ?? 0,
          },
        }),
  }
}

function kindOf(error: string | undefined): Outcome['kind'] {
  if (error === undefined) return 'completed'
  return error === CANCELLED ? 'cancelled' : 'failed'
}

function receiptOf(job: JsonObject | undefined): Receipt | undefined {
  const value = asObject(job?.['x-receipt'])
  if (value === undefined) return undefined
  return {
    copied: numberOf(value, 'bytes-copied') ?? 0,
    zeroed: numberOf(value, 'bytes-zeroed') ?? 0,
    skipped: numberOf(value, 'bytes-skipped') ?? 0,
    flush: textOf(value, 'flush') ?? 'unknown',
    value,
  }
}
