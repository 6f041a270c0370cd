// SPDX-License-Identifier: Apache-2.0
// Handle: a worker thread as the main thread sees it. Requests become messages, replies settle promises, reports go
// to the listener. Each kind of worker says in its handle.ts what its requests and reports are.
// A thread may serve several users one after the other; each has a handle of its own, with its own name.
// Invariant: every request is settled, at the latest when the worker ends.

import { Worker } from 'node:worker_threads'
import { CommandError } from '../errors.js'
import { type FromWorker, fromWire, type RequestsOf, type ToWorker } from './worker-messages.js'

export interface WorkerHandle<R extends RequestsOf<R>, Report> {
  readonly name: string
  /** Rejects with CommandError (also when the worker ended), IoError or Cancelled. */
  request<N extends keyof R & string>(name: N, args: R[N]['args']): Promise<R[N]['reply']>
  onReport(listener: (report: Report) => void): void
  /** Called once, and never after the thread was passed on; with an error unless the end was asked for. */
  onExit(listener: (error: Error | undefined) => void): void
  /**
   * A handle for the next user of a thread that rests (it answered `rest` with `clean`). This one has ended: what it
   * asks is refused, and it hears nothing any more.
   */
  passOn(name: string): WorkerHandle<R, Report>
  terminate(): Promise<void>
}

interface Pending {
  readonly resolve: (value: never) => void
  readonly reject: (error: Error) => void
}

export interface ThreadOptions {
  readonly name: string
  /** Path of the script that runs in the thread. */
  readonly script: string
  /** `workerData` of the script. */
  readonly setup: unknown
}

/** Starts a thread and gives its first user's handle. */
export function startThread<R extends RequestsOf<R>, Report>(
  options: ThreadOptions,
): WorkerHandle<R, Report> {
  return new ThreadHandle(options.name, new Thread<R, Report>(options))
}

/** A worker thread, whoever uses it. */
class Thread<R extends RequestsOf<R>, Report> {
  /** Gets the reports and the end. */
  user: ThreadHandle<R, Report> | undefined
  readonly #worker: Worker
  readonly #pending = new Map<number, Pending>()
  #next = 0
  #error: Error | undefined
  #asked = false
  #ended = false

  constructor({ name, script, setup }: ThreadOptions) {
    this.#worker = new Worker(script, {
      name,
      workerData: setup,
      resourceLimits: { maxOldGenerationSizeMb: 256, maxYoungGenerationSizeMb: 4 },
    })
    this.#worker.on('message', (message: FromWorker<Report>) => this.#receive(message))
    this.#worker.on('error', (error) => {
      this.#error = error instanceof Error ? error : new Error(String(error))
    })
    this.#worker.on('exit', () => this.#end())
  }

  request<N extends keyof R & string>(name: N, args: R[N]['args']): Promise<R[N]['reply']> {
    if (this.#ended) return Promise.reject(this.#endError())
    const request = this.#next++
    const settled = new Promise<R[N]['reply']>((resolve, reject) => {
      this.#pending.set(request, { resolve, reject })
    })
    this.#worker.postMessage({ request, name, args } as ToWorker<R>)
    return settled
  }

  async terminate(): Promise<void> {
    this.#asked = true
    await this.#worker.terminate()
  }

  #receive(message: FromWorker<Report>): void {
    if ('report' in message) {
      this.user?.reported(message.report)
      return
    }
    const pending = this.#pending.get(message.reply)
    this.#pending.delete(message.reply)
    if ('error' in message) pending?.reject(fromWire(message.error))
    else pending?.resolve(message.value as never)
  }

  get ended(): boolean {
    return this.#ended
  }

  /** Tells the user, who may be one who came after it. */
  tellEnd(): void {
    this.user?.exited(this.#asked ? undefined : this.#endError())
  }

  #end(): void {
    this.#ended = true
    const error = this.#endError()
    for (const pending of this.#pending.values()) pending.reject(error)
    this.#pending.clear()
    this.tellEnd()
  }

  #endError(): Error {
    const name = this.user?.name ?? ''
    const cause = this.#error
    if (cause === undefined) return ended(name)
    return new CommandError(`iothread '${name}' ended: ${cause.message}`, 'GenericError', { cause })
  }
}

/** One user's time with a thread. */
class ThreadHandle<R extends RequestsOf<R>, Report> implements WorkerHandle<R, Report> {
  readonly name: string
  readonly #thread: Thread<R, Report>
  #report: (report: Report) => void = () => {}
  #exit: (error: Error | undefined) => void = () => {}

  constructor(name: string, thread: Thread<R, Report>) {
    this.name = name
    this.#thread = thread
    thread.user = this
  }

  request<N extends keyof R & string>(name: N, args: R[N]['args']): Promise<R[N]['reply']> {
    if (this.#thread.user !== this) return Promise.reject(ended(this.name))
    return this.#thread.request(name, args)
  }

  onReport(listener: (report: Report) => void): void {
    this.#report = listener
  }

  onExit(listener: (error: Error | undefined) => void): void {
    this.#exit = listener
    if (this.#thread.ended) queueMicrotask(() => this.#thread.tellEnd())
  }

  passOn(name: string): WorkerHandle<R, Report> {
    return new ThreadHandle(name, this.#thread)
  }

  async terminate(): Promise<void> {
    if (this.#thread.user === this) await this.#thread.terminate()
  }

  reported(report: Report): void {
    this.#report(report)
  }

  exited(error: Error | undefined): void {
    this.#exit(error)
  }
}

function ended(name: string): CommandError {
  return new CommandError(`iothread '${name}' ended`)
}
