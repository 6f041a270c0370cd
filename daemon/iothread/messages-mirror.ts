// SPDX-License-Identifier: Apache-2.0
// What a worker is told of a mirror. Part of what crosses the line between the main thread and a disk's worker.

import type { OnDiverge } from '../common/convergence.js'
import type { CopyMode, OnError } from '../common/job-messages.js'
import type { BitmapMode } from './messages-bitmaps.js'

export interface MirrorSpec {
  readonly kind: 'mirror'
  readonly source: string
  readonly target: string
  readonly sync: 'full' | 'top' | 'none' | 'bitmap'
  /** Of the source, for 'bitmap': what it has marked is copied at first. */
  readonly bitmap?: { readonly name: string; readonly mode: BitmapMode }
  /** Name of the filter node put above the source while the job runs. */
  readonly filter: string
  /** Bytes per dirty bit, power of two; 0 = default. */
  readonly granularity: number
  /** Bytes in flight at most; 0 = 16 MiB. */
  readonly bufSize: number
  /** Bytes per second, 0 = no limit. */
  readonly speed: number
  readonly onSourceError: OnError
  readonly onTargetError: OnError
  readonly copyMode: CopyMode
  readonly onDiverge: OnDiverge
  /** Leaves the disk to its guests. */
  readonly yielding: boolean
  /** Shortest run of zeroes among data that is not stored, bytes; 0 = default. */
  readonly sparse?: number
  /** Ranges that read as zero may become holes on the target. */
  readonly unmap: boolean
  /** The user vouches that the target reads as zero everywhere. */
  readonly targetIsZero: boolean
  /** Finish by itself when ready (one-shot copies). */
  readonly autoComplete: boolean
  /** The target node was made for this job: it is closed when the job is over, unless somebody uses it then. */
  readonly ownsTarget: boolean
  /** The target holds only what was written since: what it takes the place of becomes its backing file. */
  readonly underlay?: boolean
  /** The target is no copy of the whole: it takes nobody's place. */
  readonly partial?: boolean
  /** Whose place the target takes; default: the source's. */
  readonly replaces?: string | undefined
  /** The target is below the source, and what images between them hold is copied: the commit of an active image. */
  readonly commit?: boolean
}
