// SPDX-License-Identifier: Apache-2.0
// The disk workers of the daemon with what the main thread knows of each: who still needs it, what it last reported,
// which throttle groups it was told of. Used by Graphs and Jobs' starters.
// Invariant: a worker lives while somebody holds it (each node, each job, each command under way); with the last
// release it ends. Its thread is kept as a spare when it is clean.

import type { Logger } from 'pino'
import type { ThrottleLimits } from '../common/throttle-limits.js'
import type { StartWorker, WorkerHandle } from '../iothread/handle.js'
import type { NodeReport, Report, RequestName, Requests } from '../iothread/messages.js'
import { askToEnd, endThread, FAREWELL_MS } from './farewell.js'
import { type SpareOptions, SpareWorkers } from './spare-workers.js'

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
  readonly #spares: SpareWorkers<Requests, Report>
  #count = 0
  #ending = false

  constructor(start: StartWorker, log: Logger, events: WorkerEvents, spares: SpareOptions) {
    this.#start = start
    this.#spares = new SpareWorkers(spares, (name) => this.#startAhead(name), log)
    this.#log = log
    this.#events = events
  }

  /** A new worker, held once. */
  start(): DiskWorker {
    const name = `disk${this.#count++}`
    const handle = this.#spares.take(name) ?? this.#start(name)
    const worker = new DiskWorker(handle, (unused) => void this.#retire(unused))
    this.#alive.add(worker)
    handle.onReport((report) => this.#report(worker, report))
    handle.onExit((error) => this.#exit(worker, error))
    return worker
  }

  #startAhead(name: string): WorkerHandle {
    const handle = this.#start(name)
    // Without it the first image takes longer to open; a thread that is lost is told of by its end.
    handle.request('load-formats', null).catch(() => undefined)
    return handle
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
    this.#ending = true
    const workers = [...this.#alive].map((worker) => this.#end(worker, deadlineMs))
    await Promise.all([...workers, this.#spares.endAll(deadlineMs)])
  }

  async #end(worker: DiskWorker, deadlineMs: number): Promise<void> {
    if (!this.#alive.has(worker)) return
    await askToEnd(worker.handle, deadlineMs, this.#log)
    if (!this.#leave(worker)) return
    await endThread(worker.handle, this.#log)
  }

  /** Nobody holds it any more: its thread becomes a spare, or ends. */
  async #retire(worker: DiskWorker): Promise<void> {
    const clean = !this.#spares.full && (await this.#rests(worker))
    // The end of everything may have begun meanwhile; it ends what is in `#alive` and what is a spare, not what becomes one.
    if (!clean || this.#ending) await this.#end(worker, FAREWELL_MS)
    else if (this.#leave(worker)) this.#spares.keep(worker.handle)
  }

  async #rests(worker: DiskWorker): Promise<boolean> {
    try {
      return (await worker.request('rest', null)).clean
    } catch (error) {
      this.#log.debug({ iothread: worker.name, err: error }, 'iothread does not rest')
      return false
    }
  }

  /** @returns false when it had left before */
  #leave(worker: DiskWorker): boolean {
    if (!this.#alive.delete(worker)) return false
    this.#events.lost(worker, `iothread '${worker.name}' ended`)
    return true
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
