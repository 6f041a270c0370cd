// SPDX-License-Identifier: Apache-2.0
// What blockdev-mirror and drive-mirror refuse, in QEMU's order with its texts, before anything is changed. A refused
// start emits no event.

import type { Arguments } from '../../../protocol/schema/index.js'
import { isFilter } from '../../common/filter-drivers.js'
import { CommandError } from '../../errors.js'
import type { Directory, Node } from '../directory.js'
import type { Graphs } from '../graphs.js'

const MIN_GRANULARITY = 512
const MAX_GRANULARITY = 64 * 2 ** 20

export type MirrorArguments = Arguments<'blockdev-mirror'> | Arguments<'drive-mirror'>

/** @throws CommandError unless the name is that of a node that nothing is above and no job uses */
export function findSource(directory: Directory, name: string): Node {
  const node = findNode(directory, name)
  if (node.use !== undefined || node.parents.size > 0) throw new CommandError('Need a root block node')
  return node
}

export function findNode(directory: Directory, name: string): Node {
  const node = directory.find(name)
  if (node === undefined) throw new CommandError(`Cannot find device='${name}' nor node-name='${name}'`)
  return node
}

export function checkGranularity(granularity = 0): void {
  if (granularity === 0) return
  if (granularity < MIN_GRANULARITY || granularity > MAX_GRANULARITY)
    throw new CommandError("Parameter 'granularity' expects a value in range [512B, 64MB]")
  if (!Number.isInteger(Math.log2(granularity)))
    throw new CommandError("Parameter 'granularity' expects a power of 2")
}

/** The checks after those of the target and before those of names. */
export function checkValues(directory: Directory, args: MirrorArguments, source: Node): void {
  const { replaces, sync } = args
  if (replaces !== undefined) {
    if (directory.find(replaces) === undefined)
      throw new CommandError(`Failed to find node with node-name='${replaces}'`)
    if (!throughFilters(directory, source).some(({ name }) => name === replaces))
      throw new CommandError(
        `Cannot replace '${replaces}' by a node mirrored from '${source.name}', because it cannot be guaranteed ` +
          'that doing so would not lead to an abrupt change of visible data',
      )
  }
  const bitmap = args.bitmap
  const fromBitmap = sync === 'incremental' || sync === 'bitmap'
  if (fromBitmap && bitmap === undefined) throw new CommandError(`Sync mode '${sync}' not supported`)
  if (!fromBitmap && bitmap !== undefined)
    throw new CommandError("Parameter 'bitmap' needs 'sync' to be bitmap or incremental")
  checkBitmapMode(args)
  if ((args['buf-size'] ?? 0) < 0) throw new CommandError("Invalid parameter 'buf-size'")
  if ((args['x-sparse'] ?? 0) < 0) throw new CommandError("Invalid parameter 'x-sparse'")
}

/** A node and those below it that show the same: what filters separate from it. */
function throughFilters(directory: Directory, node: Node): Node[] {
  const below = isFilter(node.spec.driver)
    ? (directory.child(node, 'file') ?? directory.child(node, 'image'))
    : undefined
  return below === undefined ? [node] : [node, ...throughFilters(directory, below)]
}

function checkBitmapMode({ sync, bitmap, 'bitmap-mode': mode }: MirrorArguments): void {
  if (sync === 'incremental' && mode !== undefined && mode !== 'on-success')
    throw new CommandError("Bitmap sync mode must be 'on-success' when using sync mode 'incremental'")
  if (sync === 'bitmap' && mode === undefined)
    throw new CommandError('Bitmap sync mode must be given when providing a bitmap')
  if (bitmap === undefined && mode !== undefined)
    throw new CommandError('Cannot specify bitmap sync mode without a bitmap')
}

export function checkSpeed(speed = 0): void {
  if (speed < 0) throw new CommandError("Parameter 'speed' expects a non-negative value")
}

/** Source and target must be different storage, but for backing files, which both only read. Names may hide that they are not. */
export function checkApart(graphs: Graphs, source: Node, target: Node): void {
  const { directory } = graphs
  const read = directory.tree(source)
  const written = directory.layer(target)
  const shared = written.find((node) => read.includes(node))
  if (shared !== undefined)
    throw new CommandError(
      `Permission conflict on node '${shared.name}': it is part of both the source '${source.name}' and the ` +
        `target '${target.name}'`,
    )
  const files = graphs.identities(read)
  if ([...graphs.identities(written)].some((identity) => files.has(identity)))
    throw new CommandError('Failed to get shared "consistent read" lock')
}
