// SPDX-License-Identifier: Apache-2.0
// Worker threads that rest: nobody needs them, nothing is open in them, and the next new disk gets one instead of a
// thread of its own. Used by DiskWorkers.
// Why: making a thread costs the main thread one to two milliseconds in which it answers nobody, and every thread that
// ends leaves some KiB behind in V8's heap; managers that mirror disk after disk make and end several per second.
// A spare occupies 12 MiB, 19 after some thousand disks (its V8 heap; its buffers are given back), and six threads, so few are
// kept, and not for long.
// Rule: only a thread that answered `rest` with `clean` is kept.

import type { Logger } from 'pino'
import type { WorkerHandle } from '../iothread/handle.js'
import { askToEnd, endThread, FAREWELL_MS } from './farewell.js'

export interface SpareOptions {
  /** Threads kept at most. */
  readonly limit: number
  /** Milliseconds each is kept. */
  readonly forMs: number
}

/** Two, because a mirror opens two disks. Seconds, because who needs another disk soon needs it by the next command. */
export const SPARES: SpareOptions = { limit: 2, forMs: 3000 }

export class SpareWorkers {
  readonly #options: SpareOptions
  readonly #log: Logger
  /** Oldest first, each with the timer of its end. */
  readonly #spares = new Map<WorkerHandle, NodeJS.Timeout>()
  /** Threads on their way out. */
  readonly #ending = new Set<Promise<void>>()

  constructor(options: SpareOptions, log: Logger) {
    this.#options = options
    this.#log = log
  }

  get full(): boolean {
    return this.#spares.size >= this.#options.limit
  }

  /** Keeps a thread that rests, or ends it when there are enough. */
  keep(handle: WorkerHandle): void {
    handle.onReport(() => {})
    handle.onExit((error) => this.#exit(handle, error))
    if (this.full) {
      this.#end(handle, FAREWELL_MS)
      return
    }
    const timer = setTimeout(() => this.#end(handle, FAREWELL_MS), this.#options.forMs).unref()
    this.#spares.set(handle, timer)
  }

  /** The one that rests for the shortest time, under a new name: what it has in memory is in use least long ago. */
  take(name: string): WorkerHandle | undefined {
    const handle = [...this.#spares.keys()].at(-1)
    if (handle === undefined) return undefined
    this.#forget(handle)
    this.#log.debug({ iothread: name, formerly: handle.name }, 'spare iothread taken')
    return handle.passOn(name)
  }

  /** Answers when the threads are gone. */
  async endAll(deadlineMs: number): Promise<void> {
    for (const handle of [...this.#spares.keys()]) this.#end(handle, deadlineMs)
    await Promise.all(this.#ending)
  }

  #end(handle: WorkerHandle, deadlineMs: number): void {
    this.#forget(handle)
    const ended = askToEnd(handle, deadlineMs, this.#log)
      .then(() => endThread(handle, this.#log))
      .finally(() => this.#ending.delete(ended))
    this.#ending.add(ended)
  }

  #exit(handle: WorkerHandle, error: Error | undefined): void {
    this.#forget(handle)
    if (error !== undefined) this.#log.error({ iothread: handle.name, err: error }, 'spare iothread lost')
  }

  #forget(handle: WorkerHandle): void {
    clearTimeout(this.#spares.get(handle))
    this.#spares.delete(handle)
  }
}
