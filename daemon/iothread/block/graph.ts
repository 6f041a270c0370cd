// SPDX-License-Identifier: Apache-2.0
// The block graph of one worker: opens, closes, reopens and resizes nodes, keeps claims, and reports changes.
// Used by the worker's root object and by job bodies. Everything a user may get wrong is a CommandError.

import type { FileId, IoEngine } from '../../../native/types.js'
import type { OldestRequest } from '../../common/job-messages.js'
import { CommandError, IoError } from '../../errors.js'
import type {
  FileCreateSpec,
  NodeDefinition,
  NodeReport,
  NodeSpec,
  Report,
  ThrottleLimits,
} from '../messages.js'
import { type Claim, Claims, type Moved } from './claims.js'
import { createFile } from './create.js'
import { type BlockDriver, PERMISSIONS, type Permissions, type Slice } from './driver.js'
import { DriverBuffers } from './driver-buffers.js'
import type { ChangeGuard } from './drivers/mirror-top.js'
import { HeldRequests } from './held.js'
import { ImageSource, type NamedImage } from './image-source.js'
import { resolveImplied } from './implied.js'
import { BlockNode } from './node.js'
import { type ChildNodes, driverEntry, type OpenContext } from './open.js'
import { inherit, type NodeOptions, nodeOptions } from './options.js'
import { type Child, type NodeRecord, Records, type Role } from './records.js'
import { commitReopen, effectiveOptions, planReopen, type Reopened } from './reopen.js'
import { nodeReport } from './report.js'
import { ThrottleGroups } from './throttle-group.js'
import { type BitmapFacts, type TopFilter, TopFilters } from './top-filters.js'

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
}

type Corrupted = Extract<Report, { kind: 'image-corrupted' }>

/** The engine's verbs that have another name above. */
const verbs: Readonly<Record<string, string>> = {
  extents: 'status',
  truncate: 'resize',
  lockedByOthers: 'lock',
}

export class Graph {
  readonly #env: GraphEnv
  readonly #records = new Records()
  readonly #claims = new Claims(this.#records, (node, error) => this.#failed(node.name, 'settle', error))
  readonly #throttleGroups = new ThrottleGroups()
  readonly #held = new HeldRequests()
  /** Node names by engine handle. */
  readonly #files = new Map<FileId, string>()
  /** By the number of formats below: who waits for a format below keeps none of its buffers. Made with the first. */
  readonly #buffers = new Map<number, DriverBuffers>()
  /** Names of nodes being opened, oldest first. */
  readonly #opening = new Set<string>()
  readonly #filters: TopFilters
  /** Leaves whose facts are being asked. */
  readonly #asking = new Set<BlockNode>()

  constructor(env: GraphEnv) {
    this.#env = env
    this.#filters = new TopFilters(
      this.#records,
      this.#isZero,
      (record) => this.#report([record]),
      (name) => env.changed([], [name]),
    )
  }

  /** Opens the node, inline children first. On failure nothing of it stays open. */
  async add(spec: NodeSpec): Promise<void> {
    const opened: NodeRecord[] = []
    try {
      await this.#open(spec, spec, opened)
    } catch (error) {
      for (const record of opened.reverse()) await this.#close(record)
      throw error
    }
    for (const record of opened) await this.#ask(record)
    this.#report(opened)
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
    }
    for (const one of own) {
      one.closing = true
      one.node.driver.release?.()
    }
    // After claims and reopenings that are under way; later ones find the node gone.
    using _turn = await this.#claims.turn(this.#records.leaves(record.node))
    for (const one of own) {
      await one.node.flush().catch((error: unknown) => this.#failed(one.node.name, 'flush', error))
      await this.#close(one)
    }
    this.#env.changed(
      [],
      own.map(({ node }) => node.name),
    )
  }

  /** Opens the nodes anew with other options: all or none. */
  async reopen(specs: readonly NodeSpec[]): Promise<void> {
    const steps = planReopen(specs, this.#records, this.#claims)
    const reopened: Reopened[] = []
    let old: BlockDriver[]
    try {
      for (const step of steps) {
        const { node, children } = step.record
        const driver = await this.#openDriver(step.full, step.options, children, node.driver)
        reopened.push({ step, driver })
      }
      old = await commitReopen(reopened, this.#records, this.#claims)
    } catch (error) {
      for (const { driver, step } of reopened) await this.#closeDriver(driver, step.record.node.name)
      throw error
    }
    for (const [index, driver] of old.entries()) {
      await this.#closeDriver(driver, steps[index]?.record.node.name ?? '')
    }
    const changed = steps.map((step) => step.record)
    for (const record of changed) await this.#ask(record)
    this.#report(changed)
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
    for (const record of touched) await this.#ask(record)
    this.#report(touched)
  }

  /** @throws CommandError when there is no such node */
  node(name: string): BlockNode {
    return this.#records.get(name).node
  }

  /** The driver of the image that a node shows, below filters; undefined where there is no format. */
  format(node: BlockNode): BlockDriver | undefined {
    return this.#records.format(node)?.node.driver
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
    using _turn = await this.#claims.turn(this.#records.leaves(node))
    for (const record of this.#records.tree(node).reverse()) {
      if (this.#claims.cumulative(record.node) === undefined) await record.node.driver.freshen?.()
    }
  }

  /**
   * Rights on a node for a user, down to the leaf's image locks.
   * @param user   as it is named in conflicts: 'an unnamed block device', "block job 'job0'"
   * @param moved  given by users who go to another node when it takes this one's place
   * @throws CommandError naming the conflict or the lock
   */
  async claim(user: string, node: BlockNode, permissions: Permissions, moved?: Moved): Promise<Claim> {
    let at = node
    const follow: Moved = (to) => {
      at = to
      moved?.(to)
    }
    const release = await this.#claims.claim(user, node, permissions, moved && follow)
    const filters = this.#filters
    return {
      get node() {
        return filters.top(at)
      },
      release,
    }
  }

  /**
   * Puts a mirror_top filter above a node. Claims on the node see the filter until it is removed.
   * @param guard  is given the changes that come through the filter
   */
  insertFilter(name: string, below: BlockNode, bitmap: BitmapFacts, guard?: ChangeGuard): TopFilter {
    if (this.#records.find(name) !== undefined) throw duplicate(name)
    return this.#filters.insert(name, below, bitmap, guard)
  }

  /**
   * Another node takes the place of the node below a filter: claims that may move are on it from now on, and requests
   * that wait in the filter go to it. Called in drained sections of the filter and the node below.
   * @param ending  claims on either node that end with it
   * @throws CommandError when the node cannot be replaced; nothing is changed then
   */
  async pivot(filter: TopFilter, to: BlockNode, ending: readonly Claim[]): Promise<void> {
    const { below, node } = filter
    const parent = this.#records.parents(below).find(({ record }) => record.node !== node)
    if (parent !== undefined)
      throw new CommandError(
        `Node '${parent.record.node.name}' was put above '${below.name}' meanwhile and cannot be moved to '${to.name}'`,
      )
    await this.#claims.replace(
      below,
      to,
      ending.map(({ release }) => release),
    )
    filter.redirect(to)
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
    const held = this.#held.oldest()
    const stuck = this.#env.engine.oldest()
    if (stuck === undefined || (held !== undefined && held.ageMs > stuck.ageMs)) return held
    const [opening] = this.#opening
    const node = this.#files.get(stuck.file) ?? opening ?? ''
    return { op: verbs[stuck.op] ?? stuck.op, node, ageMs: stuck.ageMs }
  }

  /** Makes or changes a throttle group; null forgets it. */
  throttleGroup(id: string, limits: ThrottleLimits | null): void {
    this.#throttleGroups.set(id, limits)
  }

  /** Asks leaves for their facts anew and reports nodes that changed. A leaf that does not answer is not asked again. */
  async refresh(): Promise<void> {
    const leaves = this.#records.all().filter(({ node }) => !this.#asking.has(node))
    const asked = new Set<NodeRecord>()
    let reporting: Promise<void> | undefined
    // Leaves that answer together are reported at once: each is below the whole of a chain.
    const reportSoon = async () => {
      await new Promise((resolve) => setImmediate(resolve))
      reporting = undefined
      const records = this.#records.all().filter((record) => asked.has(record))
      asked.clear()
      this.#report(records)
    }
    await Promise.all(
      leaves.map(async (record) => {
        await this.#ask(record)
        for (const one of this.#records.above([record.node])) asked.add(one)
        reporting ??= reportSoon()
        await reporting
      }),
    )
  }

  /** Makes or empties an image file; see create.ts. */
  createFile(spec: FileCreateSpec, refuse: readonly string[]): Promise<void> {
    return createFile(this.#env.engine, spec, refuse)
  }

  /** Forgets what it was told, the throttle groups, and gives back the formats' buffers; false, and nothing done, while there is a node or a request. */
  forget(): boolean {
    const busy = this.#records.all().length + this.#opening.size + this.#files.size > 0
    if (busy || this.#held.oldest() !== undefined) return false
    this.#throttleGroups.clear()
    for (const buffers of this.#buffers.values()) buffers.giveBack()
    this.#buffers.clear()
    return true
  }

  /** Flushes and closes every node, parents first. */
  async close(): Promise<void> {
    const records = this.#records.all().reverse()
    for (const record of records) record.node.driver.release?.()
    for (const record of records) {
      await record.node.flush().catch((error: unknown) => this.#failed(record.node.name, 'flush', error))
      await this.#close(record)
    }
    if (records.length > 0) {
      this.#env.changed(
        [],
        records.map(({ node }) => node.name),
      )
    }
  }

  /** @param opened  gets the records in the order they were made */
  async #open(own: NodeSpec, full: NodeSpec, opened: NodeRecord[]): Promise<BlockNode> {
    const name = own['node-name']
    if (this.#records.find(name) !== undefined || this.#opening.has(name)) throw duplicate(name)
    this.#opening.add(name)
    try {
      const options = nodeOptions(full)
      const children: Child[] = []
      for (const role of driverEntry(own.driver).children) {
        const child = await this.#openChild(role, own, options, opened)
        if (child !== undefined) children.push(child)
      }
      const driver = await this.#openDriver(full, options, children, undefined)
      const node = new BlockNode(name, driver, effectiveOptions(options, driver, { children }), this.#isZero)
      const record: NodeRecord = {
        node,
        children,
        spec: own,
        facts: undefined,
        bitmap: undefined,
        sent: undefined,
        closing: false,
      }
      this.#records.add(record)
      opened.push(record)
      return node
    } finally {
      this.#opening.delete(name)
    }
  }

  async #openChild(
    role: Role,
    spec: NodeSpec,
    options: NodeOptions,
    opened: NodeRecord[],
  ): Promise<Child | undefined> {
    const wanted = spec[role] as string | NodeSpec | null | undefined
    if (wanted === undefined || wanted === null) return undefined
    try {
      if (typeof wanted === 'string') return { role, node: this.node(wanted), inline: false }
      return { role, node: await this.#open(wanted, inherit(role, options, wanted), opened), inline: true }
    } catch (error) {
      if (role !== 'backing' || !(error instanceof CommandError)) throw error
      throw new CommandError(`Could not open backing file: ${error.message}`)
    }
  }

  #openDriver(
    spec: NodeSpec,
    options: NodeOptions,
    children: readonly Child[],
    previous: BlockDriver | undefined,
  ): Promise<BlockDriver> {
    const context: OpenContext = {
      engine: this.#env.engine,
      throttleGroups: this.#throttleGroups,
      held: this.#held,
      opened: (file) => this.#files.set(file, spec['node-name']),
      previous,
      formatBuffers: () => {
        const below = this.#records.formatsBelow(children)
        const buffers = this.#buffers.get(below) ?? new DriverBuffers(this.#env.engine)
        this.#buffers.set(below, buffers)
        return buffers
      },
      log: (level, text) => this.#env.log(level, { node: spec['node-name'] }, text),
      corrupted: (text, at) => this.#env.corrupted({ node: spec['node-name'], text, ...at }),
    }
    const nodes: ChildNodes = Object.fromEntries(children.map(({ role, node }) => [role, node]))
    return driverEntry(spec.driver).open(spec, options, context, nodes)
  }

  async #close(record: NodeRecord): Promise<void> {
    record.node.driver.release?.()
    await this.#closeDriver(record.node.driver, record.node.name)
    this.#records.delete(record.node.name)
  }

  async #closeDriver(driver: BlockDriver, name: string): Promise<void> {
    try {
      await driver.close()
    } catch (error) {
      this.#failed(name, 'close', error)
    }
    if ('file' in driver && typeof driver.file === 'number') this.#files.delete(driver.file)
  }

  /** Facts of a leaf; one that cannot tell keeps what it told last. */
  async #ask(record: NodeRecord): Promise<void> {
    if (record.children.length > 0 || record.node.driver.facts === undefined) return
    this.#asking.add(record.node)
    try {
      record.facts = await record.node.driver.facts()
    } catch (error) {
      this.#failed(record.node.name, 'stat', error)
    } finally {
      this.#asking.delete(record.node)
    }
  }

  #report(records: readonly NodeRecord[]): void {
    const changed: NodeReport[] = []
    for (const record of records) {
      const report = nodeReport(record, this.#records)
      if (JSON.stringify(report) === JSON.stringify(record.sent)) continue
      record.sent = report
      changed.push(report)
    }
    if (changed.length > 0) this.#env.changed(changed, [])
  }

  #failed(node: string, op: string, error: unknown): void {
    if (!(error instanceof IoError || error instanceof CommandError)) throw error
    const code = error instanceof IoError ? error.code : undefined
    this.#env.log('error', { node, op, code }, `${op} failed: ${error.message}`)
  }

  readonly #isZero = (slice: Slice): boolean => {
    const bytes = this.#env.engine.slotBytes(slice.slot)
    for (let at = 0; at < slice.length; at += ZEROES.length) {
      const end = Math.min(at + ZEROES.length, slice.length)
      const same = ZEROES.compare(bytes, slice.offset + at, slice.offset + end, 0, end - at) === 0
      if (!same) return false
    }
    return true
  }
}

const ZEROES = Buffer.alloc(65536)

function duplicate(name: string): CommandError {
  return new CommandError(`Duplicate nodes with node-name='${name}'`)
}
