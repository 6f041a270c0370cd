// SPDX-License-Identifier: Apache-2.0
// Requests of pieces that lie apart, for drivers that take them one by one. Used by BlockNode.

import type { Range } from '../../../native/types.js'
import { TaskPool } from '../copy/task-pool.js'
import type { BlockDriver, Slice } from './driver.js'

/** Does a task for each piece, `atOnce` of them at once; in the slice they follow each other. Rejects with the first error. */
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

/** All of them are aligned and inside the exact length, so none needs the care that an end needs. */
export function areWhole(pieces: readonly Range[], driver: BlockDriver): boolean {
  const length = driver.length()
  const align = driver.limits.requestAlign
  return pieces.every(
    (piece) =>
      piece.offset >= 0 &&
      piece.offset + piece.length <= length &&
      piece.offset % align === 0 &&
      piece.length > 0 &&
      piece.length % align === 0,
  )
}
