// SPDX-License-Identifier: Apache-2.0
// Before an image is changed: where its tables lie. Tables that overlap would destroy each other with the first change,
// so the image is marked as corrupt instead. Used by the qcow2 map; refcount structures are added by refcounts.ts.

import { FormatError } from '../../../../../protocol/format-error.js'
import { viewOf } from '../../../../../protocol/qcow2/bytes.js'
import { parseL1Entry } from '../../../../../protocol/qcow2/entries.js'
import { hasPossibleL1 } from '../../../../../protocol/qcow2/snapshots.js'
import { EFBIG } from '../../../../common/errno.js'
import { IoError } from '../../../../errors.js'
import type { StoredBitmaps } from './bitmap-directory.js'
import type { Image } from './image.js'
import type { L1Table } from './l1-table.js'
import type { SnapshotTable } from './load.js'
import { ACTIVE_L2, INACTIVE_L2, type TableClusters, type TableName } from './overlap.js'
import { roundUp } from './refcounts.js'

/** Clusters of tables that an image may have besides its own map: what is known of each takes memory. */
const MOST_CLUSTERS = 4 << 20

interface Span {
  readonly offset: number
  readonly length: number
}

interface TableRange extends Span {
  readonly name: TableName
}

/** For errors. */
interface NamedRange extends Span {
  readonly name: string
}

/** Bytes of an L1 table that are looked at at once. */
const L1_PART = 1 << 20
/** Entries looked at before others have their turn. */
const TURN = 1 << 14

/**
 * @param ofSnapshots  L2 tables of snapshots too
 * @throws IoError when tables overlap
 */
export async function learnTables(
  image: Image,
  l1: L1Table,
  snapshots: SnapshotTable,
  bitmaps: StoredBitmaps | undefined,
  tables: TableClusters,
  ofSnapshots: boolean,
): Promise<void> {
  tables.clear()
  const { header, clusterSize } = image
  const end = roundUp(image.env.file.length(), clusterSize)
  let left = MOST_CLUSTERS + l1.size
  const count = ({ offset, length }: Span) => {
    left -= Math.ceil(Math.min(length, end - offset) / clusterSize)
    if (left >= 0) return
    const cause = new FormatError('The tables of its snapshots and bitmaps are too large to write the image')
    throw new IoError(EFBIG, 'write', image.env.name, offset, length, { cause })
  }
  const claim = async ({ offset, length, name }: TableRange) => {
    if (length === 0 || offset >= end) return
    count({ offset, length })
    const other = tables.claim(offset, Math.min(length, end - offset), name)
    if (other !== undefined) throw await overlapping(image, { offset, length, name }, other)
  }
  await claim({ offset: 0, length: clusterSize, name: 'qcow2_header' })
  await claim({ offset: header.l1Offset, length: header.l1Size * 8, name: 'active L1 table' })
  for (let index = 0; index < l1.size; index++) {
    if (index % TURN === 0) await breath()
    const { offset } = l1.get(index)
    if (offset !== 0) await claim({ offset, length: clusterSize, name: ACTIVE_L2 })
  }
  await claim({ offset: header.snapshotsOffset, length: snapshots.size, name: 'snapshot table' })
  // A damaged entry says nothing of where its tables are: the refcounts keep them.
  const sound = snapshots.list.filter((snapshot) => hasPossibleL1(snapshot, clusterSize))
  const inactive = [
    ...merged(sound.map(({ l1Offset, l1Size }) => ({ offset: l1Offset, length: l1Size * 8 }))),
  ]
  for (const range of inactive) await claim({ ...range, name: 'inactive L1 table' })
  if (bitmaps !== undefined) {
    const { directoryOffset, directorySize } = bitmaps.directory
    await claim({ offset: directoryOffset, length: directorySize, name: 'bitmap directory' })
    for (const { tableOffset, tableSize } of bitmaps.list)
      await claim({ offset: tableOffset, length: tableSize * 8, name: 'bitmap table' })
  }
  if (!ofSnapshots) return
  for (const range of inactive)
    await learnOfSnapshots(image, range, tables, (offset) => count({ offset, length: clusterSize }))
  await checkActive(image, l1, tables)
}

/** The L2 tables that an L1 table of a snapshot names. @param count  told of each that was not known */
async function learnOfSnapshots(
  image: Image,
  { offset: start, length }: Span,
  tables: TableClusters,
  count: (offset: number) => void,
): Promise<void> {
  const { clusterSize, env } = image
  const end = Math.min(start + length, env.file.length())
  for (let at = start; at < end; at += L1_PART) {
    const view = viewOf(await image.read(at, Math.min(L1_PART, end - at)))
    await breath()
    for (let entry = 0; entry + 8 <= view.byteLength; entry += 8) {
      const { offset } = parseL1Entry(view, entry)
      if (offset === 0 || offset >= env.file.length() || tables.isOfSnapshot(offset)) continue
      count(offset)
      const other = tables.claimOfSnapshot(offset, clusterSize)
      if (other === undefined) continue
      throw await overlapping(image, { offset, length: clusterSize, name: INACTIVE_L2 }, other)
    }
  }
}

/** An active L2 table that is changed in place is no snapshot's. */
async function checkActive(image: Image, l1: L1Table, tables: TableClusters): Promise<void> {
  for (let index = 0; index < l1.size; index++) {
    if (index % TURN === 0) await breath()
    const { offset, copied } = l1.get(index)
    if (offset === 0 || !copied || !tables.isOfSnapshot(offset)) continue
    throw await overlapping(image, { offset, length: image.clusterSize, name: ACTIVE_L2 }, INACTIVE_L2)
  }
}

function overlapping(image: Image, { offset, length, name }: NamedRange, other: string): Promise<IoError> {
  return image.corrupt(
    'write',
    `Preventing invalid write on ${name} (overlaps with ${other})`,
    offset,
    length,
  )
}

function breath(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

/** Ranges that overlap or touch as one: many that are alike cost no more than one. */
function* merged(ranges: Span[]): Generator<Span> {
  let found: Span | undefined
  for (const range of ranges.sort((a, b) => a.offset - b.offset)) {
    if (found !== undefined && range.offset <= found.offset + found.length) {
      const end: number = Math.max(found.offset + found.length, range.offset + range.length)
      found = { offset: found.offset, length: end - found.offset }
      continue
    }
    if (found !== undefined) yield found
    found = range
  }
  if (found !== undefined) yield found
}
