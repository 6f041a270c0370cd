// SPDX-License-Identifier: Apache-2.0
// The block graph of one worker: opens, closes, reopens and resizes nodes, keeps claims, and reports changes.
// Used by the worker's root object and by job bodies. Everything a user may get wrong is a CommandError.

import type { IoEngine } from '../../../native/types.js'
import type { OldestRequest } from '../../common/job-messages.js'
import type { ThrottleLimits } from '../../common/throttle-limits.js'
import { CommandError, IoError } from '../../errors.js'
import type { FileCreateSpec, NodeDefinition, NodeReport, NodeSpec, Report } from '../messages.js'
import type { GraphReport } from '../messages-chain.js'
import { BitmapTable } from './bitmaps/bitmap-table.js'
import { type Claim, Claims, type Moved } from './claims.js'
import { createFile } from './create.js'
import { type BlockDriver, PERMISSIONS, type Permissions } from './driver.js'
import { Guests } from './guests.js'
import { ImageSource, type NamedImage } from './image-source.js'
import { resolveImplied } from './implied.js'
import type { BlockNode } from './node.js'
import { NodeFacts } from './node-facts.js'
import { duplicate, Opener } from './opener.js'
import { type NodeRecord, type Origin, Records } from './records.js'
import { commitReopen, isWritten, planReopen, type Reopened, type ReopenStep, type Rest } from './reopen.js'
import { restingSoon } from './rest.js'
import { Snapshot, type SnapshotOptions } from './snapshot.js'
import { Standing } from './standing.js'
import { Surgery } from './surgery.js'
import { type BitmapFacts, type TopFilter, type TopFilterKind, TopFilters } from './top-filters.js'
import { untorn } from './untorn.js'
import { makeWritable, type WriteAccess } from './write-access.js'
import { zeroScan } from './zero-scan.js'

export type GraphLog = (
  level: 'error' | 'warn' | 'info' | 'debug',
  fields: Readonly<Record<string, unknown>>,
  text: string,
) => void

export interface GraphEnv {
  readonly engine: IoEngine
  readonly log: GraphLog
  /** Nodes that are new or changed, in the order they came to be, and names of nodes that are no more. */
  readonly changed: (nodes: NodeReport[], gone: string[]) => void
  readonly corrupted: (report: Omit<Corrupted, 'kind'>) => void
  readonly rearranged: (report: Omit<GraphReport, 'kind'>) => void
}

type Corrupted = Extract<Report, { kind: 'image-corrupted' }>

export class Graph {
  readonly bitmaps: BitmapTable
  readonly guests = new Guests()
  readonly #env: GraphEnv
  readonly #records = new Records()
  readonly #claims = new Claims(
    this.#records,
    (node, error) => this.#failed(node.name, 'settle', error),
    (records) => this.#facts.report(records),
  )
  readonly #standing = new Standing(this.#claims)
  readonly #opener: Opener
  readonly #filters: TopFilters
  readonly surgery: Surgery
  readonly #facts: NodeFacts

  constructor(env: GraphEnv) {
    this.#env = env
    this.#facts = new NodeFacts(
      this.#records,
      (reports) => env.changed(reports, []),
      (node, op, error) => this.#failed(node, op, error),
    )
    this.bitmaps = new BitmapTable(this.#records, this.#claims, (records) => this.#facts.report(records))
    const isZero = zeroScan(env.engine)
    const failed = (node: string, op: string, error: unknown) => this.#failed(node, op, error)
    this.#opener = new Opener({
      ...{ env, isZero, failed, records: this.#records, claims: this.#claims, guests: this.guests },
      bitmap: (node, name) => this.bitmaps.usable(node, name, true).bits,
    })
    this.#filters = new TopFilters(
      this.#records,
      isZero,
      (record) => this.#facts.announce([record]),
      (name) => env.changed([], [name]),
    )
    this.surgery = new Surgery({
      records: this.#records,
      claims: this.#claims,
      rearranged: (edges, kept, shared) => env.rearranged({ edges, kept, shared, writable: [] }),
      report: (records) => this.#facts.report(records),
      remove: (name) => this.remove(name),
    })
  }

  /** Opens the node, inline children first. On failure nothing of it stays open. */
  async add(spec: NodeSpec): Promise<void> {
    const opened: NodeRecord[] = []
    try {
      await this.#opener.open(spec, spec, opened)
      for (const record of opened) await this.#standing.begin(record)
    } catch (error) {
      for (const record of opened.reverse()) {
        await this.#endStanding(record)
        await this.#opener.close(record)
      }
      throw error
    }
    for (const record of opened) await this.#facts.ask(record)
    this.#facts.announce(opened)
  }

  /** The definition with what its images name themselves; see implied.ts. Nothing is opened for good. */
  resolve(spec: NodeSpec): Promise<NodeDefinition> {
    const named = async (name: string): Promise<NamedImage> => {
      await this.freshen(name)
      const node = this.node(name)
      return { node, ...this.#records.origin(node) }
    }
    return resolveImplied(spec, new ImageSource(this.#env.engine, named))
  }

  /** Flushes and closes the node and its inline children. A flush that fails is logged: nobody waits for it. */
  async remove(name: string): Promise<void> {
    const record = this.#records.get(name)
    if (this.#records.parents(record.node).length > 0)
      throw new CommandError(`Block device ${name} is in use`)
    const own = this.#records.own(record)
    for (const { node } of own) {
      if (this.#claims.isClaimed(node)) throw new CommandError(`Node ${node.name} is in use`)
      const above = this.#records.parents(node).find((parent) => !own.includes(parent.record))
      if (above === undefined) continue
      const role = above.role === 'backing' ? 'backing hd' : above.role
      throw new CommandError(
        `Node '${node.name}' is busy: node is used as ${role} of '${above.record.node.name}'`,
      )
    }
    for (const one of own) {
      one.closing = true
      one.node.driver.release?.()
    }
    for (const one of own) await this.#endStanding(one)
    // Where the node is held still, who is to let it go on may need a turn for that.
    for (const one of own)
      await one.node.flush().catch((error: unknown) => this.#failed(one.node.name, 'flush', error))
    // After claims and reopenings that are under way; later ones find the node gone.
    using _turn = await this.#claims.turn(this.#records.leaves(record.node))
    for (const one of own) await this.#opener.close(one)
    this.#env.changed(
      [],
      own.map(({ node }) => node.name),
    )
  }

  async #endStanding(record: NodeRecord): Promise<void> {
    const failed = (error: unknown) => this.#failed(record.node.name, 'unlock', error)
    await this.#standing.end(record).catch(failed)
  }

  /** Opens the nodes anew with other options: all or none. @param mostMs  time for each to come to rest */
  async reopen(specs: readonly NodeSpec[], mostMs?: number): Promise<void> {
    const rest: Rest = (node) => restingSoon(node.name, (signal) => node.drain(signal), mostMs)
    await this.#reopen(planReopen(specs, this.#records, this.#claims), rest)
  }

  /**
   * A node that is only read becomes writable, until it is given back.
   * @param signal  gives up; Cancelled is thrown
   * @param mostMs  time in which it is to come to rest then, or it stays writable
   */
  makeWritable(node: BlockNode, signal: AbortSignal, mostMs?: number): Promise<WriteAccess> {
    const env = {
      records: this.#records,
      reopen: (steps: readonly ReopenStep[], rest: Rest) => this.#reopen(steps, rest),
      isWritten: (each: BlockNode) => isWritten(each, this.#claims),
      kept: (names: readonly string[]) => this.keptWritable(names),
      stuck: (name: string) =>
        this.#env.log('warn', { node: name }, 'node stays writable: a request of it does not end'),
      ...(mostMs !== undefined && { mostMs }),
    }
    return makeWritable(this.#records.get(node.name), env, signal)
  }

  /** Nodes that stay writable: whoever opens them elsewhere is to know. */
  keptWritable(names: readonly string[]): void {
    if (names.length > 0) this.#env.rearranged({ edges: [], kept: [], shared: [], writable: names })
  }

  async #reopen(steps: readonly ReopenStep[], rest: Rest): Promise<void> {
    const reopened: Reopened[] = []
    let old: BlockDriver[]
    try {
      for (const step of steps) {
        const { node, children } = step.record
        const { bitmaps, driver: previous } = node
        const driver = await this.#opener.openDriver(step.full, step.options, children, bitmaps, previous)
        reopened.push({ step, driver, children })
      }
      old = await commitReopen(reopened, this.#records, this.#claims, rest)
    } catch (error) {
      for (const { driver, step } of reopened) await this.#opener.closeDriver(driver, step.record.node.name)
      throw error
    }
    for (const [index, driver] of old.entries()) {
      await this.#opener.closeDriver(driver, steps[index]?.record.node.name ?? '')
    }
    const changed = steps.map((step) => step.record)
    for (const record of changed) await this.#facts.ask(record)
    this.#facts.report(changed)
  }

  /** Nodes by their names, parents before their children. @throws CommandError when there is no such node */
  parentsFirst(names: readonly string[]): BlockNode[] {
    const wanted = new Set(names.map((name) => this.node(name)))
    return this.#records.parentsFirst().flatMap(({ node }) => (wanted.has(node) ? [node] : []))
  }

  /** @throws CommandError when another user of the node does not share resizing */
  async resize(name: string, size: number): Promise<void> {
    const { node } = this.#records.get(name)
    if (node.driver.resize === undefined) {
      throw new CommandError('Image format driver does not support resize')
    }
    const release = await this.#claims.claim('an unnamed block device', node, {
      use: ['resize'],
      share: PERMISSIONS,
    })
    try {
      await node.resize(size)
    } finally {
      await release()
    }
    const touched = this.#records.above(this.#records.leaves(node))
    for (const record of touched) await this.#facts.ask(record)
    this.#facts.report(touched)
  }

  /** @throws CommandError when there is no such node */
  node(name: string): BlockNode {
    return this.#records.get(name).node
  }

  /** The driver of the image that a node shows, below filters; undefined where there is no format. */
  format(node: BlockNode): BlockDriver | undefined {
    return this.#records.format(node)?.node.driver
  }

  /** Whether a node is part of what another one is made of. */
  isBelow(node: BlockNode, above: BlockNode): boolean {
    return this.#records.tree(above).some((record) => record.node === node)
  }

  /** @throws CommandError when there are no buffers for it */
  snapshot(options: SnapshotOptions): Snapshot {
    return new Snapshot(this.#env.engine, options)
  }

  nodes(): BlockNode[] {
    return this.#records.all().map(({ node }) => node)
  }

  /**
   * Before a new user of a node decides by its size or content: a file that nobody used may have been changed by
   * other programs, and with it what a format above read from it. What is in use is locked, and known truly.
   * @throws IoError when storage does not tell
   */
  async freshen(name: string): Promise<void> {
    const node = this.node(name)
    await untorn({ claims: this.#claims, records: this.#records }, [node], () => this.#freshen(node))
  }

  async #freshen(node: BlockNode): Promise<void> {
    using _turn = await this.#claims.turn(this.#records.leaves(node))
    for (const record of this.#records.tree(node).reverse()) {
      if (this.#claims.cumulative(record.node) === undefined) await record.node.driver.freshen?.()
    }
  }

  /**
   * Rights on a node for a user, down to the leaf's image locks.
   * @param user  as it is named in conflicts: 'an unnamed block device', "block job 'job0'"
   * @param moved   given by users who go to another node when it takes this one's place
   * @param beside  a node above, for which nothing changes whatever is done here
   * @throws CommandError naming the conflict or the lock
   */
  async claim(
    user: string,
    node: BlockNode,
    permissions: Permissions,
    moved?: Moved,
    beside?: BlockNode,
  ): Promise<Claim> {
    let at = node
    const follow: Moved = (to) => {
      at = to
      moved?.(to)
    }
    const how = { moved: moved && follow, beside }
    const release = await this.#claims.claim(user, node, permissions, how)
    const filters = this.#filters
    return {
      get node() {
        return filters.top(at)
      },
      release,
    }
  }

  origin(node: BlockNode): Origin {
    return this.#records.origin(node)
  }

  /** Puts a job's filter above a node. Claims on the node see the filter until it is removed. */
  insertFilter(name: string, below: BlockNode, bitmap: BitmapFacts, kind: TopFilterKind): TopFilter {
    if (this.#records.find(name) !== undefined) throw duplicate(name)
    return this.#filters.insert(name, below, bitmap, kind)
  }

  /** Somebody has claimed the node, or lies above it. */
  isUsed(node: BlockNode): boolean {
    return this.#claims.isClaimed(node) || this.#records.parents(node).length > 0
  }

  /** Nodes on the way from one down to another in its backing chain, both included; undefined when it is not there. */
  chain(from: BlockNode, to?: BlockNode): BlockNode[] | undefined {
    return this.#records.chain(from, to)?.map(({ node }) => node)
  }

  /** A job on these nodes was cancelled by force; see BlockDriver.hurry. */
  hurry(names: readonly string[]): void {
    for (const name of names) {
      const record = this.#records.find(name)
      if (record === undefined) continue
      for (const { node } of this.#records.tree(record.node)) node.driver.hurry?.()
    }
  }

  /** A job on these nodes goes on after a pause; see BlockDriver.revive. */
  async revive(names: readonly string[]): Promise<void> {
    const records = names.flatMap((name) => this.#records.find(name) ?? [])
    const nodes = new Set(
      records.flatMap((record) => this.#records.tree(record.node).map(({ node }) => node)),
    )
    await Promise.all([...nodes].map(({ driver }) => driver.revive?.()))
  }

  /** The request that waits longest, in the kernel or held back by a driver. */
  oldest(): OldestRequest | undefined {
    return this.#opener.oldest()
  }

  /** Makes or changes a throttle group; null forgets it. */
  throttleGroup(id: string, limits: ThrottleLimits | null): void {
    this.#opener.throttleGroup(id, limits)
  }

  /** See Opener. */
  forget(): boolean {
    return this.#opener.forget()
  }

  /** Asks leaves for their facts anew and reports nodes that changed. A leaf that does not answer is not asked again. */
  refresh(): Promise<void> {
    return this.#facts.refresh()
  }

  /** Reports nodes that have bitmaps, as they are now. */
  reportBitmaps(): void {
    this.#facts.report(this.#records.all().filter(({ node }) => !node.bitmaps.empty))
  }

  /** Makes or empties an image file; see create.ts. */
  createFile(spec: FileCreateSpec, refuse: readonly string[]): Promise<void> {
    return createFile(this.#env.engine, spec, refuse)
  }

  /** Flushes and closes every node, parents first. */
  async close(): Promise<void> {
    const records = this.#records.parentsFirst()
    for (const record of records) record.node.driver.release?.()
    for (const record of records) {
      await record.node.flush().catch((error: unknown) => this.#failed(record.node.name, 'flush', error))
      await this.#opener.close(record)
    }
    if (records.length > 0) {
      this.#env.changed(
        [],
        records.map(({ node }) => node.name),
      )
    }
  }

  #failed(node: string, op: string, error: unknown): void {
    if (!(error instanceof IoError || error instanceof CommandError)) throw error
    const code = error instanceof IoError ? error.code : undefined
    this.#env.log('error', { node, op, code }, `${op} failed: ${error.message}`)
  }
}
