// SPDX-License-Identifier: Apache-2.0
// Before an image is changed: where its tables lie. Tables that overlap would destroy each other with the first change,
// so the image is marked as corrupt instead. Used by the qcow2 map; refcount structures are added by refcounts.ts.

import { FormatError } from '../../../../../protocol/format-error.js'
import { EFBIG } from '../../../../common/errno.js'
import { IoError } from '../../../../errors.js'
import type { StoredBitmaps } from './bitmap-directory.js'
import type { Image } from './image.js'
import type { L1Table } from './l1-table.js'
import type { SnapshotTable } from './load.js'
import type { TableClusters } from './overlap.js'
import { roundUp } from './refcounts.js'

/** Clusters of tables that an image may have besides its own map: what is known of each takes memory. */
const MOST_CLUSTERS = 4 << 20

interface TableRange {
  readonly offset: number
  readonly length: number
  readonly name: string
}

/** @throws IoError when tables overlap */
export async function learnTables(
  image: Image,
  l1: L1Table,
  snapshots: SnapshotTable,
  bitmaps: StoredBitmaps | undefined,
  tables: TableClusters,
): Promise<void> {
  tables.clear()
  const { header, clusterSize } = image
  const end = roundUp(image.env.file.length(), clusterSize)
  let left = MOST_CLUSTERS + l1.size
  const claim = async ({ offset, length, name }: TableRange) => {
    if (length === 0 || offset >= end) return
    left -= Math.ceil(Math.min(length, end - offset) / clusterSize)
    if (left < 0) {
      const cause = new FormatError(
        'The tables of its snapshots and bitmaps are too large to write the image',
      )
      throw new IoError(EFBIG, 'write', image.env.name, offset, length, { cause })
    }
    const other = tables.claim(offset, Math.min(length, end - offset), name)
    if (other === undefined) return
    const text = `Preventing invalid write on ${name} (overlaps with ${other})`
    throw await image.corrupt('write', text, offset, length)
  }
  await claim({ offset: 0, length: clusterSize, name: 'qcow2_header' })
  await claim({ offset: header.l1Offset, length: header.l1Size * 8, name: 'active L1 table' })
  for (let index = 0; index < l1.size; index++) {
    const { offset } = l1.get(index)
    if (offset !== 0) await claim({ offset, length: clusterSize, name: 'active L2 table' })
  }
  await claim({ offset: header.snapshotsOffset, length: snapshots.size, name: 'snapshot table' })
  for (const [offset, length] of merged(snapshots.list.map((one) => [one.l1Offset, one.l1Size * 8] as const)))
    await claim({ offset, length, name: 'inactive L1 table' })
  if (bitmaps === undefined) return
  const { directoryOffset, directorySize } = bitmaps.directory
  await claim({ offset: directoryOffset, length: directorySize, name: 'bitmap directory' })
  for (const { tableOffset, tableSize } of bitmaps.list)
    await claim({ offset: tableOffset, length: tableSize * 8, name: 'bitmap table' })
}

/** Ranges that overlap or touch as one: many that are alike cost no more than one. */
function* merged(ranges: (readonly [number, number])[]): Generator<readonly [number, number]> {
  let found: readonly [number, number] | undefined
  for (const [offset, length] of ranges.sort((a, b) => a[0] - b[0])) {
    if (found !== undefined && offset <= found[0] + found[1]) {
      found = [found[0], Math.max(found[1], offset + length - found[0])]
      continue
    }
    if (found !== undefined) yield found
    found = [offset, length]
  }
  if (found !== undefined) yield found
}
