// SPDX-License-Identifier: Apache-2.0
// What an image format writes instead of a driver: it says where guest bytes lie, and keeps its own tables. Called only
// by MappedDriver (mapped.ts), which does the I/O. Offsets named `host` are those of the file below.
//
//   allocate() ─ data written to the new place ─ link() shows it        a reader sees old or new
//        └────────── failed ────────────────── abandon()                the place is free again; also when link() fails

import type { FormatFacts } from '../messages.js'
import type { BitmapStore } from './bitmaps/bitmap-store.js'
import type { BackingFile } from './driver.js'
import type { BlockNode } from './node.js'
import type { Preallocate } from './preallocate.js'

/** Guest range with one answer to where it lies. */
export type Mapping =
  /** `writable`: in this place, nobody else's, and shown. */
  | {
      readonly kind: 'data'
      readonly offset: number
      readonly length: number
      readonly file: BlockNode
      readonly host: number
      readonly writable: boolean
    }
  /** `host`: the place it has although it is not read; undefined without one. */
  | {
      readonly kind: 'zero'
      readonly offset: number
      readonly length: number
      readonly host: number | undefined
    }
  /** Not stored here: the backing node shows through, or zeroes. */
  | { readonly kind: 'backing'; readonly offset: number; readonly length: number }
  /** Inside one cluster, `skip` bytes after its start. `size` bytes at `host` hold all of it, packed. */
  | {
      readonly kind: 'compressed'
      readonly offset: number
      readonly length: number
      readonly skip: number
      readonly file: BlockNode
      readonly host: number
      readonly size: number
    }

/**
 * A new place for a guest range. Exactly one of link() and abandon() is called, once. A link() that fails has abandoned
 * what it does not show.
 */
export interface Allocation {
  /** The range that is shown by link(): the range asked for, or its beginning, widened to whole units. */
  readonly offset: number
  readonly length: number
  readonly file: BlockNode
  readonly host: number
  /** The place reads as zero already. */
  readonly blank: boolean
  link(): Promise<void>
  abandon(): Promise<void>
}

/** The same for compressed clusters that follow each other for the guest. */
export interface PackedPlaces {
  readonly file: BlockNode
  /** Where each of them goes; undefined for those left out. */
  readonly hosts: readonly (number | undefined)[]
  /** What follows each up to a multiple of this is nobody's: it may be overwritten. Bytes. */
  readonly align: number
  link(): Promise<void>
  abandon(): Promise<void>
}

export type ClearRange = (offset: number, length: number) => Promise<void>

export interface MapDriver {
  readonly bitmapStore?: BitmapStore
  /** Bytes; the unit of changes. */
  readonly clusterSize: number
  readonly compression: 'zlib' | 'zstd'
  length(): number
  /**
   * The first mapping at `offset`, at most `length` > 0 bytes. Without a promise when what it needs is in memory.
   * @param use  for a write, an image found damaged is marked as that, and is not changed any more
   */
  map(offset: number, length: number, use?: 'read' | 'write'): Mapping | Promise<Mapping>
  /** The same, and those behind it as far as they come at no cost: at least one, ascending, contiguous. */
  maps(
    offset: number,
    length: number,
    use?: 'read' | 'write',
  ): readonly Mapping[] | Promise<readonly Mapping[]>
  /** Where data lies the file is asked for holes. Not where that is known to be of no use. */
  looksThrough(): boolean | Promise<boolean>
  /** Places that this request may still be using are not given to others until leave(). */
  enter(): Epoch
  leave(epoch: Epoch): void
  /** Awaited before every change; the first one prepares the image for changes. */
  beforeChange(): Promise<void> | undefined
  /** A place for the beginning of a range that is not writable where it is. */
  allocate(offset: number, length: number): Promise<Allocation>
  /**
   * Places for the clusters from `offset` on, of which each has so many bytes, 0 = it is left out.
   * @returns undefined where the format cannot
   */
  allocatePacked(offset: number, sizes: readonly number[]): Promise<PackedPlaces | undefined>
  /**
   * Makes the beginning of a range read as zero.
   * @param unmap   places may be given back
   * @param stored  see ZeroHow
   * @returns how many bytes from `offset` on; 0 where only writing zeroes helps, for a cluster at most
   */
  mapZero(offset: number, length: number, unmap: boolean, stored?: boolean): Promise<number>
  /** Gives back the places of whole clusters inside the range. */
  unmap(offset: number, length: number): Promise<void>
  /** Everything linked before is durable when this resolves. */
  flush(): Promise<void>
  /**
   * @param clear  makes a guest range read as zero, beyond the end of the disk too
   * @param how    of a longer disk: its new clusters get places
   */
  resize(length: number, clear: ClearRange, how?: Preallocate): Promise<void>
  settle(): Promise<void>
  freshen(): Promise<void>
  /** On reopening, without I/O: knows what the one before knew, which has settled. */
  takeOver(previous: MapDriver): void
  /** Nothing comes after it. */
  close(): void
  format(): FormatFacts
  /** See BlockDriver. */
  replaceChild(role: string, node: BlockNode | undefined): void
  empty(): Promise<void>
  nameBacking(backing: BackingFile | undefined): Promise<void>
}

/** Counts the requests that began in one span of time. */
export interface Epoch {
  requests: number
}
