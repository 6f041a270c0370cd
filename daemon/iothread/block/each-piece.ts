// SPDX-License-Identifier: Apache-2.0
// Pieces that lie apart in a node and follow each other in a slice, one task for each. Used by BlockNode where a driver cannot do
// them in one request.

import type { Range } from '../../../native/types.js'
import { TaskPool } from '../copy/task-pool.js'
import type { Slice } from './driver.js'

/** @param atOnce  tasks under way at most; after one has failed none is begun */
export async function eachPiece(
  pieces: readonly Range[],
  slice: Slice,
  atOnce: number,
  task: (offset: number, slice: Slice) => Promise<unknown>,
): Promise<void> {
  const pool = new TaskPool(atOnce)
  try {
    let done = 0
    for (const { offset, length } of pieces) {
      const piece = { slot: slice.slot, offset: slice.offset + done, length }
      await pool.start(async () => void (await task(offset, piece)))
      done += length
    }
  } finally {
    await pool.settle()
  }
  await pool.idle()
}
