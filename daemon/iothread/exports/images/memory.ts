// SPDX-License-Identifier: Apache-2.0
// Waiting for a piece of memory on behalf of one connection.

import type { Holder, Piece, PiecePool } from '../piece-pool.js'

/** @returns a piece of `length` bytes or less */
export async function takePiece(pool: PiecePool, holder: Holder, length: number): Promise<Piece> {
  for (;;) {
    const piece = pool.take(holder, length)
    if (piece !== undefined) return piece
    await new Promise<void>((resolve) => pool.whenGiven(holder, resolve))
  }
}
