// SPDX-License-Identifier: Apache-2.0
// What a worker is told of files and images that it is to make. Part of messages.ts.

import type { NodeFiles, NodeSpec } from './messages.js'

export type Preallocation = 'off' | 'metadata' | 'falloc' | 'full'

/** Makes or empties a file. */
export interface FileCreateSpec {
  readonly kind: 'create'
  readonly driver: 'file'
  readonly filename: string
  /** Bytes. */
  readonly size: number
  readonly preallocation: Preallocation
  /** What is written is not copied on write, where the file system would. */
  readonly noCow?: boolean
  /** Where it is when its name is a set of descriptors. */
  readonly files?: NodeFiles | undefined
  /** Identities (`device:inode`) of files that are in use and not to be emptied. */
  readonly refuse?: readonly string[]
}

/** Makes a qcow2 image in a node. */
export interface Qcow2CreateSpec {
  readonly kind: 'create'
  readonly driver: 'qcow2'
  /** Name of an open node, or a node that is open only while the job runs. */
  readonly file: string | NodeSpec
  /** External data file; undefined: none. */
  readonly dataFile: string | NodeSpec | undefined
  readonly options: Qcow2Options
  /** Identities of files that are in use: none of them is opened for the job. */
  readonly refuse?: readonly string[]
}

/** As asked, with defaults; checked where the image is made. */
export interface Qcow2Options {
  /** Bytes of the virtual disk. */
  readonly size: number
  readonly version: 2 | 3
  /** Bytes. */
  readonly clusterSize: number
  readonly refcountBits: number
  readonly extendedL2: boolean
  readonly lazyRefcounts: boolean
  readonly compression: 'zlib' | 'zstd'
  readonly preallocation: Preallocation
  /** As the image is to name it. */
  readonly backingFile: string | undefined
  readonly backingFormat: string | undefined
  /** How the image is to name its external data file; undefined where that has no name. */
  readonly dataFileName: string | undefined
  readonly dataFileRaw: boolean
  /** What the data file holds is dropped first. */
  readonly dataFileCleared?: boolean
  /** As of a file. */
  readonly noCow?: boolean
}

export type CreateSpec = FileCreateSpec | Qcow2CreateSpec

/**
 * Options of an image of which nothing is said: those of qemu-img.
 * @param size  bytes
 */
export function usualImage(size: number): Qcow2Options {
  return {
    size,
    version: 3,
    clusterSize: 65536,
    refcountBits: 16,
    extendedL2: false,
    lazyRefcounts: false,
    compression: 'zlib',
    preallocation: 'off',
    backingFile: undefined,
    backingFormat: undefined,
    dataFileName: undefined,
    dataFileRaw: false,
  }
}
