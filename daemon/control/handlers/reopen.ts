// SPDX-License-Identifier: Apache-2.0
// blockdev-reopen: works out what each definition means for nodes that are open, then has the workers do it, all or
// none. Options left out return to their defaults. A child defined inline follows its parent into read-only and does
// not come back by itself.

import { CommandError } from '../../errors.js'
import type { NodeSpec } from '../../iothread/messages.js'
import { childrenOf, type Definition, type Directory, type Node } from '../directory.js'
import type { Graphs } from '../graphs.js'
import type { Handlers, Log } from '../seams.js'
import type { DiskWorker } from '../workers.js'

/** What makes a node the node it is. */
const FIXED = ['driver', 'filename', 'size', 'throttle-group'] as const
/** Of drivers whose size is a view that may change. */
const RESIZABLE: readonly string[] = ['raw']

interface Change {
  readonly node: Node
  readonly spec: NodeSpec
}

export function reopenHandlers(graphs: Graphs, log: Log) {
  return {
    'blockdev-reopen': async ({ options }) => {
      const changes = planReopen(graphs.directory, options)
      await graphs.change(
        changes.map((change) => change.node),
        () => apply(changes, log),
      )
    },
  } satisfies Handlers
}

/** @throws CommandError when a definition asks for what cannot be changed */
function planReopen(directory: Directory, definitions: readonly Definition[]): Change[] {
  const changes = new Map<Node, NodeSpec>()
  for (const definition of definitions) {
    const name = definition['node-name']
    if (name === undefined) throw new CommandError('node-name not specified')
    const node = directory.find(name)
    if (node === undefined) throw new CommandError(`Failed to find node with node-name='${name}'`)
    plan(directory, node, definition, changes)
  }
  for (const [node, spec] of [...changes])
    if (spec['read-only'] === true) followIntoReadOnly(directory, node, changes)
  for (const [node, spec] of changes) checkWritable(directory, node, spec, changes)
  return [...changes].map(([node, spec]) => ({ node, spec }))
}

function plan(directory: Directory, node: Node, definition: Definition, changes: Map<Node, NodeSpec>): void {
  for (const option of FIXED)
    if (
      definition[option] !== node.spec[option] &&
      !(option === 'size' && RESIZABLE.includes(node.spec.driver))
    )
      throw new CommandError(`Cannot change the option '${option}'`)
  const names: Record<string, string> = {}
  for (const [role, child] of childrenOf(definition)) {
    const current = directory.children(node).find(({ name }) => name === node.children.get(role))
    const name = typeof child === 'string' ? child : (child['node-name'] ?? current?.name)
    if (current === undefined || name !== current.name)
      throw new CommandError(`Cannot change the option '${role}'`)
    names[role] = current.name
    if (typeof child !== 'string') plan(directory, current, child, changes)
  }
  changes.set(node, { ...definition, 'node-name': node.name, ...names })
}

function followIntoReadOnly(directory: Directory, node: Node, changes: Map<Node, NodeSpec>): void {
  for (const child of directory.own(node).slice(1))
    changes.set(child, { ...(changes.get(child) ?? child.spec), 'read-only': true })
}

/** A node that may be written needs children that may be. */
function checkWritable(
  directory: Directory,
  node: Node,
  spec: NodeSpec,
  changes: ReadonlyMap<Node, NodeSpec>,
): void {
  if (spec['read-only'] === true || spec['auto-read-only'] === true) return
  for (const child of directory.children(node)) {
    const next = changes.get(child)
    const readOnly = next === undefined ? directory.report(child)?.readOnly : next['read-only'] === true
    if (readOnly === true) throw new CommandError('Block node is read-only')
  }
}

/** One request for each worker; those that were done are taken back when a later one fails. */
async function apply(changes: readonly Change[], log: Log): Promise<void> {
  const workers = new Set(changes.map(({ node }) => node.worker))
  const done: (readonly [DiskWorker, readonly Change[]])[] = []
  try {
    for (const worker of workers) {
      const mine = changes.filter(({ node }) => node.worker === worker)
      if (worker === undefined) continue
      await worker.request('node-reopen', { specs: mine.map(({ spec }) => spec) })
      done.push([worker, mine])
    }
  } catch (error) {
    for (const [worker, mine] of done)
      await worker.request('node-reopen', { specs: mine.map(({ node }) => node.spec) }).catch((late) => {
        log.warn({ nodes: mine.map(({ node }) => node.name), err: late }, 'reopen could not be taken back')
      })
    throw error
  }
  for (const { node, spec } of changes) node.spec = spec
}
