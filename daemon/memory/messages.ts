// SPDX-License-Identifier: Apache-2.0
// What crosses the line between the main thread and a memory worker: one image of VM memory on its way, as a job. Names,
// numbers and states; never guest data. Both sides import this file, and it imports nothing that runs.

import type { AioChoice } from '../../native/types.js'
import type { HostRequests, JobReport, LogReport } from '../common/job-messages.js'
import type * as wire from '../common/worker-messages.js'

/** Where a stream comes from or goes to. */
export type Endpoint =
  /** We listen, and the first connections that come are it. */
  | { readonly kind: 'listen'; readonly address: StreamAddress }
  | { readonly kind: 'connect'; readonly address: StreamAddress }
  /** A descriptor of this process; the worker duplicates it and reports `fd-taken`. */
  | { readonly kind: 'fd'; readonly fd: number }
  /** A FIFO or device, opened by its name. */
  | { readonly kind: 'path'; readonly path: string }

export type StreamAddress =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }

/** A file by name, or by a descriptor as above. */
export type FilePlace =
  | { readonly kind: 'path'; readonly path: string }
  | { readonly kind: 'fd'; readonly fd: number }

/** Whether a file is read past the page cache; unless-cached: only where most of it is not in there. */
export type DirectReading = boolean | 'unless-cached'

export type SourceSpec =
  | {
      readonly kind: 'stream'
      readonly from: Endpoint
      /** Connections beside the first; 0: one connection carries everything. */
      readonly channels: number
    }
  /** Stream, mapped-ram file or libvirt save image: told apart by what is in it. */
  | {
      readonly kind: 'file'
      readonly file: FilePlace
      /** Where the image begins, bytes. */
      readonly offset: number
      readonly direct: DirectReading
    }

/** Memory that the source did not send because it lies in a file (capability x-ignore-shared). */
export interface SharedRam {
  /** Name of the block in the stream. */
  readonly block: string
  readonly file: FilePlace
}

export interface Rename {
  readonly from: string
  readonly to: string
}

export type SinkSpec =
  | {
      readonly kind: 'file'
      readonly format: 'stream' | 'mapped-ram' | 'libvirt-raw' | 'libvirt-sparse'
      readonly file: FilePlace
      /** Where the image begins, bytes; what is in the file before it stays. */
      readonly offset: number
      readonly direct: boolean
      /** Writes of one MiB under way at most. */
      readonly channels: number
      readonly flush: FlushMode
      /** libvirt images: the domain's XML, and whether it ran; undefined: as in the libvirt image that is the source. */
      readonly domain: { readonly xml: string; readonly running: boolean } | undefined
      /** A file of checksums beside it. */
      readonly digests: boolean
    }
  | {
      readonly kind: 'stream'
      readonly to: Endpoint
      /** Connections beside the first; 0: one connection carries everything. */
      readonly channels: number
      /** Zero pages are sent too, for memory that was used before. */
      readonly zeroPages: boolean
    }
  /** Nothing is kept. */
  | { readonly kind: 'null' }

/** 'later': nothing is read until a message says where it goes. */
export type LaterSink = { readonly kind: 'later' }

/** full: file and folder; data: the file; none: nothing waits for the disk. */
export type FlushMode = 'full' | 'data' | 'none'

export interface TransferSpec {
  readonly kind: 'memory'
  readonly source: SourceSpec
  readonly sink: SinkSpec | LaterSink
  /** Bytes per second, 0 = no limit. */
  readonly bandwidth: number
  readonly shared: readonly SharedRam[]
  readonly renames: readonly Rename[]
}

/** Looks at files; nothing is written. */
export interface InspectSpec {
  readonly kind: 'inspect'
  readonly what: 'info' | 'verify' | 'diff' | 'map'
  readonly image: InspectedFile
  /** Of diff; map tells the changes against it. */
  readonly other: InspectedFile | undefined
  /** verify and info: path of the checksums; undefined: there are none. */
  readonly digests: string | undefined
  /** map: cells at most. */
  readonly cells: number
}

export interface InspectedFile {
  readonly file: FilePlace
  /** Where the image begins, bytes. */
  readonly offset: number
  /** Reads past the page cache. */
  readonly direct: boolean
}

export type TransferPhase = 'setup' | 'pages' | 'tail' | 'flush'

/** How many times were longer than the class before and up to this. */
export interface TimeClass {
  /** Milliseconds; undefined: longer than all others. */
  readonly upTo: number | undefined
  readonly count: number
}

/** How far it is, in the words of query-migrate. Bytes and pages. */
export interface TransferStats {
  /** Where we listen, with the port it became. */
  readonly listening: StreamAddress | undefined
  /** What the image is made of; undefined until the head was read. */
  readonly head:
    | { readonly machine: string; readonly total: number; readonly pageSize: number; readonly blocks: number }
    | undefined
  /** Bytes received or read. */
  readonly transferred: number
  /** Pages with data, also those sent again. */
  readonly normal: number
  /** Zero pages. */
  readonly duplicate: number
  /** Bytes of memory not seen yet in the present walk. */
  readonly remaining: number
  /** Walks over memory so far. */
  readonly passes: number
  /** Milliseconds until the head was read, and then until the end of the pages, of the tail, and of the flush. */
  readonly phases: Readonly<Record<TransferPhase, number>>
  /** A flush that runs now: its age, milliseconds. */
  readonly flushing: number | undefined
  /** How often the source had to wait for us, by milliseconds: each class has what is longer than the one before. */
  readonly waits: readonly TimeClass[]
  readonly longestWait: number
  /** Of the source: from the beginning of one part of its memory to that of the next. */
  readonly iterations: readonly TimeClass[]
  readonly longestIteration: number
}

export interface Requests extends HostRequests<TransferSpec | InspectSpec> {
  /** Once, to a transfer whose sink comes later. An error reply means it still waits for one. */
  'set-sink': { args: { sink: SinkSpec }; reply: null }
  /** Cancels the transfer, closes everything, ends the engine. */
  shutdown: { args: { deadlineMs: number }; reply: { left: number } }
}

export type Report =
  | JobReport
  | LogReport
  /** Sent when something changed, at most ten times a second. */
  | { readonly kind: 'memory-stats'; readonly id: string; readonly stats: TransferStats }
  /** The worker has a duplicate of the descriptor. */
  | { readonly kind: 'fd-taken'; readonly fd: number }

export type ToWorker = wire.ToWorker<Requests>
export type FromWorker = wire.FromWorker<Report>

/** What a worker is started with (`workerData`). */
export interface WorkerSetup {
  readonly name: string
  readonly aio: AioChoice
}
