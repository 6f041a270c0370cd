// SPDX-License-Identifier: Apache-2.0
// What crosses the line between the main thread and a disk's worker about transactions: changes that are all made at one
// moment, in this worker and others, or none of them. Part of messages.ts.

import type { JobSpec } from './messages.js'
import type { BitmapAction } from './messages-bitmaps.js'

export type TransactionStep =
  | { readonly kind: 'job'; readonly id: string; readonly spec: JobSpec }
  | { readonly kind: 'bitmap'; readonly action: BitmapAction }
  /** The overlay that was named for the node when it was brought to rest. */
  | { readonly kind: 'overlay'; readonly node: string }

/** An overlay that is going to be put on a node. */
export interface PlannedOverlay {
  readonly node: string
  readonly overlay: string
  /** Name of a filter that is there meanwhile. */
  readonly filter: string
}

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
    args: {
      readonly transaction: number
      /** Those that get overlays are not among them. */
      readonly nodes: readonly string[]
      readonly bitmaps: readonly HeldBitmap[]
      readonly overlays: readonly PlannedOverlay[]
    }
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
