// SPDX-License-Identifier: Apache-2.0
// What client and server agreed on in their handshake: all that the codecs of the transmission phase have to know.

import type { BlockSizes } from './block-sizes.js'
import { type NameIn, transmissionFlags } from './constants.js'

/**
 * Headers of the transmission phase. `simple`: requests of 28 bytes, simple replies. `structured`: the same requests,
 * replies in chunks; simple ones are possible but for READ. `extended`: 32 bytes each way, replies in chunks only.
 */
export type ReplyStyle = 'simple' | 'structured' | 'extended'

/** A context of block status that was chosen. */
export interface Context {
  readonly id: number
  readonly name: string
}

export interface Agreed {
  readonly exportName: string
  /** Bytes. */
  readonly size: number
  /** Transmission flags. */
  readonly flags: number
  readonly replies: ReplyStyle
  /** A server has 1 as minimum here when the client did not ask, and so did not promise to keep to it. */
  readonly blockSizes: BlockSizes
  /** Empty: no BLOCK_STATUS. */
  readonly contexts: readonly Context[]
}

export type TransmissionFlag = NameIn<typeof transmissionFlags>

/** Whether a flag is set in transmission flags. */
export function hasFlag(flags: number, name: TransmissionFlag): boolean {
  return (flags & transmissionFlags[name]) !== 0
}

/**
 * Transmission flags without those that mean nothing where other things were not agreed: a server must not set them then,
 * a client must not believe them.
 */
export function usableFlags(
  flags: number,
  { replies, contexts }: { readonly replies: ReplyStyle; readonly contexts: readonly unknown[] },
): number {
  const { SEND_DF, SEND_FAST_ZERO, BLOCK_STATUS_PAYLOAD } = transmissionFlags
  let without = 0
  if (replies === 'simple') without |= SEND_DF
  if (replies !== 'extended' || contexts.length === 0) without |= BLOCK_STATUS_PAYLOAD
  if (!hasFlag(flags, 'SEND_WRITE_ZEROES')) without |= SEND_FAST_ZERO
  return flags & ~without
}
