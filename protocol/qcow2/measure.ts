// SPDX-License-Identifier: Apache-2.0
// How large a qcow2 image will be. Pure. Used by `blockferry measure`. The figures are those of qemu-img measure: the tables are
// counted as those of an image that holds all of its disk, wherever its data are to lie, so what is made is never larger.

import { bitmapEntryLength } from './bitmaps.js'
import { MAX_L1 } from './header.js'
import { dataClusters, type Geometry, imageClusters, l1Entries } from './image-clusters.js'

/** Bytes of the file. */
export interface Measured {
  readonly required: number
  /** When all of the disk has been written. */
  readonly fullyAllocated: number
}

/** What of a dirty bitmap decides how much it takes. */
export interface MeasuredBitmap {
  readonly name: string
  /** Bytes of the disk per bit. */
  readonly granularity: number
}

/** Counts clusters that ranges touch. Ranges come in ascending order and do not overlap. */
export class TouchedClusters {
  readonly #clusterSize: number
  /** The first cluster that no range has touched yet and every later one may. */
  #next = 0
  #count = 0

  constructor(clusterSize: number) {
    this.#clusterSize = clusterSize
  }

  get count(): number {
    return this.#count
  }

  /** @param length  bytes, not 0 */
  add(offset: number, length: number): void {
    const first = Math.max(this.#next, Math.floor(offset / this.#clusterSize))
    this.#next = Math.ceil((offset + length) / this.#clusterSize)
    this.#count += this.#next - first
  }
}

/**
 * @param geometry  of the image, without problems
 * @param stored    clusters of data that it begins with; undefined: all
 * @returns undefined for a disk that is too large for such an image
 */
export function measureImage(geometry: Geometry, stored?: number): Measured | undefined {
  if (l1Entries(geometry) * 8 > MAX_L1) return undefined
  const { refcountTable, refcountBlocks, l1, l2 } = imageClusters(geometry, { l2: true, data: true })
  const tables = 1 + refcountTable + refcountBlocks + l1 + l2
  const all = dataClusters(geometry)
  return {
    required: (tables + (stored ?? all)) * geometry.clusterSize,
    fullyAllocated: (tables + all) * geometry.clusterSize,
  }
}

/**
 * Bytes that dirty bitmaps of a disk take in an image: each with a table and all of its bits, and a directory.
 * @param size  of the disk, bytes
 */
export function measureBitmaps(
  bitmaps: readonly MeasuredBitmap[],
  size: number,
  clusterSize: number,
): number {
  let clusters = 0
  let directory = 0
  for (const { name, granularity } of bitmaps) {
    const bits = Math.ceil(Math.ceil(size / granularity) / 8 / clusterSize)
    clusters += bits + Math.ceil((bits * 8) / clusterSize)
    directory += bitmapEntryLength(new TextEncoder().encode(name).length, 0)
  }
  return (clusters + Math.ceil(directory / clusterSize)) * clusterSize
}
