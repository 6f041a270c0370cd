// SPDX-License-Identifier: Apache-2.0
// What block status says in each context, from what a node tells of its extents, or from a bitmap. Neighbours that say the same are one.

import { allocationState, dirtyState } from '../../../../protocol/nbd/constants.js'
import type { StatusExtent } from '../../../../protocol/nbd/reply.js'
import type { BitmapUse } from '../../block/bitmaps/bitmap-use.js'
import type { Extent } from '../../block/driver.js'
import type { BlockNode } from '../../block/node.js'

/** What one context says: the first extent at `offset`, not beyond `length`. */
export type StatusSource = (
  node: BlockNode,
  offset: number,
  length: number,
) => Promise<StatusExtent> | StatusExtent

/** `base:allocation`. A hole is whatever reads as zeroes without having a place as data, as QEMU says it. */
export const allocation = ofExtents(({ kind, hole }) => {
  if (kind !== 'zero') return 0
  return hole === true ? allocationState.ZERO : allocationState.HOLE | allocationState.ZERO
})

/** `qemu:allocation-depth`: 0 where nobody has written, 1 for the node itself, 2 for its backing node, … */
export const allocationDepth = ofExtents(({ absent, depth }) => (absent === true ? 0 : (depth ?? 0) + 1))

/** `qemu:dirty-bitmap:NAME`, as it is now. */
export function dirtyIn({ bitmap }: BitmapUse): StatusSource {
  return (_node, offset, length) => {
    const { dirty, end } = bitmap.bits.run(offset, offset + length)
    return { status: dirty ? dirtyState.DIRTY : 0, length: end - offset }
  }
}

function ofExtents(value: (extent: Extent) => number): StatusSource {
  return async (node, offset, length) => {
    const extent = await node.status(offset, length)
    return { status: value(extent), length: extent.length }
  }
}

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
    const extent = await source(node, offset + at, length - at)
    const last = extents.at(-1)
    if (last !== undefined && last.status === extent.status)
      extents[extents.length - 1] = { status: last.status, length: last.length + extent.length }
    else if (extents.length === most) break
    else extents.push(extent)
    at += extent.length
  }
  return extents
}
