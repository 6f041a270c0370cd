// SPDX-License-Identifier: Apache-2.0
// Waiting for a piece of memory on behalf of one request, which may be stopped meanwhile.

import type { Holder, Piece, PiecePool } from '../piece-pool.js'
import type { Operation } from './ticket.js'

/** @returns a piece of `length` bytes or less. @throws Refusal when the request was stopped */
export async function takePiece(
  pool: PiecePool,
  holder: Holder,
  length: number,
  operation: Operation,
): Promise<Piece> {
  for (;;) {
    operation.check()
    const piece = pool.take(holder, length)
    if (piece !== undefined) return piece
    await untilGiven(pool, holder, operation)
  }
}

/** Until the holder may take a piece again, though somebody else may be faster, or the request is stopped. */
export function untilGiven(pool: PiecePool, holder: Holder, operation: Operation): Promise<void> {
  return new Promise((resolve) => {
    const off = operation.whenStopped(resolve)
    pool.whenGiven(holder, () => {
      off()
      resolve()
    })
  })
}
