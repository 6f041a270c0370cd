// SPDX-License-Identifier: Apache-2.0
// What crosses the line between the main thread and a disk's worker about images that are served over HTTP. Part of
// messages.ts.

import type { TicketOp } from '../../protocol/http/json-body.js'
import type { ExportBitmap } from './messages-bitmaps.js'

/** A ticket on a node. Seconds are those of the process's monotonic clock. */
export interface ImageSpec {
  /** Of this image in this process: a ticket that is replaced has another one of the same name. */
  readonly key: number
  /** As requests name it. */
  readonly id: string
  readonly node: string
  /** Bytes that may be touched; undefined: as many as the node has at the time. */
  readonly size: number | undefined
  readonly ops: readonly TicketOp[]
  readonly sparse: boolean
  /** Seconds it may be unused; Infinity: it never expires. */
  readonly timeout: number
  /** When it expires unless it is used, seconds. */
  readonly expires: number
  /** Seconds a connection may make no progress. */
  readonly inactivityTimeout: number
  readonly filename: string | undefined
  /** The node was opened for its ticket: it may grow, and while nobody writes it is looked at anew. */
  readonly own: boolean
  /** What its server tells as dirty may be asked for. */
  readonly dirty?: boolean
  /** What is told as dirty. */
  readonly bitmap?: ExportBitmap
  /** What was done with the ticket when its image was open before. */
  readonly done?: CoveredBytes
  /** Address of the local service, where there is one. */
  readonly unixSocket: string | undefined
}

export interface ImageStatus {
  /** Requests are under way. */
  readonly active: boolean
  readonly canceled: boolean
  /** Connections that used it and are open. */
  readonly connections: number
  /** Seconds. */
  readonly expires: number
  /** Since the last request ended; 0 while one is under way. */
  readonly idleTime: number
  /** Bytes of all ranges that were read or written, each counted once. */
  readonly transferred: number
}

/** Ranges that were read or written. */
export interface CoveredBytes {
  /** `[offset, end, …]`, ascending, apart. */
  readonly ranges: Float64Array
  /** Bytes, each counted once as far as ranges are kept. */
  readonly total: number
}

/** Of a ticket whose image is open no more. Seconds. */
export interface ImageLeft {
  readonly expires: number
  /** When the last request ended. */
  readonly since: number
  readonly done: CoveredBytes
}

export interface ImageRequests {
  'image-add': { args: ImageSpec; reply: null }
  /**
   * A connection whose next request names this image. The report `image-left` follows.
   * @param fd    owned from now on, also when this fails
   * @param rest  what was read of it, the head of that request among it
   */
  'image-connect': { args: { key: number; connection: number; fd: number; rest: Uint8Array }; reply: null }
  'image-status': { args: { key: number }; reply: ImageStatus }
  /** It expires so many seconds from now. */
  'image-extend': { args: { key: number; timeout: number }; reply: null }
  /** Requests that name its ticket are not for it any more. */
  'image-retire': { args: { key: number }; reply: null }
  /**
   * No request is served any more. Replied when nothing is under way and the node is given back: then it is gone.
   * @param stop  what is under way is stopped; else it ends as it began
   */
  'image-end': { args: { key: number; stop: boolean }; reply: ImageLeft }
  /**
   * If its ticket has expired, and nothing is under way, no request is served any more, and it is gone when this is replied.
   * @returns null: it is used again, or was extended
   */
  'image-expire': { args: { key: number }; reply: ImageLeft | null }
}

export type ImageReport =
  /** Its ticket has expired and nothing is under way: `image-expire` is to follow. */
  | { readonly kind: 'image-expired'; readonly key: number }
  /**
   * A connection has gone.
   * @param why   unless it ended in order
   * @param back  it is there still: its next request names something else
   */
  | {
      readonly kind: 'image-left'
      readonly connection: number
      readonly why?: string
      readonly back?: { readonly fd: number; readonly rest: Uint8Array }
    }
  /** Another node took the place of the one that was served. */
  | { readonly kind: 'image-moved'; readonly key: number; readonly node: string }
