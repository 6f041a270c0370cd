// SPDX-License-Identifier: Apache-2.0
// Which clusters belong to metadata of other kinds, and must not be written as an L2 table: header, tables of all kinds,
// refcount blocks. Asked for each L2 table of each snapshot, so the answer does not depend on how many of them there are.
// Used by check.ts.

import type { BitmapTable } from './bitmap-tables.js'
import type { Checked } from './image.js'
import type { Refcounts } from './refcounts.js'
import type { SnapshotTable } from './snapshot-table.js'

/** First byte, and the one behind the last; host offsets. */
type Span = readonly [start: number, end: number]

/** @returns whether the cluster at a host offset is protected */
export function protection(
  { header, clusterSize }: Checked,
  { snapshots, length }: SnapshotTable,
  table: BitmapTable | undefined,
  refcounts: Refcounts,
): (offset: number) => boolean {
  const span = (offset: number, bytes: number): Span => [offset, offset + bytes]
  const spans = merged([
    span(0, clusterSize),
    span(header.l1Offset, header.l1Size * 8),
    span(header.refcountTableOffset, header.refcountTableClusters * clusterSize),
    span(header.snapshotsOffset, length),
    ...snapshots.map(({ l1Offset, l1Size }) => span(l1Offset, l1Size * 8)),
    span(table?.directory.directoryOffset ?? 0, table?.directory.directorySize ?? 0),
    ...(table?.bitmaps ?? []).map(({ tableOffset, tableSize }) => span(tableOffset, tableSize * 8)),
  ])
  const blocks = new Set<number>()
  for (let index = 0; index < refcounts.blocks; index++) blocks.add(refcounts.blockOffset(index))
  return (offset) =>
    blocks.has(offset) || offset % clusterSize !== 0 || touches(spans, offset, offset + clusterSize)
}

/** Ascending, and apart from each other; what is empty touches nothing. */
function merged(spans: Span[]): Span[] {
  const found: Span[] = []
  const ascending = spans.filter(([start, end]) => end > start).sort(([a], [b]) => a - b)
  for (const [start, end] of ascending) {
    const last = found.at(-1)
    if (last === undefined || start > last[1]) found.push([start, end])
    else if (end > last[1]) found[found.length - 1] = [last[0], end]
  }
  return found
}

/** @param spans  as merged() gives them */
function touches(spans: readonly Span[], from: number, to: number): boolean {
  let [low, high] = [0, spans.length]
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((spans[middle] as Span)[0] < to) low = middle + 1
    else high = middle
  }
  const last = spans[low - 1]
  return last !== undefined && last[1] > from
}
