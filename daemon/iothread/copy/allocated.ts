// SPDX-License-Identifier: Apache-2.0
// What of an image is to be copied, by what its layers hold. Used by the copy engine before it copies.
// What storage does not tell is copied.

import type { DirtyBitmap } from '../block/dirty-bitmap.js'
import type { BlockNode } from '../block/node.js'
import type { Pace } from './pace.js'
import { TaskPool } from './task-pool.js'

/** Longest range looked at before it is asked whether to stop, bytes. */
const AREA = 2 ** 30

export interface Marking {
  readonly source: BlockNode
  readonly target: BlockNode
  readonly bitmap: DirtyBitmap
  readonly layers: 'top' | 'all'
  /** The target reads as zero where nothing was written. */
  readonly vouched: boolean
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
  { source, target, layers, vouched }: Marking,
  offset: number,
  length: number,
  pace: Pace,
): Promise<{ skip: boolean; length: number }> {
  let operation: 'read' | 'write' = 'read'
  try {
    const extent = await source.status(offset, length)
    if (layers === 'top') return { skip: !extent.allocated, length: extent.length }
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
