// SPDX-License-Identifier: Apache-2.0
// The disk workers of the daemon with what the main thread knows of each: who still needs it, what it last reported,
// which throttle groups it was told of. Used by Graphs and Jobs' starters.
// Invariant: a worker lives while somebody holds it (each node, each job, each command under way); the last release
// ends it.

import type { Logger } from 'pino'
import type { StartWorker, WorkerHandle } from '../iothread/handle.js'
import type { NodeReport, Report, RequestName, Requests, ThrottleLimits } from '../iothread/messages.js'

/** Time an unused worker gets to end by itself, milliseconds. It has nothing open then. */
const FAREWELL_MS = 1000

export class DiskWorker {
  readonly handle: WorkerHandle
  /** Last report of each node in it. */
  readonly reports = new Map<string, NodeReport>()
  readonly #groups = new Set<string>()
  readonly #unused: (worker: DiskWorker) => void
  #holders = 1

  /** Held once by whoever started it. */
  constructor(handle: WorkerHandle, unused: (worker: DiskWorker) => void) {
    this.handle = handle
    this.#unused = unused
  }

  get name(): string {
    return this.handle.name
  }

  request<N extends RequestName>(name: N, args: Requests[N]['args']): Promise<Requests[N]['reply']> {
    return this.handle.request(name, args)
  }

  hold(): void {
    this.#holders++
  }

  release(): void {
    if (--this.#holders === 0) this.#unused(this)
  }

  /** Makes a throttle group known before a node names it. */
  async tellGroup(id: string, limits: ThrottleLimits): Promise<void> {
    if (this.#groups.has(id)) return
    this.#groups.add(id)
    await this.request('throttle-group-set', { id, limits })
  }

  /** New limits, or the end, of a group it knows. A worker that nobody holds is about to end and asks no more. */
  async changeGroup(id: string, limits: ThrottleLimits | null): Promise<void> {
    if (!this.#groups.has(id) || this.#holders === 0) return
    if (limits === null) this.#groups.delete(id)
    await this.request('throttle-group-set', { id, limits })
  }
}

export interface WorkerEvents {
  readonly report: (worker: DiskWorker, report: Exclude<Report, { kind: 'log' }>) => void
  /** What it still had is gone. */
  readonly lost: (worker: DiskWorker, reason: string) => void
}

export class DiskWorkers {
  readonly #start: StartWorker
  readonly #log: Logger
  readonly #events: WorkerEvents
  readonly #alive = new Set<DiskWorker>()
  #count = 0

  constructor(start: StartWorker, log: Logger, events: WorkerEvents) {
    this.#start = start
    this.#log = log
    this.#events = events
  }

  /** A new worker, held once. */
  start(): DiskWorker {
    const handle = this.#start(`disk${this.#count++}`)
    const worker = new DiskWorker(handle, (unused) => void this.#end(unused, FAREWELL_MS))
    this.#alive.add(worker)
    handle.onReport((report) => this.#report(worker, report))
    handle.onExit((error) => this.#exit(worker, error))
    return worker
  }

  /** New limits, or the end, of a throttle group, told to every worker that knows it; one that dies of something else needs it no more. */
  async changeGroup(id: string, limits: ThrottleLimits | null): Promise<void> {
    const tell = async (worker: DiskWorker) => {
      try {
        await worker.changeGroup(id, limits)
      } catch (error) {
        if (this.#alive.has(worker)) throw error
      }
    }
    await Promise.all([...this.#alive].map(tell))
  }

  /** Ends all of them, whoever holds them. Answers when the threads are gone. */
  async endAll(deadlineMs: number): Promise<void> {
    await Promise.all([...this.#alive].map((worker) => this.#end(worker, deadlineMs)))
  }

  async #end(worker: DiskWorker, deadlineMs: number): Promise<void> {
    if (!this.#alive.has(worker)) return
    try {
      const { left } = await worker.request('shutdown', { deadlineMs })
      if (left > 0) this.#log.warn({ iothread: worker.name, left }, 'requests left in flight')
    } catch (error) {
      this.#log.debug({ iothread: worker.name, err: error }, 'iothread did not end by itself')
    }
    if (!this.#alive.delete(worker)) return
    this.#events.lost(worker, `iothread '${worker.name}' ended`)
    await worker.handle.terminate().catch((error: unknown) => {
      this.#log.warn({ iothread: worker.name, err: error }, 'iothread could not be ended')
    })
  }

  #report(worker: DiskWorker, report: Report): void {
    if (report.kind === 'log') {
      this.#log[report.level]({ ...report.fields, iothread: worker.name }, report.text)
      return
    }
    if (report.kind === 'nodes') {
      for (const node of report.nodes) worker.reports.set(node.name, node)
      for (const name of report.gone) worker.reports.delete(name)
    }
    this.#events.report(worker, report)
  }

  #exit(worker: DiskWorker, error: Error | undefined): void {
    if (!this.#alive.delete(worker)) return
    this.#log.error({ iothread: worker.name, err: error }, 'iothread lost')
    this.#events.lost(worker, error?.message ?? `iothread '${worker.name}' ended`)
  }
}
