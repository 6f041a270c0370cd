// SPDX-License-Identifier: Apache-2.0
// What crosses the line between the main thread and a disk's worker about backups. Part of messages.ts.

import type { OnError } from '../common/job-messages.js'
import type { BitmapMode } from './messages-bitmaps.js'

export interface BackupSpec {
  readonly kind: 'backup'
  readonly source: string
  readonly target: string
  /** none: only what is about to be replaced; bitmap: what is dirty in the bitmap. */
  readonly sync: 'full' | 'top' | 'none' | 'bitmap'
  /** Dirty bitmap of the source, and what becomes of it; undefined: none. */
  readonly bitmap: { readonly name: string; readonly mode: BitmapMode } | undefined
  /** Name of the filter node put above the source while the job runs. */
  readonly filter: string
  /** Bytes per second, 0 = no limit. */
  readonly speed: number
  readonly compress: boolean
  readonly onSourceError: OnError
  readonly onTargetError: OnError
  /** What is given up when old content cannot be copied before a write. */
  readonly onCbwError: 'break-guest-write' | 'break-snapshot'
  /** Longest time a write waits for that, milliseconds; 0 = without end. */
  readonly cbwTimeoutMs: number
  /** Leaves the disk to its guests. */
  readonly yielding: boolean
  /** What was copied is discarded in the source. */
  readonly discardSource: boolean
  /** Pieces under way at most. */
  readonly workers: number
  /** Longest piece, bytes; 0 = as it suits. */
  readonly maxChunk: number
  /** Least granularity, bytes, a power of two; 0 = as it suits. */
  readonly minClusterSize: number
  /** The target node was made for this job: it is closed when the job is over. */
  readonly ownsTarget: boolean
}
