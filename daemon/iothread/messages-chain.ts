// SPDX-License-Identifier: Apache-2.0
// Messages about backing chains: the jobs that shorten them, and what a worker reports of a graph that it changed. Part of
// what crosses the line between the main thread and a disk's worker.

import type { OnError } from '../common/job-messages.js'

/** How an image is to name its backing file. */
export interface BackingSpec {
  readonly name: string
  readonly format: string | undefined
}

/** The filter node of a job, which managers look for. */
export interface FilterSpec {
  readonly name: string
  /** The node below it. */
  readonly below: string
}

/** Copies what images above the base hold into the base; then the overlay lies above the base. */
export interface CommitSpec {
  readonly kind: 'commit'
  /** The image above `top`. */
  readonly overlay: string
  readonly top: string
  readonly base: string
  readonly filter: FilterSpec
  /** How the overlay names the base then. */
  readonly backing: BackingSpec
  /** Bytes per second, 0 = no limit. */
  readonly speed: number
  readonly onError: OnError
  /** Leaves the disk to its guests. */
  readonly yielding: boolean
}

/** Copies what shows through an image into it; then it lies above the base, or above nothing. */
export interface StreamSpec {
  readonly kind: 'stream'
  readonly node: string
  /** Undefined: everything is copied. */
  readonly base: string | undefined
  readonly filter: FilterSpec
  readonly backing: BackingSpec | undefined
  /** Bytes per second, 0 = no limit. */
  readonly speed: number
  readonly onError: OnError
  /** Leaves the disk to its guests. */
  readonly yielding: boolean
}

export type ChainSpec = CommitSpec | StreamSpec

/** An edge as it is now. */
export interface EdgeChange {
  readonly node: string
  readonly role: string
  /** null: none. */
  readonly child: string | null
  /** The child is closed with the node. */
  readonly owned: boolean
}

/** A job changed the graph. Told before nodes that are closed for it are reported as gone. */
export interface GraphReport {
  readonly kind: 'graph'
  readonly edges: readonly EdgeChange[]
  /** Nodes that were closed with another one before, and go on without it. */
  readonly kept: readonly string[]
  /** The same, but they are closed with the last node above them. */
  readonly shared: readonly string[]
  /** Nodes that were only read before, and are written from now on. */
  readonly writable: readonly string[]
}

export interface ChainRequests {
  /** An overlay that lies above nothing gets a node as its backing file, and everybody who uses the node. */
  'node-append': { args: { node: string; overlay: string; filter: string }; reply: null }
  /** Drops what an image stores, so that its backing file shows. */
  'node-empty': { args: { node: string }; reply: null }
  /** An image names another backing file, or none. */
  'node-rename-backing': { args: { node: string; backing: BackingSpec | undefined }; reply: null }
}
