// SPDX-License-Identifier: Apache-2.0
// A worker's part of transactions: holds the nodes still, makes changes that can be undone, and keeps or undoes them when the
// main thread has heard from all workers. Used by the worker's root object.
// Invariant: what is not kept is undone, and no node is held still after the end, whatever is stuck.

import { type Failure, giveBack } from '../common/give-back.js'
import { CommandError, IoError } from '../errors.js'
import type { BitmapChange } from './block/bitmaps/named-bitmap.js'
import type { Release } from './block/claims.js'
import type { Graph, GraphLog } from './block/graph.js'
import type { Appended } from './block/surgery.js'
import type { PreparedJob } from './jobs/job-table.js'
import { checkOverlay, type OverlayPlace, overlayPlace } from './jobs/overlay.js'
import type { JobSpec, Requests } from './messages.js'
import type { BitmapAction } from './messages-bitmaps.js'
import type { TransactionRequests, TransactionStep } from './messages-transaction.js'

type Handlers = {
  readonly [N in keyof TransactionRequests]: (args: Requests[N]['args']) => Promise<null>
}

type Quiesce = Requests['transaction-quiesce']['args']

/** Prepares a job; what it refuses means there never was one. */
export type PrepareJob = (id: string, spec: JobSpec) => Promise<PreparedJob>

type Done =
  | { readonly kind: 'job'; readonly job: PreparedJob }
  | { readonly kind: 'bitmap'; readonly action: BitmapAction; readonly change: BitmapChange }
  | {
      readonly kind: 'overlay'
      readonly node: string
      readonly place: OverlayPlace
      readonly change: Appended
    }

class Transaction {
  readonly abort = new AbortController()
  readonly held: Disposable[] = []
  /** By the node. */
  readonly places = new Map<string, OverlayPlace>()
  /** Those whose overlays are being put there, or are there: nobody may go on before they are kept or undone. */
  readonly changed = new Set<OverlayPlace>()
  readonly done: Done[] = []
  /** Bitmaps are not changed any more. */
  release: Release | undefined

  /** Requests go on, but where an overlay may be there that is to be undone. */
  letGo(): void {
    for (const each of this.held.splice(0)) each[Symbol.dispose]()
    for (const [node, place] of this.places) if (!this.changed.has(place)) this.leave(node, place)
  }

  leave(node: string, place: OverlayPlace): void {
    this.places.delete(node)
    this.changed.delete(place)
    place[Symbol.dispose]()
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
      'transaction-quiesce': (args) => this.#quiesce(args),
      'transaction-prepare': ({ transaction, steps }) => this.#prepare(this.#get(transaction), steps),
      'transaction-end': ({ transaction, commit }) => this.#end(transaction, commit),
    }
  }

  async #quiesce({ transaction: id, nodes, bitmaps, overlays }: Quiesce): Promise<null> {
    const transaction = new Transaction()
    this.#open.set(id, transaction)
    const { signal } = transaction.abort
    const graph = this.#graph
    for (const { node, overlay } of overlays) await checkOverlay(graph, graph.node(node), graph.node(overlay))
    const release = await this.#graph.bitmaps.hold(bitmaps)
    if (signal.aborted) await release()
    else transaction.release = release
    // One after the other: a drained child would hold up its parent's requests for ever.
    for (const node of graph.parentsFirst([...nodes, ...overlays.map((each) => each.node)])) {
      if (signal.aborted) return null
      const planned = overlays.find((each) => each.node === node.name)
      if (planned === undefined) transaction.held.push(await node.drain(signal))
      else {
        const overlay = graph.node(planned.overlay)
        transaction.places.set(node.name, await overlayPlace(graph, node, overlay, planned.filter, signal))
      }
      // The others may have been let go meanwhile.
      if (signal.aborted) transaction.letGo()
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
        done.push(await this.#do(transaction, step))
        if (abort.signal.aborted) throw new CommandError('the transaction was given up')
      }
    } catch (error) {
      await this.#undo(transaction, { error })
    }
    return null
  }

  async #do(transaction: Transaction, step: TransactionStep): Promise<Done> {
    switch (step.kind) {
      case 'job':
        return { kind: 'job', job: await this.#prepareJob(step.id, step.spec) }
      case 'bitmap':
        return { kind: 'bitmap', action: step.action, change: this.#graph.bitmaps.do(step.action) }
      case 'overlay':
        return this.#putOverlay(transaction, step.node)
      default:
        return step satisfies never
    }
  }

  async #putOverlay({ places, changed }: Transaction, node: string): Promise<Done> {
    const place = places.get(node)
    if (place === undefined) throw new CommandError('the transaction was given up')
    changed.add(place)
    try {
      return { kind: 'overlay', node, place, change: await place.put() }
    } catch (error) {
      changed.delete(place)
      throw error
    }
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
        if (each.kind === 'bitmap' && each.action.kind === 'remove') removed.push(each.action)
      }
    transaction.changed.clear()
    transaction.letGo()
    for (const job of jobs) await job.start()
    for (const { node, name } of removed)
      await this.#afterwards(node, this.#graph.bitmaps.removeStored(node, name))
    await this.#afterwards(undefined, this.#release(transaction))
    return null
  }

  /** Requests wait for that: they were held back for an overlay that nobody is to have written. */
  async #takeAway(transaction: Transaction, { node, place, change }: Extract<Done, { kind: 'overlay' }>) {
    try {
      await change.undo()
    } catch (error) {
      if (!(error instanceof IoError || error instanceof CommandError)) throw error
      this.#log('error', { node, error: error.message }, 'an overlay stays that was to be taken away again')
    } finally {
      transaction.leave(node, place)
    }
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
    const overlays = done.flatMap((each) => (each.kind === 'overlay' ? [each] : []))
    const others = done.filter(({ kind }) => kind !== 'overlay')
    // Somebody waits for these.
    const first = overlays.map((each) => () => this.#takeAway(transaction, each))
    const left = () => {
      if (transaction.abort.signal.aborted) transaction.letGo()
    }
    await giveBack([() => this.#release(transaction), ...others.map(undo), left, ...first], before)
  }
}
