// SPDX-License-Identifier: Apache-2.0
// A worker's part of transactions: holds the nodes still, makes changes that can be undone, and keeps or undoes them when the
// main thread has heard from all workers. Used by the worker's root object.
// Invariant: what is not kept is undone, and no node is held still after the end, whatever is stuck.

import { type Failure, giveBack } from '../common/give-back.js'
import { CommandError, IoError } from '../errors.js'
import type { BitmapChange } from './block/bitmaps/named-bitmap.js'
import type { Release } from './block/claims.js'
import type { Graph, GraphLog } from './block/graph.js'
import type { PreparedJob } from './jobs/job-table.js'
import type { JobSpec, Requests } from './messages.js'
import type { BitmapAction } from './messages-bitmaps.js'
import type { HeldBitmap, TransactionRequests, TransactionStep } from './messages-transaction.js'

type Handlers = {
  readonly [N in keyof TransactionRequests]: (args: Requests[N]['args']) => Promise<null>
}

/** Prepares a job; what it refuses means there never was one. */
export type PrepareJob = (id: string, spec: JobSpec) => Promise<PreparedJob>

type Done =
  | { readonly kind: 'job'; readonly job: PreparedJob }
  | { readonly kind: 'bitmap'; readonly action: BitmapAction; readonly change: BitmapChange }

class Transaction {
  readonly abort = new AbortController()
  readonly held: Disposable[] = []
  readonly done: Done[] = []
  /** Bitmaps are not changed any more. */
  release: Release | undefined

  /** Requests go on. */
  letGo(): void {
    for (const each of this.held.splice(0)) each[Symbol.dispose]()
  }
}

export class Transactions {
  readonly #graph: Graph
  readonly #prepareJob: PrepareJob
  readonly #log: GraphLog
  readonly #open = new Map<number, Transaction>()

  constructor(graph: Graph, prepareJob: PrepareJob, log: GraphLog) {
    this.#graph = graph
    this.#prepareJob = prepareJob
    this.#log = log
  }

  get handlers(): Handlers {
    return {
      'transaction-quiesce': ({ transaction, nodes, bitmaps }) => this.#quiesce(transaction, nodes, bitmaps),
      'transaction-prepare': ({ transaction, steps }) => this.#prepare(this.#get(transaction), steps),
      'transaction-end': ({ transaction, commit }) => this.#end(transaction, commit),
    }
  }

  async #quiesce(id: number, nodes: readonly string[], bitmaps: readonly HeldBitmap[]): Promise<null> {
    const transaction = new Transaction()
    this.#open.set(id, transaction)
    const release = await this.#graph.bitmaps.hold(bitmaps)
    if (transaction.abort.signal.aborted) await release()
    else transaction.release = release
    // One after the other: a drained child would hold up its parent's requests for ever.
    for (const node of this.#graph.parentsFirst(nodes)) {
      if (transaction.abort.signal.aborted) return null
      transaction.held.push(await node.drain(transaction.abort.signal))
      // The others may have been let go meanwhile.
      if (transaction.abort.signal.aborted) transaction.letGo()
    }
    return null
  }

  #get(id: number): Transaction {
    const transaction = this.#open.get(id)
    if (transaction === undefined) throw new CommandError('the transaction was given up')
    return transaction
  }

  async #prepare(transaction: Transaction, steps: readonly TransactionStep[]): Promise<null> {
    const { done, abort } = transaction
    try {
      for (const step of steps) {
        done.push(await this.#do(step))
        if (abort.signal.aborted) throw new CommandError('the transaction was given up')
      }
    } catch (error) {
      await this.#undo(transaction, { error })
    }
    return null
  }

  async #do(step: TransactionStep): Promise<Done> {
    if (step.kind === 'job') return { kind: 'job', job: await this.#prepareJob(step.id, step.spec) }
    const { action } = step
    return { kind: 'bitmap', action, change: this.#graph.bitmaps.do(action) }
  }

  async #end(id: number, commit: boolean): Promise<null> {
    const transaction = this.#open.get(id)
    if (transaction === undefined) return null
    this.#open.delete(id)
    if (!commit) {
      transaction.abort.abort()
      transaction.letGo()
      await this.#undo(transaction)
      return null
    }
    const jobs: PreparedJob[] = []
    const removed: BitmapAction[] = []
    for (const each of transaction.done.splice(0))
      if (each.kind === 'job') jobs.push(each.job)
      else {
        each.change.keep()
        if (each.action.kind === 'remove') removed.push(each.action)
      }
    transaction.letGo()
    for (const job of jobs) await job.start()
    for (const { node, name } of removed)
      await this.#afterwards(node, this.#graph.bitmaps.removeStored(node, name))
    await this.#afterwards(undefined, this.#release(transaction))
    return null
  }

  /** The changes are made: what fails behind them is told in the log, and does not make them undone. */
  async #afterwards(node: string | undefined, work: Promise<void>): Promise<void> {
    try {
      await work
    } catch (error) {
      if (!(error instanceof IoError || error instanceof CommandError)) throw error
      const text =
        node === undefined
          ? 'images could not be released'
          : 'a removed bitmap is in its image until that is released'
      this.#log('error', { ...(node !== undefined && { node }), error: error.message }, text)
    }
  }

  async #release(transaction: Transaction): Promise<void> {
    const { release } = transaction
    transaction.release = undefined
    await giveBack([() => this.#graph.reportBitmaps(), ...(release === undefined ? [] : [release])])
  }

  async #undo(transaction: Transaction, before?: Failure): Promise<void> {
    const done = transaction.done.splice(0)
    const undo = (each: Done) => () => (each.kind === 'job' ? each.job.undo() : each.change.undo())
    await giveBack([() => this.#release(transaction), ...done.map(undo)], before)
  }
}
