// SPDX-License-Identifier: Apache-2.0
// Reopening nodes with other options: all or none. Used by the graph.
// Order: check everything, open the new drivers, then stop requests, take over locks, swap, and close the old drivers.
// Nothing that can fail for a reason of storage comes after the first swap.

import { CommandError } from '../../errors.js'
import type { NodeSpec } from '../messages.js'
import type { Claims } from './claims.js'
import type { BlockDriver } from './driver.js'
import type { BlockNode } from './node.js'
import { driverEntry } from './open.js'
import { inherit, type NodeOptions, nodeOptions } from './options.js'
import type { Child, NodeRecord, Records, Role } from './records.js'

/** One node to be reopened. */
export interface ReopenStep {
  readonly record: NodeRecord
  /** As the user wrote it. */
  readonly own: NodeSpec
  /** With what was inherited. */
  readonly full: NodeSpec
  readonly options: NodeOptions
}

/**
 * What the specifications ask for, children before their parents.
 * @throws CommandError for an unknown node, an option that may not change, or a writer on a node to become read-only
 */
export function planReopen(specs: readonly NodeSpec[], records: Records, claims: Claims): ReopenStep[] {
  const steps = new Map<string, ReopenStep>()
  for (const spec of specs) {
    const record = records.find(spec['node-name'])
    if (record === undefined || record.closing) throw unknown(spec['node-name'])
    for (const step of planOne(record, spec, spec, records)) steps.set(step.record.node.name, step)
  }
  for (const step of steps.values()) checkWriters(step, claims)
  return [...steps.values()]
}

/** Whether a user of the node may change it. */
export function isWritten(node: BlockNode, claims: Claims): boolean {
  return (claims.cumulative(node)?.use ?? []).some((permission) => permission !== 'consistent read')
}

function checkWriters({ record, options }: ReopenStep, claims: Claims): void {
  if (options.readOnly && isWritten(record.node, claims)) throw new CommandError('Block node is read-only')
}

function planOne(record: NodeRecord, own: NodeSpec, full: NodeSpec, records: Records): ReopenStep[] {
  for (const option of ['driver', ...driverEntry(record.spec.driver).fixed]) {
    if (own[option] !== record.spec[option]) throw fixed(option, own)
  }
  const options = nodeOptions(full)
  // What was read while others were let change the image would count when nobody is.
  if (options.forceShare !== record.node.options.forceShare) throw fixed('force-share', own)
  const step: ReopenStep = { record, own, full, options }
  return [...record.children.flatMap((child) => planChild(child, own, options, records)), step]
}

function fixed(option: string, own: NodeSpec): CommandError {
  return new CommandError(
    own[option] === undefined
      ? `Option '${option}' cannot be reset to its default value`
      : `Cannot change the option '${option}'`,
  )
}

function planChild(child: Child, own: NodeSpec, options: NodeOptions, records: Records): ReopenStep[] {
  const { role, node, inline } = child
  const below = records.get(node.name)
  const wanted = own[role]
  if (typeof wanted === 'string') {
    if (wanted !== node.name) throw new CommandError(`Cannot change the option '${role}'`)
    return inline ? follow(role, options, below, records) : []
  }
  const definition = wanted as NodeSpec | null | undefined
  if (!inline || definition?.['node-name'] !== node.name) {
    throw new CommandError(`Cannot change the option '${role}'`)
  }
  return planOne(below, definition, inherit(role, options, definition), records)
}

/** An inline child follows its parent's inherited options, but does not become writable again by itself. */
function follow(role: Role, parent: NodeOptions, record: NodeRecord, records: Records): ReopenStep[] {
  const inherited = inherit(role, parent, record.spec)
  const full = { ...inherited, 'read-only': inherited['read-only'] === true || record.node.readOnly }
  const options = nodeOptions(full)
  const now = record.node.options
  const same = (Object.keys(options) as (keyof NodeOptions)[]).every((key) => options[key] === now[key])
  return same ? [] : planOne(record, record.spec, full, records)
}

export interface Reopened {
  readonly step: ReopenStep
  readonly driver: BlockDriver
  /** What it was opened with. */
  readonly children: NodeRecord['children']
}

/** Drains a node that is to be reopened, and may give up. */
export type Rest = (node: BlockNode) => Promise<Disposable>

/**
 * Puts the new drivers in place.
 * @returns the old drivers, for the caller to close
 * @throws when a node does not come to rest, a flush fails, locks cannot be taken over or a node was removed meanwhile;
 *   then nothing was swapped
 */
export async function commitReopen(
  reopened: readonly Reopened[],
  records: Records,
  claims: Claims,
  rest: Rest,
): Promise<BlockDriver[]> {
  for (const { step } of reopened) step.record.node.driver.release?.()
  const held: Disposable[] = []
  try {
    const leaves = new Set(reopened.flatMap(({ step }) => records.leaves(step.record.node)))
    held.push(await claims.turn([...leaves]))
    for (const { step, children } of reopened) {
      const { node } = step.record
      if (!records.holds(step.record)) throw unknown(node.name)
      if (step.record.children !== children)
        throw new CommandError(`Node '${node.name}' has got another node below it meanwhile`)
      checkWriters(step, claims)
    }
    // Parents first: a drained child would hold up its parent's requests for ever.
    // What a format holds back goes to its children while they still take it.
    for (const { step } of [...reopened].reverse()) {
      held.push(await rest(step.record.node))
      await step.record.node.driver.settle?.()
    }
    // What the old handle could not write back must be heard before it is closed.
    for (const { step } of reopened) {
      const { node, children } = step.record
      if (children.length === 0 && !node.readOnly) await node.driver.flush()
    }
    for (const { step, driver } of reopened) await driver.takeOver?.(step.record.node.driver)
    return reopened.map(({ step, driver }) => {
      const { node } = step.record
      const old = node.driver
      node.swap(driver, effectiveOptions(step.options, driver, step.record))
      driver.placed?.()
      step.record.spec = step.own
      return old
    })
  } finally {
    for (const one of held) one[Symbol.dispose]()
  }
}

/** A leaf that could only be opened for reading (auto-read-only) is read-only. */
export function effectiveOptions(
  options: NodeOptions,
  driver: BlockDriver,
  record: Pick<NodeRecord, 'children'>,
): NodeOptions {
  const readOnly = options.readOnly || (record.children.length === 0 && !driver.can.write)
  return readOnly === options.readOnly ? options : { ...options, readOnly }
}

function unknown(name: string): CommandError {
  return new CommandError(`Failed to find node with node-name='${name}'`)
}
