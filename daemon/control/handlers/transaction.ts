// SPDX-License-Identifier: Apache-2.0
// transaction: claims for all actions in order, brings their nodes to rest in all workers at once, makes the changes there, and
// keeps them when all could be made. Whatever fails, everything is undone.

import type { Arguments } from '../../../protocol/schema/index.js'
import { atMost } from '../../common/deadline.js'
import { CommandError } from '../../errors.js'
import type { HeldBitmap, PlannedOverlay, TransactionStep } from '../../iothread/messages-transaction.js'
import type { Handlers } from '../commands.js'
import type { Node } from '../directory.js'
import { JobGroup } from '../jobs/group.js'
import type { Jobs } from '../jobs/jobs.js'
import type { DiskWorker } from '../workers.js'
import { type ClaimedBackup, claimFile, claimNode } from './backup.js'
import { addedNode, type BitmapCommand, bitmapAction, bitmapNode } from './bitmaps.js'
import type { CopyStarter, PreparedCopy } from './copy-starter.js'
import { type ClaimedOverlay, claimNewOverlay, claimOverlay, type PreparedOverlay } from './overlays.js'

type TransactionArguments = Arguments<'transaction'>
type Action = TransactionArguments['actions'][number]

/** Longest time that requests of others are held up until everything rests, and then until it is changed. */
const REST_MS = 10_000
const CHANGE_MS = 30_000
/** Time in which what was changed is to be undone before the failure is told; what is stuck is not waited for longer. */
const UNDO_MS = 2000

export function transactionHandlers(starter: CopyStarter, jobs: Jobs) {
  let last = 0
  return {
    transaction: async ({ actions, properties }) => {
      const grouped = properties?.['completion-mode'] === 'grouped'
      const other = actions.find(({ type }) => type !== 'blockdev-backup' && type !== 'drive-backup')
      if (grouped && other !== undefined)
        throw new CommandError(
          `Action '${other.type}' does not support transaction property completion-mode = grouped`,
        )
      if (actions.length > 0)
        await new Transaction(++last, starter, jobs, grouped ? new JobGroup() : undefined).run(actions)
    },
  } satisfies Handlers
}

/** An action that was checked, with its node. */
type Step =
  | { readonly kind: 'backup'; readonly claimed: ClaimedBackup; prepared: PreparedCopy | undefined }
  | { readonly kind: 'overlay'; readonly claimed: ClaimedOverlay; prepared: PreparedOverlay | undefined }
  | { readonly kind: 'bitmap'; readonly node: Node; readonly action: BitmapCommand }

class Transaction {
  readonly #id: number
  readonly #starter: CopyStarter
  readonly #jobs: Jobs
  readonly #group: JobGroup | undefined
  readonly #steps: Step[] = []
  /** Names of bitmaps that are to be added, by node. */
  readonly #added = new Map<string, Set<string>>()
  #committed = false

  constructor(id: number, starter: CopyStarter, jobs: Jobs, group: JobGroup | undefined) {
    this.#id = id
    this.#starter = starter
    this.#jobs = jobs
    this.#group = group
  }

  async run(actions: readonly Action[]): Promise<void> {
    try {
      for (const action of actions) this.#steps.push(this.#claim(action))
      for (const step of [...this.#steps]) if (step.kind !== 'bitmap') await this.#prepare(step)
      const nodes = new Set(this.#steps.flatMap(nodesOf))
      await this.#starter.graphs.change([...nodes], () => this.#change(nodes))
    } catch (error) {
      await this.#undo()
      throw error
    }
  }

  async #prepare(step: Exclude<Step, { kind: 'bitmap' }>): Promise<void> {
    try {
      step.prepared = await step.claimed.prepare()
    } catch (error) {
      // It has given everything back itself.
      this.#steps.splice(this.#steps.indexOf(step), 1)
      throw error
    }
  }

  /** Checks an action and takes what it needs. */
  #claim(action: Action): Step {
    const { directory } = this.#starter.graphs
    switch (action.type) {
      case 'abort':
        throw new CommandError('Transaction aborted using Abort action')
      case 'blockdev-backup': {
        const claimed = claimNode(this.#starter, action.data, this.#added.get(action.data.device))
        return { kind: 'backup', claimed, prepared: undefined }
      }
      case 'drive-backup': {
        const claimed = claimFile(this.#starter, action.data, this.#added.get(action.data.device))
        return { kind: 'backup', claimed, prepared: undefined }
      }
      case 'blockdev-snapshot':
        return this.#overlay(claimOverlay(this.#starter.graphs, action.data))
      case 'blockdev-snapshot-sync':
        return this.#overlay(claimNewOverlay(this.#starter.graphs, action.data))
      case 'block-dirty-bitmap-add': {
        const { node, name } = action.data
        const added = this.#added.get(node) ?? new Set()
        this.#added.set(node, added.add(name))
        return { kind: 'bitmap', node: addedNode(directory, action.data), action }
      }
      default:
        return { kind: 'bitmap', node: bitmapNode(directory, action.data.node), action }
    }
  }

  #overlay(claimed: ClaimedOverlay): Step {
    const mine = [claimed.node, claimed.overlay]
    for (const step of this.#steps) {
      const other = step.kind === 'overlay' ? [step.claimed.node, step.claimed.overlay] : []
      const both = mine.find((node) => node !== undefined && other.includes(node))
      if (both !== undefined)
        throw new CommandError(`Node '${both.name}' is part of another snapshot of the transaction`)
    }
    return { kind: 'overlay', claimed, prepared: undefined }
  }

  async #change(nodes: ReadonlySet<Node>): Promise<void> {
    // While other actions were prepared, others may have come.
    for (const step of this.#steps) if (step.kind === 'overlay') step.prepared?.check()
    const workers = new Map<DiskWorker, string[]>()
    for (const { name, worker } of nodes)
      if (worker !== undefined) workers.set(worker, [...(workers.get(worker) ?? []), name])
    try {
      const held = this.#steps.flatMap(heldBy)
      const planned = this.#overlays()
      const resting = [...workers].map(([worker, names]) => {
        const bitmaps = held.filter(({ node }) => names.includes(node))
        const overlays = planned.filter(({ node }) => names.includes(node))
        const others = names.filter((name) => !planned.some(({ node }) => node === name))
        const what = { transaction: this.#id, nodes: others, bitmaps, overlays }
        return worker.request('transaction-quiesce', what)
      })
      const names = [...nodes].map(({ name }) => `'${name}'`).join(', ')
      await within(Promise.all(resting), REST_MS, `nodes ${names} did not come to rest`)
      for (const worker of workers.keys()) {
        const steps = await this.#stepsOf(worker)
        const changing = worker.request('transaction-prepare', { transaction: this.#id, steps })
        await within(changing, CHANGE_MS, `nodes ${names} could not be changed`)
      }
    } catch (error) {
      await atMost(Promise.all([...workers.keys()].map((worker) => this.#give(worker))), UNDO_MS)
      throw error
    }
    await this.#commit([...workers.keys()])
  }

  /** Undone in a worker. It may be stuck, and lets requests go on at once. Never rejects. */
  async #give(worker: DiskWorker): Promise<void> {
    await worker.request('transaction-end', { transaction: this.#id, commit: false }).catch(() => undefined)
  }

  #overlays(): PlannedOverlay[] {
    const { directory } = this.#starter.graphs
    return this.#steps.flatMap((step) => {
      if (step.kind !== 'overlay' || step.prepared === undefined) return []
      const { node, overlay } = step.prepared
      return [{ node: node.name, overlay: overlay.name, filter: directory.generateName() }]
    })
  }

  async #stepsOf(worker: DiskWorker): Promise<TransactionStep[]> {
    const steps: TransactionStep[] = []
    for (const step of this.#steps) {
      if (step.kind === 'backup') {
        const { prepared } = step
        if (prepared?.worker !== worker) continue
        steps.push({ kind: 'job', id: prepared.reservation.id, spec: prepared.spec })
      } else if (step.kind === 'overlay') {
        const { node } = step.claimed
        if (node.worker === worker) steps.push({ kind: 'overlay', node: node.name })
      } else if (step.node.worker === worker) {
        const action = await bitmapAction(this.#starter.graphs.directory, step.action, worker)
        steps.push({ kind: 'bitmap', action })
      }
    }
    return steps
  }

  /** From here on the jobs and overlays are there, or their workers are lost. */
  async #commit(workers: readonly DiskWorker[]): Promise<void> {
    const prepared = this.#steps.flatMap((step) =>
      step.kind === 'backup' && step.prepared !== undefined ? [step.prepared] : [],
    )
    for (const { reservation, plan, worker, concluded } of prepared)
      this.#jobs.expect(reservation, plan, worker.handle, concluded, this.#group)
    const overlays = this.#steps.flatMap((step) =>
      step.kind === 'overlay' && step.prepared !== undefined ? [step.prepared] : [],
    )
    this.#committed = true
    const ends = workers.map((worker) =>
      worker.request('transaction-end', { transaction: this.#id, commit: true }),
    )
    const lost = (await Promise.allSettled(ends)).find((end) => end.status === 'rejected')
    for (const each of overlays) each.done()
    if (lost === undefined) return
    this.#group?.failed()
    throw lost.reason
  }

  /** What became a job, or an overlay, is no longer the transaction's. */
  async #undo(): Promise<void> {
    for (const step of this.#steps.splice(0).reverse()) {
      if (step.kind === 'bitmap') continue
      if (step.kind === 'overlay') {
        if (!this.#committed && step.prepared !== undefined) await atMost(step.prepared.undo(), UNDO_MS)
      } else if (step.prepared === undefined) step.claimed.release()
      else if (this.#jobs.isExpected(step.prepared.reservation)) await step.prepared.undo()
    }
  }
}

/** Bitmaps that a step changes. */
function heldBy(step: Step): HeldBitmap[] {
  if (step.kind === 'overlay') return []
  if (step.kind === 'bitmap') {
    const { type, data } = step.action
    const node = step.node.name
    if (type === 'block-dirty-bitmap-add')
      return [{ node, name: data.name, stored: data.persistent ?? false }]
    return [{ node, name: type === 'block-dirty-bitmap-merge' ? data.target : data.name }]
  }
  const spec = step.prepared?.spec
  if (spec?.kind !== 'backup' || spec.bitmap === undefined || spec.bitmap.mode === 'never') return []
  return [{ node: spec.source, name: spec.bitmap.name }]
}

/** Nodes that rest while it is done. */
function nodesOf(step: Step): Node[] {
  switch (step.kind) {
    case 'backup':
      return [step.claimed.source]
    case 'overlay':
      return step.prepared === undefined ? [] : [step.prepared.node, step.prepared.overlay]
    case 'bitmap':
      return [step.node]
    default:
      return step satisfies never
  }
}

/** @throws CommandError when it takes longer */
async function within(work: Promise<unknown>, ms: number, what: string): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () => reject(new CommandError(`${what} within ${ms / 1000} s; nothing was changed`)),
      ms,
    )
  })
  try {
    await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}
