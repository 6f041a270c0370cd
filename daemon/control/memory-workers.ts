// SPDX-License-Identifier: Apache-2.0
// The memory workers of the daemon: one for each transfer, from its start until its job is forgotten. Used by the handlers of
// memory commands.
// One rests ahead: a thread takes a tenth of a second to come up, and a restored guest would wait for it.

import type { Logger } from 'pino'
import { closeDescriptor } from '../../native/descriptors.js'
import type { JobReport } from '../common/job-messages.js'
import type { MemoryHandle, StartMemoryWorker } from '../memory/handle.js'
import type { Report, Requests, TransferStats } from '../memory/messages.js'
import { askToEnd, endThread, FAREWELL_MS } from './farewell.js'
import { type SpareOptions, SpareWorkers } from './spare-workers.js'

export interface MemoryEvents {
  readonly job: (handle: MemoryHandle, report: JobReport) => void
  readonly stats: (handle: MemoryHandle, stats: TransferStats) => void
  /** It is gone, and its transfer with it. */
  readonly lost: (handle: MemoryHandle, reason: string) => void
}

export class MemoryWorkers {
  readonly #start: StartMemoryWorker
  readonly #log: Logger
  readonly #events: MemoryEvents
  readonly #alive = new Map<MemoryHandle, Set<number>>()
  /** What each told last, for as long as somebody knows it. */
  readonly #stats = new WeakMap<object, TransferStats>()
  readonly #spares: SpareWorkers<Requests, Report>
  #count = 0

  constructor(start: StartMemoryWorker, log: Logger, events: MemoryEvents, spares: SpareOptions) {
    this.#spares = new SpareWorkers(spares, start, log)
    this.#start = start
    this.#log = log
    this.#events = events
  }

  /** @param descriptors  the worker's from now on: it makes duplicates, and what it does not need is closed with it */
  start(descriptors: readonly number[]): MemoryHandle {
    const name = `memory${this.#count++}`
    const handle = this.#spares.take(name) ?? this.#start(name)
    const held = new Set(descriptors)
    this.#alive.set(handle, held)
    handle.onReport((report) => this.#report(handle, held, report))
    handle.onExit((error) => {
      if (!this.#leave(handle)) return
      this.#log.error({ iothread: handle.name, err: error }, 'memory worker lost')
      this.#events.lost(handle, error?.message ?? `iothread '${handle.name}' ended`)
    })
    return handle
  }

  /** The worker's from now on, as those it was started with. */
  lend(handle: MemoryHandle, descriptors: readonly number[]): void {
    const held = this.#alive.get(handle)
    for (const fd of descriptors) {
      if (held === undefined) closeDescriptor(fd)
      else held.add(fd)
    }
  }

  statsOf(handle: object): TransferStats | undefined {
    return this.#stats.get(handle)
  }

  /** Nobody needs it any more. Answers when the thread is gone. */
  async end(handle: MemoryHandle, deadlineMs = FAREWELL_MS): Promise<void> {
    if (!this.#alive.has(handle)) return
    await askToEnd(handle, deadlineMs, this.#log)
    if (!this.#leave(handle)) return
    await endThread(handle, this.#log)
  }

  async endAll(deadlineMs: number): Promise<void> {
    const workers = [...this.#alive.keys()].map((handle) => this.end(handle, deadlineMs))
    await Promise.all([...workers, this.#spares.endAll(deadlineMs)])
  }

  #leave(handle: MemoryHandle): boolean {
    for (const fd of this.#alive.get(handle) ?? []) closeDescriptor(fd)
    return this.#alive.delete(handle)
  }

  #report(handle: MemoryHandle, held: Set<number>, report: Report): void {
    switch (report.kind) {
      case 'log':
        this.#log[report.level]({ ...report.fields, iothread: handle.name }, report.text)
        return
      case 'memory-stats':
        this.#stats.set(handle, report.stats)
        this.#events.stats(handle, report.stats)
        return
      case 'fd-taken':
        if (held.delete(report.fd)) closeDescriptor(report.fd)
        return
      default:
        this.#events.job(handle, report)
    }
  }
}
