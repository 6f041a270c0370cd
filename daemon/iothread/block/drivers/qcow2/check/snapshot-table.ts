// SPDX-License-Identifier: Apache-2.0
// The table of internal snapshots under check: read entry by entry and in bounded pieces, and on repair replaced by one
// whose entries have all that version 3 demands. Used by check.ts.
//
// Order of writes: the file's length, refcounts of where the new table goes, the table, the header's pointer (12 bytes of one
// sector), refcounts of where the old one was, with a flush after each. Whenever this is cut off, the one or the other is
// whole, and at most clusters are leaked.

import { FormatError } from '../../../../../../protocol/format-error.js'
import { setUint64, viewOf } from '../../../../../../protocol/qcow2/bytes.js'
import {
  completeSnapshot,
  hasPossibleL1,
  MAX_EXTRA,
  parseSnapshot,
  type Snapshot,
} from '../../../../../../protocol/qcow2/snapshots.js'
import { type Checked, countRange } from './image.js'
import type { Refcounts } from './refcounts.js'

const MAX_SNAPSHOTS = 65536
const MAX_TABLE = 64 * 2 ** 20
/** Bytes of extra data that a repair passes over. */
const REPAIRED_EXTRA = 64 * 1024
/** Bytes; an entry is shorter than half of it: its strings have lengths of 16 bits. */
const WINDOW = 512 * 1024
/** Where the number of snapshots and the offset of their table stand in the header. */
const HEADER_FIELD = 60

export interface SnapshotTable {
  readonly snapshots: readonly Snapshot[]
  /** Bytes of the table. */
  readonly length: number
  /** What single entries lack, or have too much: a repair puts it right. */
  readonly flaws: readonly string[]
  /** An entry leads nowhere: what belongs to its snapshot looks like a leak, and would be lost. */
  readonly damaged: boolean
  /** The table without the flaws. Empty where no repair was asked for. */
  readonly mended: readonly Uint8Array[]
}

export const NO_SNAPSHOTS: SnapshotTable = {
  ...{ snapshots: [], length: 0, flaws: [], damaged: false, mended: [] },
}

/** @throws FormatError when the table cannot be read as one */
export async function readSnapshots(checked: Checked): Promise<SnapshotTable> {
  const { bytes, header, clusterSize } = checked
  const { snapshotCount: count, snapshotsOffset } = header
  if (count === 0) return NO_SNAPSHOTS
  if (count > MAX_SNAPSHOTS) throw new FormatError('Snapshot table too large')
  if (snapshotsOffset % clusterSize !== 0) throw new FormatError('Snapshot table offset invalid')
  const repairs = checked.repair === 'all'
  const [snapshots, flaws, mended]: [Snapshot[], string[], Uint8Array[]] = [[], [], []]
  let windowAt = snapshotsOffset
  let window = await bytes.read(windowAt, WINDOW)
  let at = windowAt
  while (snapshots.length < count) {
    if (bytes.tired) await bytes.rest()
    if (at - snapshotsOffset > MAX_TABLE) throw new FormatError('Snapshot table is too big')
    if (at - windowAt > WINDOW / 2) {
      windowAt = at
      window = await bytes.read(windowAt, WINDOW)
    }
    const index = snapshots.length
    const from = at - windowAt
    const found = parseSnapshot(window, from, index, repairs ? REPAIRED_EXTRA : MAX_EXTRA)
    if (found === undefined) throw new FormatError('Snapshot table is too big')
    const { snapshot, extra, next } = found
    const incomplete = header.version === 3 && snapshot.diskSize === undefined
    if (incomplete) flaws.push(`snapshot table entry ${index} is incomplete`)
    if (extra > MAX_EXTRA)
      flaws.push(`too much extra metadata in snapshot table entry ${index} (${extra} > ${MAX_EXTRA})`)
    snapshots.push(snapshot)
    if (repairs)
      mended.push(
        incomplete || extra > MAX_EXTRA
          ? completeSnapshot(window, from, found, header.size)
          : window.slice(from, next),
      )
    at = windowAt + next
  }
  const damaged = snapshots.some((snapshot) => !leadsToTable(checked, snapshot))
  return { snapshots, length: at - snapshotsOffset, flaws, damaged, mended }
}

function leadsToTable({ bytes, clusterSize }: Checked, snapshot: Snapshot): boolean {
  const { l1Offset, l1Size, diskSize } = snapshot
  const inFile = l1Offset + l1Size * 8 - bytes.length < clusterSize
  return hasPossibleL1(snapshot, clusterSize) && inFile && (l1Offset !== 0 || diskSize === 0)
}

/**
 * @param refcounts  as they are to be: they tell what is free
 * @throws FormatError when there is no room for the table
 */
export async function replaceSnapshotTable(
  checked: Checked,
  refcounts: Refcounts,
  { mended, length: oldLength, snapshots }: SnapshotTable,
): Promise<void> {
  const { bytes, clusterSize, counts, header } = checked
  const length = mended.reduce((sum, entry) => sum + entry.length, 0)
  const clusters = Math.ceil(length / clusterSize)
  const first = await freeRun(checked, refcounts, clusters)
  const offset = first * clusterSize
  if (bytes.length < offset + clusters * clusterSize) await bytes.resize(offset + clusters * clusterSize)
  // A count of what lies beyond the end would be seen by no check.
  await bytes.flush()
  countRange(checked, offset, length)
  for (let cluster = first; cluster < first + clusters; cluster++) await refcounts.set(cluster, 1)
  await refcounts.save()
  let at = offset
  for (const entry of mended) {
    await bytes.write(at, entry)
    at += entry.length
  }
  await bytes.flush()
  const field = new Uint8Array(12)
  viewOf(field).setUint32(0, snapshots.length)
  setUint64(viewOf(field), 4, offset)
  await bytes.write(HEADER_FIELD, field)
  await bytes.flush()
  checked.header = { ...header, snapshotsOffset: offset }
  const end = Math.min(header.snapshotsOffset + oldLength, bytes.length)
  for (let cluster = header.snapshotsOffset / clusterSize; cluster * clusterSize < end; cluster++) {
    const left = counts.get(cluster) - 1
    if (left < 0) continue
    counts.clear(cluster)
    if (left > 0) counts.add(cluster, left)
    await refcounts.set(cluster, left)
  }
  await refcounts.save()
}

/** The first of so many clusters in line that nothing refers to, and that have counters. */
async function freeRun({ bytes, counts }: Checked, refcounts: Refcounts, wanted: number): Promise<number> {
  const most = refcounts.blocks * refcounts.perBlock
  let run = 0
  for (let cluster = 1; cluster < most; cluster++) {
    if (cluster % 512 === 0 && bytes.tired) await bytes.rest()
    const block = Math.floor(cluster / refcounts.perBlock)
    if (refcounts.blockOffset(block) === 0) {
      run = 0
      cluster = (block + 1) * refcounts.perBlock - 1
      continue
    }
    const found = refcounts.get(cluster)
    const stored = typeof found === 'object' ? await found : found
    run = stored === 0 && counts.get(cluster) === 0 ? run + 1 : 0
    if (run === wanted) return cluster - wanted + 1
  }
  throw new FormatError('no room for it where clusters have refcounts')
}
