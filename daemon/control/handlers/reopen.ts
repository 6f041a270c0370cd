// SPDX-License-Identifier: Apache-2.0
// blockdev-reopen: works out what each definition means for nodes that are open, then has the workers do it, all or
// none. Options left out return to their defaults. Which options may change is the drivers' knowledge, in the worker.
// A child defined inline follows its parent into read-only there, and does not come back by itself.

import type { Logger } from 'pino'
import { CommandError } from '../../errors.js'
import type { NodeSpec } from '../../iothread/messages.js'
import type { Handlers } from '../commands.js'
import { childrenOf, type Definition, type Directory, type Node } from '../directory.js'
import type { Graphs } from '../graphs.js'
import type { DiskWorker } from '../workers.js'

interface Change {
  readonly node: Node
  /** Children as names. */
  readonly spec: NodeSpec
  /** As it was asked for, with children that were defined inside it; undefined when it is inside another. */
  readonly request: NodeSpec | undefined
}

export function reopenHandlers(graphs: Graphs, log: Logger) {
  return {
    'blockdev-reopen': async ({ options }) => {
      const changes = planReopen(graphs.directory, options)
      await graphs.change(
        changes.map((change) => change.node),
        () => apply(graphs.directory, changes, log),
      )
      for (const change of changes) keep(graphs.directory, change)
    },
  } satisfies Handlers
}

/** @throws CommandError when a definition asks for what cannot be changed */
function planReopen(directory: Directory, definitions: readonly Definition[]): Change[] {
  const changes = new Map<Node, Change>()
  for (const definition of definitions) {
    const name = definition['node-name']
    if (name === undefined) throw new CommandError('node-name not specified')
    const node = directory.find(name)
    if (node === undefined) throw new CommandError(`Failed to find node with node-name='${name}'`)
    plan(directory, node, definition, changes, true)
  }
  return [...changes.values()]
}

/** @returns the definition with the names of all nodes in it */
function plan(
  directory: Directory,
  node: Node,
  definition: Definition,
  changes: Map<Node, Change>,
  outermost: boolean,
): NodeSpec {
  // Members of a group share a worker, so another group could mean another worker.
  if (definition['throttle-group'] !== node.spec['throttle-group'])
    throw new CommandError("Cannot change the option 'throttle-group'")
  if (definition.backing === undefined && node.children.has('backing'))
    throw new CommandError(`backing is missing for '${node.name}'`)
  if (definition.backing === null && node.children.has('backing'))
    throw new CommandError("Cannot change the option 'backing'")
  const names: Record<string, string> = dataFileOf(directory, node)
  const nested: Record<string, NodeSpec> = {}
  for (const [role, child] of childrenOf(definition)) {
    const current = directory.child(node, role)
    const name = typeof child === 'string' ? child : (child['node-name'] ?? current?.name)
    if (current === undefined || name !== current.name)
      throw new CommandError(`Cannot change the option '${role}'`)
    names[role] = current.name
    if (typeof child !== 'string') nested[role] = plan(directory, current, child, changes, false)
  }
  const spec = { ...definition, 'node-name': node.name, ...names }
  const request = directory.complete(node, { ...spec, ...nested })
  changes.set(node, { node, spec, request: outermost ? request : undefined })
  return request
}

/** The data file that the image names stays as it is when a definition is silent about it. */
function dataFileOf(directory: Directory, node: Node): Record<string, string> {
  const data = directory.child(node, 'data-file')
  return data?.spec.implied === true ? { 'data-file': data.name } : {}
}

/** One request for each worker; those that were done are taken back when a later one fails. */
async function apply(directory: Directory, changes: readonly Change[], log: Logger): Promise<void> {
  const workers = new Set(changes.map(({ node }) => node.worker))
  const done: (readonly [DiskWorker, readonly Change[]])[] = []
  const before = ({ node }: Change) => directory.complete(node, node.spec)
  try {
    for (const worker of workers) {
      const mine = changes.filter(({ node }) => node.worker === worker)
      if (worker === undefined) continue
      await worker.request('node-reopen', { specs: mine.flatMap(({ request }) => request ?? []) })
      done.push([worker, mine])
    }
  } catch (error) {
    for (const [worker, mine] of done)
      await worker.request('node-reopen', { specs: mine.map(before) }).catch((late) => {
        log.warn({ nodes: mine.map(({ node }) => node.name), err: late }, 'reopen could not be taken back')
      })
    throw error
  }
}

/** Remembers the options for when the node is opened elsewhere, with those its inline children took over. */
function keep(directory: Directory, { node, spec }: Change): void {
  node.spec = spec
  for (const child of directory.own(node).slice(1))
    if (directory.report(child)?.readOnly === true) child.spec = { ...child.spec, 'read-only': true }
}
