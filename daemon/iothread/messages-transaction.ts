// SPDX-License-Identifier: Apache-2.0
// What crosses the line between the main thread and a disk's worker about transactions: changes that are all made at one
// moment, in this worker and others, or none of them. Part of messages.ts.

import type { JobSpec } from './messages.js'
import type { BitmapAction } from './messages-bitmaps.js'

export type TransactionStep =
  | { readonly kind: 'job'; readonly id: string; readonly spec: JobSpec }
  | { readonly kind: 'bitmap'; readonly action: BitmapAction }

/** A bitmap that is going to be changed. */
export interface HeldBitmap {
  readonly node: string
  readonly name: string
  /** Whether it is stored in its image; undefined: as it is now. */
  readonly stored?: boolean
}

/** In this order; the end may come at any time after the first. */
export interface TransactionRequests {
  /** Answers when nothing is under way on the nodes; requests wait from then on until the end. */
  'transaction-quiesce': {
    args: { transaction: number; nodes: readonly string[]; bitmaps: readonly HeldBitmap[] }
    reply: null
  }
  /** Does the steps, in order. On failure nothing of them stays. */
  'transaction-prepare': {
    args: { transaction: number; steps: readonly TransactionStep[] }
    reply: null
  }
  /** Keeps what was done, and starts the jobs; or undoes all of it. Requests go on. */
  'transaction-end': { args: { transaction: number; commit: boolean }; reply: null }
}
