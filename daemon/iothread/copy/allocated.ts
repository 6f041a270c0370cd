// SPDX-License-Identifier: Apache-2.0
// What of an image is to be copied, by what its layers hold. Used by the copy engine before it copies.
// What storage does not tell is copied.

import type { DirtyBitmap } from '../block/dirty-bitmap.js'
import type { Extent } from '../block/driver.js'
import type { BlockNode } from '../block/node.js'
import type { Pace } from './pace.js'
import { TaskPool } from './task-pool.js'

/** Longest range looked at before it is asked whether to stop, bytes. */
const AREA = 2 ** 30

/**
 * Which layers of an image are to be copied.
 * top: the uppermost alone, as the target lies above the same layers below; all: the whole chain, and what no layer holds
 * where the target is not proved to read as zero; above: so many from the uppermost on; below: the same without the
 * uppermost, which is the target.
 */
export type Layers = 'top' | 'all' | { readonly above: number } | { readonly below: number }

export interface Marking {
  readonly source: BlockNode
  readonly target: BlockNode
  readonly bitmap: DirtyBitmap
  readonly layers: Layers
  /** The target reads as zero where nothing was written. */
  readonly vouched: boolean
  /** See CopyHow. */
  readonly below?: 'kept' | 'cut' | undefined
}

/** Marks what somebody stored; see CopyEngine.dirtyAllocated(). @returns bytes that were clean before */
export async function markAllocated(marking: Marking, pace: Pace): Promise<number> {
  const { bitmap } = marking
  let marked = 0
  await eachArea(bitmap.length, pace, async (at, left) => {
    const { skip, length } = await needless(marking, at, left, pace)
    const before = bitmap.bytes
    if (!skip) bitmap.set(at, length)
    marked += bitmap.bytes - before
    return length
  })
  return marked
}

/**
 * Clears the bits of whole chunks that the uppermost layer does not hold, of a source that does not change where they are set.
 * @param dropped  told of bytes that were dirty before
 */
export async function unmarkUnallocated(
  { source, bitmap }: Pick<Marking, 'source' | 'bitmap'>,
  pace: Pace,
  dropped: (bytes: number) => void,
): Promise<void> {
  const { granularity, length: all } = bitmap
  await eachArea(all, pace, async (at, left) => {
    try {
      const { allocated, length } = await source.status(at, left)
      const start = Math.ceil(at / granularity) * granularity
      const end = at + length >= all ? all : Math.floor((at + length) / granularity) * granularity
      if (!allocated && end > start) {
        const before = bitmap.bytes
        bitmap.clear(start, end - start)
        dropped(before - bitmap.bytes)
      }
      return length
    } catch (error) {
      if (pace.judge('read', error) === 'report') throw error
      return left
    }
  })
}

/** @param look  at the beginning of what is left; tells how far it came */
async function eachArea(
  length: number,
  pace: Pace,
  look: (offset: number, left: number) => Promise<number>,
): Promise<void> {
  const pool = new TaskPool(1)
  for (let at = 0; at < length; ) {
    await pace.checkpoint(pool)
    await new Promise((resolve) => setImmediate(resolve))
    for (const end = Math.min(at + AREA, length); at < end; ) at += await look(at, end - at)
  }
}

/** Whether the beginning of a range need not be copied. */
async function needless(
  { source, target, layers, vouched, below }: Marking,
  offset: number,
  length: number,
  pace: Pace,
): Promise<{ skip: boolean; length: number }> {
  let operation: 'read' | 'write' = 'read'
  try {
    const extent = await source.status(offset, length)
    if (layers !== 'all') return { skip: isApart(extent, layers, below), length: extent.length }
    if (extent.absent !== true) return { skip: false, length: extent.length }
    if (vouched) return { skip: true, length: extent.length }
    operation = 'write'
    const there = await target.status(offset, extent.length)
    return { skip: there.kind === 'zero', length: there.length }
  } catch (error) {
    if (pace.judge(operation, error) === 'report') throw error
    return { skip: false, length }
  }
}

/** A range of the source is none of those to be copied. */
function isApart(
  { allocated, depth = 0, kind }: Extent,
  layers: Exclude<Layers, 'all'>,
  below: Marking['below'],
): boolean {
  if (layers === 'top') return !allocated
  // Beyond the end of a shorter layer the source reads as zero, whatever is deeper: that is this layer's.
  if ('above' in layers) return depth >= layers.above
  return allocated || depth >= layers.below || (below === 'cut' && kind === 'zero')
}
