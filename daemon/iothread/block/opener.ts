// SPDX-License-Identifier: Apache-2.0
// Opener: opens and closes the drivers of a graph's nodes, and has what they share: throttle groups, buffers of formats, the
// list of requests that are held back. Part of the graph.

import type { FileId } from '../../../native/types.js'
import type { OldestRequest } from '../../common/job-messages.js'
import type { ThrottleLimits } from '../../common/throttle-limits.js'
import { CommandError } from '../../errors.js'
import type { NodeSpec } from '../messages.js'
import { NodeBitmaps } from './bitmaps/node-bitmaps.js'
import type { Claims } from './claims.js'
import type { BlockDriver } from './driver.js'
import { DriverBuffers } from './driver-buffers.js'
import type { GraphEnv } from './graph.js'
import type { Guests } from './guests.js'
import { HeldRequests } from './held.js'
import { BlockNode, type ZeroScan } from './node.js'
import { type ChildNodes, driverEntry, type OpenContext } from './open.js'
import { inherit, type NodeOptions, nodeOptions } from './options.js'
import type { Child, NodeRecord, Records, Role } from './records.js'
import { effectiveOptions } from './reopen.js'
import { ThrottleGroups } from './throttle-group.js'
import { untorn } from './untorn.js'

/** The engine's verbs that have another name above. */
const verbs: Readonly<Record<string, string>> = {
  extents: 'status',
  truncate: 'resize',
  grow: 'resize',
  lockedByOthers: 'lock',
}

export interface OpenerParts {
  readonly env: GraphEnv
  readonly records: Records
  readonly claims: Claims
  readonly isZero: ZeroScan
  /** Told of a driver that could not be closed in order. */
  readonly failed: Failed
  readonly guests: Guests
  /** See OpenContext. */
  readonly bitmap: OpenContext['bitmap']
}

type Failed = (node: string, op: string, error: unknown) => void

export class Opener {
  readonly #env: GraphEnv
  readonly #records: Records
  readonly #claims: Claims
  readonly #isZero: ZeroScan
  readonly #failed: Failed
  readonly #guests: Guests
  readonly #bitmap: OpenContext['bitmap']
  readonly #throttleGroups = new ThrottleGroups()
  readonly #held = new HeldRequests()
  /** Node names by engine handle. */
  readonly #files = new Map<FileId, string>()
  /** By the number of formats below: who waits for a format below keeps none of its buffers. Made with the first. */
  readonly #buffers = new Map<number, DriverBuffers>()
  /** Names of nodes being opened, oldest first. */
  readonly #opening = new Set<string>()

  constructor({ env, records, claims, isZero, failed, guests, bitmap }: OpenerParts) {
    this.#env = env
    this.#records = records
    this.#claims = claims
    this.#isZero = isZero
    this.#failed = failed
    this.#guests = guests
    this.#bitmap = bitmap
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

  /**
   * Forgets what it was told, the throttle groups, and gives back the formats' buffers; false, and nothing done, while there
   * is a node or a request.
   */
  forget(): boolean {
    const busy = this.#records.all().length + this.#opening.size + this.#files.size > 0
    if (busy || this.#held.oldest() !== undefined) return false
    this.#throttleGroups.clear()
    for (const buffers of this.#buffers.values()) buffers.giveBack()
    this.#buffers.clear()
    return true
  }

  /** @param opened  gets the records in the order they were made */
  async open(own: NodeSpec, full: NodeSpec, opened: NodeRecord[]): Promise<BlockNode> {
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
      const bitmaps = new NodeBitmaps()
      const driver = await this.openDriver(full, options, children, bitmaps, undefined)
      try {
        for (const child of children) this.#records.checkHolds(child.node)
      } catch (error) {
        await this.closeDriver(driver, name)
        throw error
      }
      const effective = effectiveOptions(options, driver, { children })
      const node = new BlockNode(name, driver, effective, this.#isZero, bitmaps)
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
      if (typeof wanted === 'string') return { role, node: this.#records.get(wanted).node, inline: false }
      return { role, node: await this.open(wanted, inherit(role, options, wanted), opened), inline: true }
    } catch (error) {
      if (role !== 'backing' || !(error instanceof CommandError)) throw error
      throw new CommandError(`Could not open backing file: ${error.message}`)
    }
  }

  openDriver(
    spec: NodeSpec,
    options: NodeOptions,
    children: readonly Child[],
    bitmaps: NodeBitmaps,
    previous: BlockDriver | undefined,
  ): Promise<BlockDriver> {
    const entry = driverEntry(spec.driver)
    const context = this.#context(spec, children, bitmaps, previous)
    const nodes: ChildNodes = Object.fromEntries(children.map(({ role, node }) => [role, node]))
    const open = () => entry.open(spec, options, context, nodes)
    if (entry.reads !== true) return open()
    const own = children.flatMap(({ role, node }) => (role === 'backing' ? [] : [node]))
    return untorn({ claims: this.#claims, records: this.#records }, own, open)
  }

  #context(
    spec: NodeSpec,
    children: readonly Child[],
    bitmaps: NodeBitmaps,
    previous: BlockDriver | undefined,
  ): OpenContext {
    return {
      engine: this.#env.engine,
      throttleGroups: this.#throttleGroups,
      held: this.#held,
      opened: (file) => this.#files.set(file, spec['node-name']),
      bitmaps,
      previous,
      formatBuffers: () => {
        const below = this.#records.formatsBelow(children)
        const buffers = this.#buffers.get(below) ?? new DriverBuffers(this.#env.engine)
        this.#buffers.set(below, buffers)
        return buffers
      },
      format: (node) => this.#records.format(node)?.node.driver,
      bitmap: this.#bitmap,
      guests: this.#guests,
      log: (level, text) => this.#env.log(level, { node: spec['node-name'] }, text),
      corrupted: (text, at) => this.#env.corrupted({ node: spec['node-name'], text, ...at }),
    }
  }

  async close(record: NodeRecord): Promise<void> {
    record.node.driver.release?.()
    await this.closeDriver(record.node.driver, record.node.name)
    this.#records.delete(record.node.name)
  }

  async closeDriver(driver: BlockDriver, name: string): Promise<void> {
    try {
      await driver.close()
    } catch (error) {
      this.#failed(name, 'close', error)
    }
    if ('file' in driver && typeof driver.file === 'number') this.#files.delete(driver.file)
  }
}

export function duplicate(name: string): CommandError {
  return new CommandError(`Duplicate nodes with node-name='${name}'`)
}
