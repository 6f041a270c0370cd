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
  type Snapshot,
} from '../../../../../../protocol/qcow2/snapshots.js'
import { type Checked, countRange } from './image.js'
import type { Refcounts } from './refcounts.js'
import { SnapshotEntries } from './snapshot-entries.js'

const MAX_SNAPSHOTS = 65536
const MAX_TABLE = 64 * 2 ** 20
/** Where the number of snapshots and the offset of their table stand in the header. */
const HEADER_FIELD = 60

export interface SnapshotTable {
  /** Those that the table keeps. */
  readonly snapshots: readonly Snapshot[]
  /** Bytes of the table, and of what is kept of it. */
  readonly length: number
  readonly keptLength: number
  /** What single entries lack, or have too much, and that there are too many: a repair puts it right. */
  readonly flaws: readonly string[]
  /** How many entries that is. */
  readonly corruptions: number
  /** An entry leads nowhere, or one that would be cut off has data: what belongs to its snapshot would be lost. */
  readonly damaged: boolean
  /** The table without the flaws. Empty where no repair was asked for. */
  readonly mended: readonly Uint8Array[]
}

export const NO_SNAPSHOTS: SnapshotTable = {
  ...{ snapshots: [], length: 0, keptLength: 0, flaws: [], corruptions: 0, damaged: false, mended: [] },
}

/** @throws FormatError when the table cannot be read as one */
export async function readSnapshots(checked: Checked): Promise<SnapshotTable> {
  const { header, clusterSize } = checked
  const { snapshotCount: count, snapshotsOffset } = header
  const repairs = checked.repair === 'all'
  if (count === 0) return NO_SNAPSHOTS
  if (count > MAX_SNAPSHOTS && !repairs) throw new FormatError('Snapshot table too large')
  if (snapshotsOffset % clusterSize !== 0) throw new FormatError('Snapshot table offset invalid')
  const entries = new SnapshotEntries(checked)
  const [snapshots, flaws, mended]: [Snapshot[], string[], Uint8Array[]] = [[], [], []]
  let [keptLength, mendedLength] = [0, 0]
  let cutHasData = false
  while (snapshots.length < Math.min(count, MAX_SNAPSHOTS)) {
    const index = snapshots.length
    const { bytes, from, extraThere, ...found } = await entries.next(repairs)
    const { snapshot } = found
    const incomplete = header.version === 3 && snapshot.diskSize === undefined
    const entry = incomplete
      ? completeSnapshot(bytes, from, found, header.size)
      : bytes.subarray(from, found.next)
    mendedLength += entry.length
    if (mendedLength > MAX_TABLE) {
      if (!repairs) throw new FormatError('Snapshot table is too big')
      cutHasData = hasData(snapshot)
      break
    }
    if (incomplete) flaws.push(`snapshot table entry ${index} is incomplete`)
    if (extraThere > MAX_EXTRA)
      flaws.push(`too much extra metadata in snapshot table entry ${index} (${extraThere} > ${MAX_EXTRA})`)
    snapshots.push(snapshot)
    if (repairs) mended.push(entry.slice())
    keptLength = entries.at - snapshotsOffset
  }
  const overhang = count - snapshots.length
  const corruptions = flaws.length + overhang
  if (overhang > 0) flaws.push(`${overhang} overhanging snapshots`)
  const damaged =
    cutHasData ||
    snapshots.some((snapshot) => !leadsToTable(checked, snapshot)) ||
    (await leadOn(entries, header))
  const length = damaged ? keptLength : entries.at - snapshotsOffset
  return { snapshots, length, keptLength, flaws, corruptions, damaged, mended }
}

/**
 * Passes over the entries that are left, which nobody would read any more.
 * @returns whether one of them has data, or they are too many to tell
 */
async function leadOn(
  entries: SnapshotEntries,
  { snapshotCount, snapshotsOffset }: Checked['header'],
): Promise<boolean> {
  while (entries.index < snapshotCount) {
    if (entries.at - snapshotsOffset > 2 * MAX_TABLE) return true
    if (hasData((await entries.next(true)).snapshot)) return true
  }
  return false
}

function hasData({ l1Size }: Snapshot): boolean {
  return l1Size > 0
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
  { mended, length: oldLength, keptLength, snapshots }: SnapshotTable,
): Promise<void> {
  const { bytes, clusterSize, counts, findings, header } = checked
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
  await bytes.write(offset, Buffer.concat(mended))
  await bytes.flush()
  const field = new Uint8Array(12)
  viewOf(field).setUint32(0, snapshots.length)
  setUint64(viewOf(field), 4, offset)
  await bytes.write(HEADER_FIELD, field)
  await bytes.flush()
  checked.header = { ...header, snapshotCount: snapshots.length, snapshotsOffset: offset }
  const end = Math.min(header.snapshotsOffset + oldLength, bytes.length)
  for (let cluster = header.snapshotsOffset / clusterSize; cluster * clusterSize < end; cluster++) {
    const left = counts.get(cluster) - 1
    if (left < 0) continue
    counts.clear(cluster)
    if (left > 0) counts.add(cluster, left)
    await refcounts.set(cluster, left)
    if (cluster * clusterSize >= header.snapshotsOffset + keptLength) findings.leaksFixed += 1
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
