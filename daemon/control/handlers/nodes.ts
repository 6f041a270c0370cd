// SPDX-License-Identifier: Apache-2.0
// blockdev-add, blockdev-del, block_resize: checks in QEMU's order with its texts, then one call into Graphs.

import { CommandError } from '../../errors.js'
import type { Handlers } from '../commands.js'
import type { Directory, Node } from '../directory.js'
import type { Graphs } from '../graphs.js'

export function nodeHandlers(graphs: Graphs) {
  const { directory } = graphs
  return {
    'blockdev-add': async (definition) => {
      if (definition['node-name'] === undefined)
        throw new CommandError("'node-name' must be specified for the root node")
      await graphs.open(definition, { kind: 'user' })
    },

    'blockdev-del': async ({ 'node-name': name }) => {
      const node = directory.find(name)
      if (node === undefined) throw new CommandError(`Failed to find node with node-name='${name}'`)
      checkUnused(directory, node)
      graphs.checkUnchanging(node)
      await graphs.close(node)
    },

    block_resize: async ({ device, 'node-name': name, size }) => {
      const node = name === undefined ? undefined : directory.find(name)
      if (node === undefined)
        throw new CommandError(`Cannot find device='${device ?? ''}' nor node-name='${name ?? ''}'`)
      if (size < 0) throw new CommandError("Parameter 'size' expects a >0 size")
      if (userAbove(directory, node) !== undefined) throw new CommandError(busyText(directory, node))
      await graphs.change([node], async () => {
        await node.worker?.request('node-resize', { node: node.name, size })
      })
    },
  } satisfies Handlers
}

/** What is told of a node that a job uses, or uses what is above it. */
export function busyText(directory: Directory, node: Node): string {
  const job = userAbove(directory, node)?.use?.type ?? 'mirror'
  return `Node '${node.name}' is busy: block device is in use by block job: ${job}`
}

/** The node, or one above it, that a job uses. */
export function userAbove(directory: Directory, node: Node): Node | undefined {
  if (node.use !== undefined) return node
  for (const name of node.parents) {
    const parent = directory.find(name)
    const user = parent === undefined ? undefined : userAbove(directory, parent)
    if (user !== undefined) return user
  }
  return undefined
}

function checkUnused(directory: Directory, node: Node): void {
  const { name, use } = node
  for (const parent of node.parents)
    if (directory.find(parent)?.children.get('backing') === name)
      throw new CommandError(`Node '${name}' is busy: node is used as backing hd of '${parent}'`)
  if (use?.role === 'source') throw new CommandError(busyText(directory, node))
  if (use !== undefined || node.exports.size > 0) throw new CommandError(`Node ${name} is in use`)
  if (node.owner.kind !== 'user') throw new CommandError(`Node ${name} is not owned by the monitor`)
  if (node.parents.size > 0) throw new CommandError(`Block device ${name} is in use`)
}
