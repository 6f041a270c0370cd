// SPDX-License-Identifier: Apache-2.0
// The bits of persistent bitmaps: a table names clusters of bits, or says of a cluster's worth that all are the same.
// Nothing is changed in place: what is stored anew lies in new clusters, and the old ones become free when the directory
// that named them is no more. Used by bitmaps.ts.

import { FormatError } from '../../../../../protocol/format-error.js'
import { parseBitmapTableEntry, type StoredBitmap } from '../../../../../protocol/qcow2/bitmaps.js'
import { viewOf } from '../../../../../protocol/qcow2/bytes.js'
import { formatL1Entry } from '../../../../../protocol/qcow2/entries.js'
import { DirtyBitmap } from '../../dirty-bitmap.js'
import { tableEntries } from './bitmap-directory.js'
import type { Image } from './image.js'
import type { TableClusters } from './overlap.js'
import type { Refcounts } from './refcounts.js'

export interface BitsParts {
  readonly image: Image
  readonly refcounts: Refcounts
  readonly tables: TableClusters
}

/** Host clusters that are in use from now on, unless what they were taken for fails. */
export type Taken = { offset: number; length: number }[]

/** @throws FormatError when an entry is none */
export async function readBits(image: Image, bitmap: StoredBitmap, size: number): Promise<DirtyBitmap> {
  const { clusterSize, env } = image
  const bits = new DirtyBitmap(size, 2 ** bitmap.granularityBits)
  const table = viewOf(await image.read(bitmap.tableOffset, bitmap.tableSize * 8))
  const span = clusterSize * 8 * bits.granularity
  for (let index = 0; index < bitmap.tableSize; index++) {
    const { offset, ones } = parseBitmapTableEntry(table, index * 8)
    if (ones) bits.set(index * span, Math.min(span, size - index * span))
    if (offset === 0) continue
    if (offset % clusterSize !== 0 || offset >= env.file.length())
      throw new FormatError('Invalid bitmap table entry')
    bits.unpack(index * clusterSize, await image.read(offset, clusterSize))
  }
  return bits
}

/**
 * Stores bits in new clusters.
 * @param taken  gets the clusters
 * @returns where the table is, and how many entries it has
 */
export async function writeBits(
  { image, refcounts }: BitsParts,
  bits: DirtyBitmap,
  taken: Taken,
): Promise<{ tableOffset: number; tableSize: number }> {
  const { clusterSize } = image
  const tableSize = tableEntries(Math.log2(bits.granularity), image)
  if (tableSize === 0) return { tableOffset: 0, tableSize }
  const table = viewOf(new Uint8Array(tableSize * 8))
  const span = clusterSize * 8 * bits.granularity
  for (let at = 0; ; ) {
    const dirty = bits.nextDirty(at, bits.granularity)
    if (dirty === undefined) break
    const index = Math.floor(dirty.offset / span)
    const page = new Uint8Array(clusterSize)
    bits.pack(index * clusterSize, page)
    const place = await refcounts.allocate(1)
    taken.push(place)
    await image.write(place.offset, page)
    formatL1Entry(table, index * 8, { offset: place.offset, copied: false })
    at = (index + 1) * span
  }
  const place = await refcounts.allocateWhole(Math.ceil((tableSize * 8) / clusterSize))
  taken.push(place)
  await image.write(place.offset, new Uint8Array(table.buffer))
  return { tableOffset: place.offset, tableSize }
}

/** Gives back what bits no bitmap has any more lie in. What does not look like theirs is left: a leak is better. */
export async function freeBits(parts: BitsParts, { tableOffset, tableSize }: StoredBitmap): Promise<void> {
  const { image, refcounts, tables } = parts
  const { clusterSize } = image
  if (tableSize === 0) return
  try {
    const table = viewOf(await image.read(tableOffset, tableSize * 8))
    for (let index = 0; index < tableSize; index++) {
      const { offset } = parseBitmapTableEntry(table, index * 8)
      const own = offset !== 0 && offset % clusterSize === 0 && offset < image.env.file.length()
      if (own && tables.find(offset, clusterSize) === undefined) await freeCluster(parts, offset)
    }
  } catch (error) {
    if (!(error instanceof FormatError)) throw error
  }
  const end = tableOffset + tableSize * 8
  tables.delete(tableOffset, tableSize * 8)
  for (let at = tableOffset; at < end; at += clusterSize)
    if ((await refcounts.count(at)) === 1) await refcounts.release(at, clusterSize, 'other')
}

async function freeCluster({ image, refcounts }: BitsParts, offset: number): Promise<void> {
  if ((await refcounts.count(offset)) === 1) await refcounts.release(offset, image.clusterSize, 'always')
}
