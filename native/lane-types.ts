// SPDX-License-Identifier: Apache-2.0
// What the addon promises about lanes: an NBD client that asks for one thing at a time is served by a task of the engine, straight
// from a file. Implemented by native/lanes.ts; lent by daemon/iothread/exports. The rules of types.ts hold here too, and:
//
// - A lane does plain reads and writes, one after the other, and only what succeeds. Anything else ends it, and what the client
//   has sent and got no answer to comes back as bytes.
// - While it waits for the client it is not stuck, and counts for no limit; it occupies one task.

import type { FileId } from './types.js'

export type LaneStyle = 'simple' | 'structured' | 'extended'

export interface LaneTerms {
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
  /** Of replies, and so of requests. */
  readonly style: LaneStyle
  readonly writable: boolean
  /** Offset and length of requests are multiples of this, bytes, and of what the file wants. A power of two. */
  readonly align: number
  /** A client that is silent for so long ends the lane. */
  readonly idleMs: number
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
}

export interface Lane {
  readonly ended: Promise<LaneEnd>
  counts(): LaneCounts
  /**
   * Ends it soon. From now on no request is begun, and no write is answered: one that is under way comes back to be done again, so
   * that who listens to changes from now on hears of it before the client.
   */
  callBack(): void
}
