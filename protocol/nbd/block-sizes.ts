// SPDX-License-Identifier: Apache-2.0
// Block sizes of an export, as information BLOCK_SIZE tells them.
// Source: doc/proto.md, "Size constraints".

import { unexpected } from './bytes.js'
import { limits } from './constants.js'

/** Bytes each. */
export interface BlockSizes {
  /** Offsets and lengths are multiples of it; a power of two, at most 64 KiB. */
  readonly minimum: number
  /** What is aligned to it needs no read-modify-write; a power of two, at least 512 and the minimum. */
  readonly preferred: number
  /** Longest payload of a request or reply. */
  readonly maximumPayload: number
}

/** What holds where nothing is told. */
export const defaultBlockSizes: BlockSizes = {
  minimum: 1,
  preferred: 4096,
  maximumPayload: limits.payload,
}

const isPower = (value: number) => value > 0 && (value & (value - 1)) === 0

/** @throws PeerError unless they are such sizes; a preferred size below 512 is let pass */
export function checkBlockSizes(sizes: BlockSizes): BlockSizes {
  const { minimum, preferred, maximumPayload } = sizes
  if (!isPower(minimum) || minimum > limits.minimumBlock)
    throw unexpected('minimum block size', minimum, `a power of two up to ${limits.minimumBlock}`)
  if (!isPower(preferred) || preferred < minimum)
    throw unexpected('preferred block size', preferred, `a power of two from ${minimum} on`)
  if (maximumPayload < preferred)
    throw unexpected('maximum payload', maximumPayload, `at least the preferred block size, ${preferred}`)
  return sizes
}
