// SPDX-License-Identifier: Apache-2.0
// How a range is cut into pieces of memory: only its first and last may be such that storage has to read a block around
// them, all others lie on boundaries of blocks, and long ones on those of whole slots.

/** What storage works in, bytes. */
const BLOCK = 4096

/** Length of the piece at `offset` when `left` bytes are to come, at most `longest` (a power of two). */
export function pieceLength(offset: number, left: number, longest: number): number {
  const inBlock = offset % BLOCK
  if (inBlock !== 0) return Math.min(left, BLOCK - inBlock)
  const length = Math.min(left, longest - (offset % longest))
  return length > BLOCK ? length - (length % BLOCK) : length
}
