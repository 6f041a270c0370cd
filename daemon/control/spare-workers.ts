// SPDX-License-Identifier: Apache-2.0
// Worker threads that rest: nobody needs them, nothing is open in them, and the next new disk or transfer of memory gets
// one instead of a thread of its own. Used by DiskWorkers and MemoryWorkers.
// Why: making a thread costs the main thread one to two milliseconds in which it answers nobody, and every thread that
// ends leaves some KiB behind in V8's heap; managers that mirror disk after disk make and end several per second.
// A spare occupies 12 MiB, 19 after some thousand disks (its V8 heap; its buffers are given back), and six threads, so few are
// kept, and only one for good. That one is made ahead, so that opening a disk does not wait for a thread.
// Rule: only a thread that is new, or answered `rest` with `clean`, is kept.

import type { Logger } from 'pino'
import type { WorkerHandle } from '../common/worker-handle.js'
import type { RequestsOf } from '../common/worker-messages.js'
import { askToEnd, endThread, FAREWELL_MS } from './farewell.js'

export interface SpareOptions {
  /** Threads kept at most. */
  readonly limit: number
  /** Threads kept when for so long none was taken and none came. Fewer are made, more are ended. */
  readonly ahead: number
  /** Milliseconds. */
  readonly afterMs: number
  /** Threads made at once, be it more or fewer than `ahead`, which is what is left when `afterMs` are over. */
  readonly fromStart: number
}

/** A thread that can be asked to end. */
interface Endable {
  shutdown: { args: { deadlineMs: number }; reply: { left: number } }
}

/** Two, because a mirror opens two disks. Seconds, because who needs another disk soon needs it by the next command. */
export const SPARES: SpareOptions = { limit: 2, ahead: 1, afterMs: 3000, fromStart: 1 }

export class SpareWorkers<R extends RequestsOf<R> & Endable, Report> {
  readonly #options: SpareOptions
  readonly #start: (name: string) => WorkerHandle<R, Report>
  readonly #log: Logger
  /** Oldest first. */
  readonly #spares = new Set<WorkerHandle<R, Report>>()
  /** Threads on their way out. */
  readonly #ending = new Set<Promise<void>>()
  #made = 0
  #quiet: NodeJS.Timeout | undefined

  constructor(options: SpareOptions, start: (name: string) => WorkerHandle<R, Report>, log: Logger) {
    this.#options = options
    this.#start = start
    this.#log = log
    while (this.#spares.size < options.fromStart) this.#make()
    this.#adjustLater()
  }

  get full(): boolean {
    return this.#spares.size >= this.#options.limit
  }

  /** Keeps a thread that rests, or ends it when there are enough. */
  keep(handle: WorkerHandle<R, Report>): void {
    handle.onReport(() => {})
    handle.onExit((error) => this.#exit(handle, error))
    if (this.full) {
      this.#end(handle, FAREWELL_MS)
      return
    }
    this.#spares.add(handle)
    this.#adjustLater()
  }

  /** The one that rests for the shortest time, under a new name: what it has in memory is in use least long ago. */
  take(name: string): WorkerHandle<R, Report> | undefined {
    const handle = [...this.#spares].at(-1)
    if (handle === undefined) return undefined
    this.#spares.delete(handle)
    this.#adjustLater()
    this.#log.debug({ iothread: name, formerly: handle.name }, 'spare iothread taken')
    return handle.passOn(name)
  }

  /** Answers when the threads are gone. */
  async endAll(deadlineMs: number): Promise<void> {
    clearTimeout(this.#quiet)
    for (const handle of [...this.#spares]) this.#end(handle, deadlineMs)
    await Promise.all(this.#ending)
  }

  #make(): void {
    this.keep(this.#start(`spare${this.#made++}`))
  }

  #adjustLater(): void {
    clearTimeout(this.#quiet)
    this.#quiet = undefined
    if (this.#spares.size === this.#options.ahead) return
    this.#quiet = setTimeout(() => this.#adjust(), this.#options.afterMs).unref()
  }

  #adjust(): void {
    const { ahead } = this.#options
    while (this.#spares.size < ahead) this.#make()
    for (const handle of [...this.#spares].slice(0, this.#spares.size - ahead)) this.#end(handle, FAREWELL_MS)
  }

  #end(handle: WorkerHandle<R, Report>, deadlineMs: number): void {
    this.#spares.delete(handle)
    const ended = askToEnd(handle, deadlineMs, this.#log)
      .then(() => endThread(handle, this.#log))
      .finally(() => this.#ending.delete(ended))
    this.#ending.add(ended)
  }

  #exit(handle: WorkerHandle<R, Report>, error: Error | undefined): void {
    this.#spares.delete(handle)
    if (error !== undefined) this.#log.error({ iothread: handle.name, err: error }, 'spare iothread lost')
  }
}
