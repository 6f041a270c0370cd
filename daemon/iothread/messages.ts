// SPDX-License-Identifier: Apache-2.0
// What crosses the line between the main thread and a disk's worker: requests with one reply each, and reports that
// the worker sends by itself. Names, numbers and states; never guest data. Both sides import this file, and it
// imports nothing that runs.
//
// Order: a worker's messages arrive in the order it sent them, so a report sent before a reply is seen before it.

import type { AioChoice } from '../../native/types.js'
import type { Agreed } from '../../protocol/nbd/agreed.js'
import type { BlockSizes } from '../../protocol/nbd/block-sizes.js'
import type { JobReport, JobRequests, LogReport } from '../common/job-messages.js'
import type { ThrottleLimits } from '../common/throttle-limits.js'
import type * as wire from '../common/worker-messages.js'
import type { BackupSpec } from './messages-backup.js'
import type { BitmapRequests, DirtyBitmapReport, ExportBitmap } from './messages-bitmaps.js'
import type { ChainRequests, ChainSpec, GraphReport } from './messages-chain.js'
import type { CreateSpec, FileCreateSpec, Preallocation, Qcow2CreateSpec } from './messages-create.js'
import type { ImageReport, ImageRequests } from './messages-images.js'
import type { MirrorSpec } from './messages-mirror.js'
import type { TransactionRequests } from './messages-transaction.js'

export type {
  CreateSpec,
  FileCreateSpec,
  Preallocation,
  Qcow2CreateSpec,
  Qcow2Options,
} from './messages-create.js'
export type { MirrorSpec } from './messages-mirror.js'

/**
 * Node options as the schema validated them, with `node-name` filled in at every level by the main thread.
 * `implied: true` marks a child that nobody defined: the image of its parent names it. `named` is the backing file that the
 * image named when its children were chosen or its node was open last, '' for none: it may not name another one since.
 */
export interface NodeSpec {
  readonly driver: string
  readonly 'node-name': string
  readonly [option: string]: unknown
}

/**
 * Where a node's file is opened when its name is a set of descriptors: names by what may be done with the file through
 * them, absent where the set has none such. In the specifications of such nodes as `files`.
 */
export interface NodeFiles {
  readonly read?: string
  readonly both?: string
}

/** The same before names are filled in. */
export interface NodeDefinition {
  readonly driver: string
  readonly 'node-name'?: string | undefined
  readonly [option: string]: unknown
}

/** Everything the main thread tells others of a node; sent whole whenever a part changed. */
export interface NodeReport {
  readonly name: string
  readonly driver: string
  /** Names by role: `{ file: 'f0' }`. */
  readonly children: Readonly<Record<string, string>>
  /** What `query-named-block-nodes` shows as file name. */
  readonly filename: string
  readonly readOnly: boolean
  /** Bytes, rounded up to 512 as managers know it. */
  readonly size: number
  /** Bytes of storage in use; undefined where the storage cannot tell. */
  readonly allocated?: number
  readonly cache: { readonly direct: boolean; readonly noFlush: boolean }
  readonly detectZeroes: 'off' | 'on' | 'unmap'
  /** Identity of the file behind a leaf, to see that two names are one file: `device:inode`. */
  readonly identity?: string
  readonly stats: NodeStats
  readonly format?: FormatFacts
  /** The backing file as it is found from here, where the image names one. */
  readonly fullBacking?: string
  readonly dirtyBitmaps: readonly DirtyBitmapReport[]
}

/** What a format driver tells of its image; for `info` and `query-named-block-nodes`. */
export interface FormatFacts {
  readonly kind: 'qcow2'
  readonly version: 2 | 3
  /** Bytes. */
  readonly clusterSize: number
  readonly refcountBits: number
  readonly lazyRefcounts: boolean
  readonly extendedL2: boolean
  readonly compression: 'zlib' | 'zstd'
  readonly dirty: boolean
  readonly corrupt: boolean
  /** As the image names it. */
  readonly dataFile?: string
  /** undefined: the data are in the image. */
  readonly dataFileRaw?: boolean
  readonly backingFile?: string
  readonly backingFormat?: string
  readonly snapshots: readonly SnapshotFacts[]
  readonly bitmaps: readonly BitmapFacts[]
}

export interface SnapshotFacts {
  readonly id: string
  readonly name: string
  /** Bytes. */
  readonly vmStateSize: number
  readonly seconds: number
  readonly nanoseconds: number
  /** Nanoseconds the guest had run. */
  readonly guestClock: number
  /** Instructions the guest had run. */
  readonly icount?: number
}

export interface BitmapFacts {
  readonly name: string
  readonly granularity: number
  readonly inUse: boolean
  readonly auto: boolean
}

export interface NodeStats {
  readonly reads: number
  readonly readBytes: number
  readonly writes: number
  readonly writeBytes: number
  readonly zeroes: number
  readonly zeroBytes: number
  readonly discards: number
  readonly discardBytes: number
  readonly flushes: number
  readonly failedReads: number
  readonly failedWrites: number
  readonly failedFlushes: number
  /** One past the highest byte written. */
  readonly writeHighest: number
}

/** Checks the image whose bytes a node holds. */
export interface CheckSpec {
  readonly kind: 'check'
  readonly node: string
  readonly repair: 'none' | 'leaks' | 'all'
}

/** What a check found, counted as `qemu-img check` counts. Corruptions and leaks are those that are left. */
export interface CheckResult {
  readonly checkErrors: number
  readonly corruptions: number
  readonly leaks: number
  readonly corruptionsFixed: number
  readonly leaksFixed: number
  readonly totalClusters: number
  readonly allocatedClusters: number
  readonly fragmentedClusters: number
  readonly compressedClusters: number
  /** Bytes. */
  readonly imageEndOffset: number
  /** What was found, in words; the first of them. */
  readonly lines: readonly string[]
  readonly linesLeftOut: number
}

/** Requests of one kind in a fixed pattern, as `qemu-img bench` makes them. Sizes and offsets in bytes. */
export interface BenchSpec {
  readonly kind: 'bench'
  readonly node: string
  readonly write: boolean
  /** Requests altogether. */
  readonly count: number
  /** Requests at once. */
  readonly depth: number
  readonly size: number
  readonly step: number
  /** Where the first request begins. */
  readonly offset: number
  /** Byte that is written. */
  readonly pattern: number
  /** Requests between two flushes; 0 = none. */
  readonly flushInterval: number
  /** Requests in flight end before each flush. */
  readonly drain: boolean
}

export interface CompareSpec {
  readonly kind: 'compare'
  readonly node: string
  readonly other: string
  /** Sizes and what is allocated must be alike too. */
  readonly strict: boolean
}

/** Another size for a node, with storage for what is new. */
export interface ResizeSpec {
  readonly kind: 'resize'
  readonly node: string
  /** Bytes. */
  readonly size: number
  readonly preallocation: Preallocation
}

/** A node to serve. */
export interface ExportSpec {
  readonly id: string
  readonly node: string
  readonly writable: boolean
  /** Every write is durable when it is answered. */
  readonly writethrough: boolean
  /** Offer the context `qemu:allocation-depth`. */
  readonly allocationDepth: boolean
  /** Each becomes a context `qemu:dirty-bitmap:NAME`. */
  readonly bitmaps?: readonly ExportBitmap[]
}

/** What clients are told of an export, beside its size. */
export interface ServedFacts {
  readonly blockSizes: BlockSizes
  /** Names of contexts; their places are their ids. */
  readonly contexts: readonly string[]
}

export type JobSpec =
  | MirrorSpec
  | BackupSpec
  | ChainSpec
  | CreateSpec
  | CheckSpec
  | BenchSpec
  | CompareSpec
  | ResizeSpec

/** Requests of the main thread: argument and reply by name. */
export interface Requests
  extends JobRequests,
    BitmapRequests,
    TransactionRequests,
    ImageRequests,
    ChainRequests {
  /** Opens no node: the definition with the backing and data files that its images name filled in. */
  'node-resolve': { args: { spec: NodeSpec }; reply: NodeDefinition }
  /** Opens the node and its inline children. On failure nothing stays open. */
  'node-add': { args: { spec: NodeSpec }; reply: null }
  /** Closes the node and its inline children (flushes first). */
  'node-del': { args: { node: string }; reply: null }
  /** All specs or none. */
  'node-reopen': { args: { specs: readonly NodeSpec[] }; reply: null }
  'node-resize': { args: { node: string; size: number }; reply: null }
  /**
   * Makes or empties the file a job is to write. Locks are asked before anything is changed, those of the source
   * too: a job that could not read must not have emptied its target. A file whose identity is in `refuse` is left
   * alone.
   * @param image  the image to make in the file then, in a node that is open only while it is made
   */
  'target-create': {
    args: {
      spec: FileCreateSpec
      image: Qcow2CreateSpec | undefined
      refuse: readonly string[]
      source: string
      job: 'mirror' | 'one-shot' | 'backup'
    }
    reply: null
  }
  /** Format of a file by its first bytes; 'raw' also where it cannot be read: who opens it then says why. */
  'target-probe': { args: { filename: string }; reply: 'raw' | 'qcow2' }
  /**
   * Replied when the job runs: after the report `running`, and after `ready` when there was nothing to copy.
   * An error reply means there never was a job.
   */
  'job-start': { args: { id: string; spec: JobSpec; share?: number }; reply: null }
  /** Extents of a node from `offset` on, at most `limit` of them; merged where neighbours are alike. */
  'node-map': {
    args: { node: string; offset: number; length: number; limit: number }
    reply: readonly MapExtent[]
  }
  'export-add': { args: ExportSpec; reply: ServedFacts }
  /** Ends its clients; replied when nothing of theirs is under way any more. */
  'export-del': { args: { id: string }; reply: null }
  /**
   * A client whose handshake is done. The report `export-left` follows when it has gone.
   * @param fd    the connection, owned from now on, also when this fails
   * @param rest  what came behind the handshake
   */
  'export-connect': {
    args: { id: string; connection: number; fd: number; agreed: Agreed; rest: Uint8Array }
    reply: null
  }
  'throttle-group-set': { args: { id: string; limits: ThrottleLimits | null }; reply: null }
  /**
   * A worker that nobody needs any more forgets what it was told and gives its buffers back. `clean`: nothing is open,
   * running or stuck and nothing ever failed in it, so it may serve another disk; it sends no report until asked again.
   * Otherwise nothing is changed.
   */
  rest: { args: null; reply: { clean: boolean } }
  /** A worker that is made ahead has the code of qcow2 before the first image: most disks are. */
  'load-formats': { args: null; reply: null }
  /** Cancels jobs, flushes and closes nodes, ends the engine. Stuck requests are abandoned after the deadline. */
  shutdown: { args: { deadlineMs: number }; reply: { left: number } }
}

/** A byte range with one status, as `map` shows it. */
export interface MapExtent {
  readonly offset: number
  readonly length: number
  readonly zero: boolean
  readonly allocated: boolean
  /** Layers of the backing chain above the one it was found in. */
  readonly depth: number
  /** Where it lies in that layer's storage, bytes, where it lies in one piece. */
  readonly host?: number
  readonly compressed: boolean
  /** Zero, at a place for data. */
  readonly hole: boolean
  /** In no layer: never written. */
  readonly absent: boolean
}

export type Report =
  | JobReport
  | LogReport
  | GraphReport
  | ImageReport
  /** Nodes that are new or changed, in the order they came to be. */
  | { readonly kind: 'nodes'; readonly nodes: readonly NodeReport[]; readonly gone: readonly string[] }
  /** A client of an export has gone. `why`: it was not asked for. */
  | {
      readonly kind: 'export-left'
      readonly id: string
      readonly connection: number
      readonly why?: string
    }
  /** The target of a mirror took the place of its source, also for an export. */
  | {
      readonly kind: 'export-moved'
      readonly id: string
      readonly node: string
      readonly facts: ServedFacts
    }
  /** An image contradicts its format. `fatal`: it was marked, and is not written any more. Offset and size in bytes. */
  | {
      readonly kind: 'image-corrupted'
      readonly node: string
      readonly text: string
      readonly offset: number
      readonly size: number
      readonly fatal: boolean
    }

export type RequestName = keyof Requests
export type ToWorker = wire.ToWorker<Requests>
export type FromWorker = wire.FromWorker<Report>

/** What a worker is started with (`workerData`). */
export interface WorkerSetup {
  readonly name: string
  readonly aio: AioChoice
}
