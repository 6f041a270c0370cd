// SPDX-License-Identifier: Apache-2.0
// A worker that says what the test tells it to, in the order the test wants: for orderings only. What workers really
// do is tested with real ones elsewhere.

import type { JobProgress, JobReceipt } from '../../../daemon/common/job-messages.js'
import type { WorkerHandle } from '../../../daemon/iothread/handle.js'
import type {
  NodeDefinition,
  NodeSpec,
  Report,
  RequestName,
  Requests,
} from '../../../daemon/iothread/messages.js'

export interface Asked {
  readonly name: RequestName
  readonly args: unknown
  readonly answer: () => void
  readonly refuse: (error: Error) => void
}

export class ScriptedWorker implements WorkerHandle {
  readonly name: string
  /** Every request so far. */
  readonly asked: Asked[] = []
  /** Requests the test answers itself; all others are answered at once. */
  held: (name: RequestName, args: unknown) => boolean = () => false
  /** Called before a request is answered, for reports that come first; what it throws is the answer. */
  before: (name: RequestName, args: unknown) => void = () => {}
  /** What images name; nothing by default. */
  resolve: (spec: NodeSpec) => NodeDefinition = (spec) => spec
  /** Replies that are not null. */
  readonly replies = new Map<RequestName, unknown>([['shutdown', { left: 0 }]])
  terminated = false
  /** What it answers when it is to rest: ended unless the test says otherwise. */
  clean = false
  /** Nodes it has open; kept by the script. */
  readonly nodes = new Map<string, NodeSpec>()
  #report: ((report: Report) => void) | undefined
  #exit: ((error: Error | undefined) => void) | undefined

  constructor(name: string) {
    this.name = name
  }

  request<N extends RequestName>(name: N, args: Requests[N]['args']): Promise<Requests[N]['reply']> {
    return new Promise((resolve, reject) => {
      const answer = () => {
        try {
          this.before(name, args)
          resolve(this.#answer(name, args) as Requests[N]['reply'])
        } catch (error) {
          reject(error)
        }
      }
      this.asked.push({ name, args, answer, refuse: reject })
      if (!this.held(name, args)) answer()
    })
  }

  #answer(name: RequestName, args: unknown): unknown {
    if (name === 'rest') return { clean: this.clean }
    if (name === 'node-resolve') return this.resolve((args as { spec: NodeSpec }).spec)
    return this.replies.get(name) ?? null
  }

  onReport(listener: (report: Report) => void): void {
    this.#report = listener
  }

  onExit(listener: (error: Error | undefined) => void): void {
    this.#exit = listener
  }

  passOn(name: string): WorkerHandle {
    return new ScriptedWorker(name)
  }

  async terminate(): Promise<void> {
    this.terminated = true
  }

  say(report: Report): void {
    this.#report?.(report)
  }

  die(error: Error): void {
    this.#exit?.(error)
    for (const request of this.asked) request.refuse(error)
  }

  names(): RequestName[] {
    return this.asked.map((request) => request.name)
  }
}

/** A receipt for reports of an end. */
export const receipt: JobReceipt = { copied: 0, zeroed: 0, skipped: 0, flush: 'not-reached', durations: {} }

export function progress(offset: number, len: number, busy = false): JobProgress {
  return { offset, len, busy, phase: 'bulk', rate: 0, activelySynced: false }
}
