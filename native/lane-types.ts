// SPDX-License-Identifier: Apache-2.0
// What the addon promises about lanes: a client of NBD or HTTP that asks for one thing at a time is served by a task of the engine, straight
// from a file. Implemented by native/lanes.ts; lent by daemon/iothread/exports. The rules of types.ts hold here too, and:
//
// - A lane does plain reads and writes, one after the other, and only what succeeds. Anything else ends it, and what the client
//   has sent and got no answer to comes back as bytes.
// - While it waits for the client it is not stuck, and counts for no limit; it occupies one task.

import type { FileId } from './types.js'

export type LaneStyle = 'simple' | 'structured' | 'extended'

interface CommonTerms {
  readonly file: FileId
  /** A connected socket. While it is lent nobody else receives from it or sends to it. */
  readonly stream: FileId
  /** Memory for the data of a request; longer ones end the lane. */
  readonly slot: number
  readonly slotOffset: number
  /** Bytes of it. */
  readonly room: number
  /** What may be asked for: the first so many bytes of the file. */
  readonly length: number
  /** A client that is silent for so long, or takes so long to send one request, ends the lane. */
  readonly idleMs: number
}

/** Requests that differ in nothing but the place: what is not so to the byte ends the lane. */
export interface HttpLaneTerms extends CommonTerms {
  readonly writes: boolean
  /** Bytes of each request. */
  readonly each: number
  /** Of the head of a request, around its first and its last byte. */
  readonly head: readonly [Uint8Array, Uint8Array, Uint8Array]
  /** The head of the reply: the first, or where there are more, all three with the same numbers between them. */
  readonly reply: readonly [Uint8Array, Uint8Array, Uint8Array]
  /** Where the first part of the reply has its date. */
  readonly dateAt: number
}

export interface LaneTerms extends CommonTerms {
  /** Of replies, and so of requests. */
  readonly style: LaneStyle
  readonly writable: boolean
  /** Offset and length of requests are multiples of this, bytes, and of what the file wants. A power of two. */
  readonly align: number
}

export interface LaneCounts {
  readonly reads: number
  readonly readBytes: number
  readonly writes: number
  readonly writeBytes: number
  /** Everything written lies in [from, to) of the file, what failed or was called back included. */
  readonly from: number
  readonly to: number
}

export interface LaneEnd {
  /** 0; -errno: there was no lane, nothing was done. */
  readonly result: number
  /** What the client has sent that has no answer. It may have been done, and can be done again. */
  readonly received: Uint8Array
  /** What of the last answer is still to be sent. */
  readonly unsent: Uint8Array
  /** Of HTTP: where each request began that was answered. */
  readonly places: Float64Array
}

export interface Lane {
  readonly ended: Promise<LaneEnd>
  counts(): LaneCounts
  /**
   * Ends it soon. From now on no request is begun, and no write is answered: one that is under way comes back to be done again, so
   * that who listens to changes from now on hears of it before the client.
   */
  callBack(): void
  /** Ends it soon: no request is begun, and one that is under way is answered. */
  endSoon(): void
}
