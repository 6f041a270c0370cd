// SPDX-License-Identifier: Apache-2.0
// Graphs: opens, closes and moves nodes, keeping directory and workers in step. Used by the command handlers.
// Rules: one worker per connected graph; a new disk gets its own. A graph moves by being opened in the new worker
// first and closed in the old one after, so a failure leaves it where it was; what a server serves to one client at a
// time is closed first. Each method waits only for the storage of the nodes it was given.

import type { Logger } from 'pino'
import type { ThrottleLimits } from '../common/throttle-limits.js'
import { CommandError } from '../errors.js'
import type { NodeReport, Report } from '../iothread/messages.js'
import type { CarriedBitmap } from '../iothread/messages-bitmaps.js'
import type { Definition, Directory, Node, Owner } from './directory.js'
import { type GraphView, planJoin } from './placement.js'
import type { DiskWorker, DiskWorkers } from './workers.js'

/** Limits of a throttle group, undefined when there is none of that name. */
export type GroupLimits = (id: string) => ThrottleLimits | undefined

export class Graphs {
  readonly directory: Directory
  readonly #workers: DiskWorkers
  readonly #limits: GroupLimits
  readonly #log: Logger

  constructor(directory: Directory, workers: DiskWorkers, limits: GroupLimits, log: Logger) {
    this.directory = directory
    this.#workers = workers
    this.#limits = limits
    this.#log = log
  }

  /**
   * Opens a definition; on failure nothing is left of it.
   * @param into  worker to open it in; default: where its parts are, or a new one
   */
  async open(definition: Definition, owner: Owner, into?: DiskWorker): Promise<Node> {
    const root = this.directory.enter(definition, owner)
    let fresh = this.directory.own(root)
    let worker: DiskWorker | undefined
    try {
      for (const group of this.#groupsOf(fresh)) this.#groupLimits(group)
      worker = await this.#workerFor(fresh, into)
      this.directory.place(fresh, worker)
      if (fresh.some(({ spec }) => spec.driver === 'qcow2')) {
        fresh = [...fresh, ...(await this.#imply(root, worker))]
      }
      await this.#openIn(worker, root)
    } catch (error) {
      this.directory.remove(root)
      void this.closeUnused()
      throw error
    } finally {
      worker?.release()
    }
    for (const node of fresh) node.state = 'open'
    this.#log.info({ node: root.name, iothread: worker.name }, 'node opened')
    return root
  }

  /** Enters the nodes that images name themselves: only their worker can look into them. */
  async #imply(root: Node, worker: DiskWorker): Promise<Node[]> {
    const definition = await worker.request('node-resolve', { spec: this.directory.nested(root) })
    const implied = this.directory.extend(root, definition)
    this.directory.place(implied, worker)
    return implied
  }

  /** Closes a node and what was defined inside it. When that fails and the node is still there, it stays usable. */
  async close(node: Node): Promise<void> {
    const own = this.directory.own(node)
    const below = this.directory.tree(node)
    for (const each of own) each.state = 'closing'
    try {
      await node.worker?.request('node-del', { node: node.name })
    } catch (error) {
      if (this.directory.report(node) !== undefined) {
        for (const each of own) each.state = 'open'
        throw error
      }
      this.directory.remove(node)
      throw error
    }
    this.directory.remove(node)
    this.#log.info({ node: node.name }, 'node closed')
    await this.closeUnused(below)
  }

  /**
   * Whoever let go of a node calls it: what is to go with its last use is closed then. Never rejects.
   * @param among  where to look; who waits names those it let go of, or the storage of others would hold it up
   */
  async closeUnused(among: Iterable<Node> = this.directory.all()): Promise<void> {
    await Promise.all(
      this.directory.unused(among).map((node) =>
        this.close(node).catch((error: unknown) => {
          this.#log.error({ node: node.name, err: error }, 'node without a use was not closed in order')
        }),
      ),
    )
  }

  /** Opens a node without children anew, to be written too. @throws CommandError, and it stays as it was */
  async makeWritable(node: Node): Promise<void> {
    const spec = { ...node.spec, 'read-only': false }
    await this.change([node], async () => {
      await node.worker?.request('node-reopen', { specs: [this.directory.complete(node, spec)] })
      node.spec = spec
    })
  }

  /** Runs one change of open nodes; other changes of them are refused meanwhile. */
  async change(nodes: readonly Node[], work: () => Promise<void>): Promise<void> {
    for (const node of nodes) this.checkUnchanging(node)
    for (const node of nodes) node.state = 'changing'
    try {
      await work()
    } finally {
      for (const node of nodes) if (node.state === 'changing') node.state = 'open'
      void this.closeUnused()
    }
  }

  /** @throws CommandError while another command changes the node */
  checkUnchanging(node: Node): void {
    if (node.state !== 'open')
      throw new CommandError(`Node '${node.name}' is busy: another command is changing it`)
  }

  /**
   * Brings the graphs of some nodes into one worker.
   * @param job  the job that joins them: nodes it claimed do not count as busy, nor as connected
   * @returns the worker, held for the caller
   */
  async join(
    nodes: readonly Node[],
    job?: string,
    without: ReadonlySet<Node> = new Set(),
  ): Promise<DiskWorker> {
    const graphs: { readonly node: Node; readonly members: Set<Node> }[] = []
    for (const node of nodes)
      if (!graphs.some(({ members }) => members.has(node)))
        graphs.push({ node, members: this.directory.graph(node, without, job) })
    const joined = new Set(graphs.flatMap(({ members }) => [...members]))
    const plan = planJoin(graphs.map(({ node, members }) => this.#view(node, members, joined, job)))
    if (plan.kind === 'refused')
      throw new CommandError(
        `Nodes '${plan.first}' and '${plan.second}' are both busy in different iothreads and cannot be joined`,
      )
    const worker = graphs.find(({ node }) => node.worker?.name === plan.worker)?.node.worker
    if (worker !== undefined) worker.hold()
    const home = worker ?? this.#workers.start()
    try {
      await this.#move(
        plan.moves.map((index) => [...(graphs[index]?.members ?? [])]),
        home,
      )
    } catch (error) {
      home.release()
      throw error
    }
    return home
  }

  /** A worker of its own, held for the caller. */
  startWorker(): DiskWorker {
    return this.#workers.start()
  }

  /** Forgets what a lost worker had open. */
  lost(worker: DiskWorker): void {
    for (const node of [...this.directory.all()])
      if (node.worker === worker && node.state !== 'opening') this.directory.remove(node)
  }

  /** A job changed the graph: the directory follows. */
  rearranged(report: Extract<Report, { kind: 'graph' }>): void {
    const find = (name: string) => [...this.directory.all()].find((node) => node.name === name)
    for (const { node: name, role, child, owned } of report.edges) {
      const node = find(name)
      if (node === undefined) continue
      this.directory.relink(node, role, child === null ? undefined : find(child), owned)
    }
    for (const name of report.kept) {
      const node = find(name)
      if (node !== undefined) node.owner = { kind: 'user' }
    }
    for (const name of report.shared) {
      const node = find(name)
      if (node !== undefined) node.owner = { kind: 'nobody' }
    }
    for (const name of report.writable) {
      const node = find(name)
      if (node !== undefined) node.spec = { ...node.spec, 'read-only': false }
    }
    void this.closeUnused()
  }

  /** Nodes that a job had to itself vanish with it, and those that a job left without a use: the worker says so. */
  report(worker: DiskWorker, report: Extract<Report, { kind: 'nodes' }>): void {
    if (report.gone.length === 0) return
    for (const node of [...this.directory.all()])
      if (node.owner.kind !== 'user' && node.state === 'open' && node.worker === worker)
        if (report.gone.includes(node.name)) this.directory.remove(node)
    void this.closeUnused()
  }

  /** Identities of the files among some nodes. */
  identities(nodes: readonly Node[]): Set<string> {
    const reports = nodes.flatMap((each): readonly NodeReport[] => {
      const report = this.directory.report(each)
      return report === undefined ? [] : [report]
    })
    return new Set(reports.flatMap(({ identity }) => (identity === undefined ? [] : [identity])))
  }

  /** Identities of the files that open images and running jobs read or write, backing files among them. */
  held(): Set<string> {
    const holding = [...this.directory.all()].filter(
      (node) => node.use !== undefined || node.spec.driver === 'qcow2',
    )
    return this.identities(holding.flatMap((node) => this.directory.tree(node)))
  }

  /** Where new nodes go: to the nodes they name, to others of their throttle group, else to a worker of their own. */
  async #workerFor(fresh: readonly Node[], into: DiskWorker | undefined): Promise<DiskWorker> {
    if (into !== undefined) {
      into.hold()
      return into
    }
    const own = new Set(fresh)
    const groups = new Set(this.#groupsOf(fresh))
    const existing = fresh.flatMap((node) => this.directory.children(node)).filter((node) => !own.has(node))
    for (const node of this.directory.all())
      if (!own.has(node) && node.worker !== undefined && groups.has(String(node.spec['throttle-group'])))
        existing.push(node)
    // A node that moves is in two workers for a while, and its new parent would be in the wrong one.
    for (const node of existing) if (node.state === 'changing') this.checkUnchanging(node)
    // Memory disks share a worker: their contents cannot move, so this is how two of them can be joined.
    if (existing.length === 0 && fresh.some((node) => node.spec.driver === 'x-memory'))
      for (const node of this.directory.all())
        if (node.spec.driver === 'x-memory' && node.worker !== undefined) existing.push(node)
    return existing.length === 0 ? this.#workers.start() : this.join(existing, undefined, own)
  }

  #view(node: Node, graph: Set<Node>, joined: Set<Node>, job: string | undefined): GraphView {
    const busy = (node: Node) =>
      node.state !== 'open' || node.exports.size > 0 || (node.use !== undefined && node.use.job !== job)
    const crowded = [...this.directory.all()].some(
      (other) => other.worker === node.worker && busy(other) && !joined.has(other),
    )
    const fixed = [...graph].some((each) => busy(each) || keepsState(each))
    const reluctant = [...graph].some(isServed)
    return { name: node.name, worker: node.worker?.name ?? '', fixed, reluctant, crowded }
  }

  /** Bitmaps of some nodes that are in the memory of their worker only. @throws CommandError when one is in use */
  async #carried(from: DiskWorker, nodes: readonly Node[]): Promise<readonly CarriedBitmap[]> {
    const carrying = nodes.filter((node) => {
      const bitmaps = this.directory.report(node)?.dirtyBitmaps ?? []
      return bitmaps.some(({ name, persistent, busy }) => name !== undefined && (busy || !persistent))
    })
    if (carrying.length === 0) return []
    return await from.request('bitmaps-carried', { nodes: carrying.map(({ name }) => name) })
  }

  /** All of them are held against other commands from the start: who is to move must still be who was planned. */
  async #move(graphs: readonly (readonly Node[])[], to: DiskWorker): Promise<void> {
    await this.change(graphs.flat(), async () => {
      for (const graph of graphs) {
        for (const from of new Set(graph.map((node) => node.worker)))
          if (from !== undefined && from !== to) await this.#moveBetween(from, to, graph)
        this.#log.debug({ nodes: graph.map((node) => node.name), iothread: to.name }, 'graph moved')
      }
    })
  }

  async #moveBetween(from: DiskWorker, to: DiskWorker, graph: readonly Node[]): Promise<void> {
    const nodes = graph.filter((node) => node.worker === from)
    const roots = nodes.filter((node) => node.owner.kind !== 'parent').sort((a, b) => a.order - b.order)
    if (nodes.some(isServed)) return this.#moveAlone(from, to, nodes, roots)
    const opened: Node[] = []
    try {
      for (const root of roots) {
        await this.#openIn(to, root)
        opened.unshift(root)
      }
      const bitmaps = await this.#carried(from, nodes)
      if (bitmaps.length > 0) await to.request('bitmaps-put', { bitmaps })
      if (!nodes.every((node) => this.directory.has(node)))
        throw new CommandError(`Node '${nodes[0]?.name}' was lost while it was moved`)
    } catch (error) {
      for (const root of opened) await this.#closeIn(to, root).catch((late) => this.#unclosed(root, late))
      throw error
    }
    from.hold()
    this.directory.place(nodes, to)
    try {
      for (const root of opened) await this.#closeIn(from, root)
    } finally {
      from.release()
    }
  }

  /** As #moveBetween for what two workers cannot have open at once: it is closed first, and opened there again on failure. */
  async #moveAlone(
    from: DiskWorker,
    to: DiskWorker,
    nodes: readonly Node[],
    roots: readonly Node[],
  ): Promise<void> {
    from.hold()
    try {
      const bitmaps = await this.#carried(from, nodes)
      for (const root of [...roots].reverse()) await this.#closeIn(from, root)
      await this.#openAll(to, roots, bitmaps).catch(async (error: unknown) => {
        await this.#openAll(from, roots, bitmaps).catch((late) => this.#lostWhileMoved(nodes, late))
        throw error
      })
      this.directory.place(nodes, to)
    } finally {
      from.release()
    }
  }

  /** All or none, with their bitmaps. */
  async #openAll(
    worker: DiskWorker,
    roots: readonly Node[],
    bitmaps: readonly CarriedBitmap[],
  ): Promise<void> {
    const opened: Node[] = []
    try {
      for (const root of roots) {
        await this.#openIn(worker, root)
        opened.unshift(root)
      }
      if (bitmaps.length > 0) await worker.request('bitmaps-put', { bitmaps })
    } catch (error) {
      for (const root of opened) await this.#closeIn(worker, root).catch((late) => this.#unclosed(root, late))
      throw error
    }
  }

  #lostWhileMoved(nodes: readonly Node[], error: unknown): void {
    this.#log.error(
      { nodes: nodes.map(({ name }) => name), err: error },
      'nodes were lost while they were moved',
    )
    for (const node of nodes) this.directory.remove(node)
  }

  async #openIn(worker: DiskWorker, root: Node): Promise<void> {
    for (const id of this.#groupsOf(this.directory.own(root)))
      await worker.tellGroup(id, this.#groupLimits(id))
    await worker.request('node-add', { spec: this.directory.nested(root) })
  }

  async #closeIn(worker: DiskWorker, root: Node): Promise<void> {
    await worker.request('node-del', { node: root.name })
  }

  #unclosed(node: Node, error: unknown): void {
    this.#log.warn({ node: node.name, err: error }, 'node could not be closed after a failed move')
  }

  #groupsOf(nodes: readonly Node[]): string[] {
    return nodes.flatMap(({ spec }) => (spec.driver === 'throttle' ? [String(spec['throttle-group'])] : []))
  }

  #groupLimits(id: string): ThrottleLimits {
    const limits = this.#limits(id)
    if (limits === undefined) throw new CommandError(`Throttle group '${id}' does not exist`)
    return limits
  }
}

/** A server may have room for one client. */
function isServed({ spec }: Node): boolean {
  return spec.driver === 'nbd'
}

/** Closed and opened elsewhere it would have lost what it holds. */
function keepsState({ spec }: Node): boolean {
  return spec.driver === 'x-memory' || spec.driver === 'copy-before-write'
}
