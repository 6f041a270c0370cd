// SPDX-License-Identifier: Apache-2.0
// What block status says in each context, from what a node tells of its extents. Neighbours that say the same are one.

import { allocationState } from '../../../../protocol/nbd/constants.js'
import type { StatusExtent } from '../../../../protocol/nbd/reply.js'
import type { Extent } from '../../block/driver.js'
import type { BlockNode } from '../../block/node.js'

/** The value of an extent in one context. */
export type StatusSource = (extent: Extent) => number

/** `base:allocation`. A hole is whatever reads as zeroes without being stored as data, as QEMU says it. */
export const allocation: StatusSource = ({ kind }) =>
  kind === 'zero' ? allocationState.HOLE | allocationState.ZERO : 0

/** `qemu:allocation-depth`: 0 where nobody has written, 1 for the node itself, 2 for its backing node, … */
export const allocationDepth: StatusSource = ({ absent, depth }) => (absent === true ? 0 : (depth ?? 0) + 1)

/**
 * @param most  extents at most
 * @returns from `offset` on, at least one, not beyond `length`
 */
export async function statusOf(
  source: StatusSource,
  node: BlockNode,
  offset: number,
  length: number,
  most: number,
): Promise<StatusExtent[]> {
  const extents: StatusExtent[] = []
  for (let at = 0; at < length; ) {
    const extent = await node.status(offset + at, length - at)
    const status = source(extent)
    const last = extents.at(-1)
    if (last !== undefined && last.status === status)
      extents[extents.length - 1] = { status, length: last.length + extent.length }
    else if (extents.length === most) break
    else extents.push({ status, length: extent.length })
    at += extent.length
  }
  return extents
}
