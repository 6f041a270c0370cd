// SPDX-License-Identifier: Apache-2.0
// Extents of a node, as `blockferry map` asks for them. Used by the worker's root object. The node is claimed meanwhile,
// so an image that another program changes is refused.

import { type Extent, PERMISSIONS, type Permissions } from './block/driver.js'
import type { Graph } from './block/graph.js'
import { SECTOR } from './block/node.js'
import type { MapExtent } from './messages.js'

const LOOK_USER = 'an unnamed block device'
const LOOKING: Permissions = { use: ['consistent read'], share: PERMISSIONS }

/**
 * Ascending, neighbours that are alike merged.
 * @param offset  bytes, whole sectors as `length`; with a length of 0 only whether the node can be read now is found
 * @param limit   extents at most
 * @throws CommandError when somebody excludes readers; IoError
 */
export async function mapNode(
  graph: Graph,
  name: string,
  offset: number,
  length: number,
  limit: number,
): Promise<readonly MapExtent[]> {
  const node = graph.node(name)
  const claim = await graph.claim(LOOK_USER, node, LOOKING)
  try {
    // A node is shown in whole sectors: what follows the last byte of a file reads as zero.
    const end = Math.min(offset + length, Math.ceil(node.length() / SECTOR) * SECTOR)
    const extents: MapExtent[] = []
    for (let at = offset; at < end; ) {
      const extent = await node.status(at, end - at, { places: true })
      const last = extents.at(-1)
      const next = mapExtent(extent)
      if (last !== undefined && continues(last, next))
        extents[extents.length - 1] = { ...last, length: last.length + next.length }
      else if (extents.length === limit) break
      else extents.push(next)
      at += extent.length
    }
    return extents
  } finally {
    await claim.release()
  }
}

function mapExtent(extent: Extent): MapExtent {
  const { offset, length, kind, allocated, depth, host, compressed, absent, hole } = extent
  return {
    ...{ offset, length, allocated, zero: kind === 'zero', depth: depth ?? 0 },
    ...(host !== undefined && { host }),
    ...{ compressed: compressed ?? false, absent: absent ?? false, hole: hole ?? false },
  }
}

/** Alike in all but where it lies, and there too it follows. */
function continues(last: MapExtent, next: MapExtent): boolean {
  return (
    last.zero === next.zero &&
    last.allocated === next.allocated &&
    last.depth === next.depth &&
    last.compressed === next.compressed &&
    last.absent === next.absent &&
    last.hole === next.hole &&
    next.host === (last.host === undefined ? undefined : last.host + last.length)
  )
}
