// SPDX-License-Identifier: Apache-2.0
// The table of internal snapshots. Source: docs/interop/qcow2 of QEMU, "Snapshots".

import { FormatError } from '../format-error.js'
import { getUint64, padded, setUint64, textOf, viewOf } from './bytes.js'
import { MAX_L1 } from './header.js'

const FIXED = 40
/** Bytes of extra data that an entry of version 3 has at least: the sizes of the machine's state and of the disk. */
const LEAST_EXTRA = 16
/** Bytes of extra data of entries that QEMU reads. */
export const MAX_EXTRA = 1024

export interface Snapshot {
  readonly id: string
  readonly name: string
  /** Host offset and entries of its L1 table. */
  readonly l1Offset: number
  readonly l1Size: number
  /** Seconds since the epoch, and nanoseconds. */
  readonly seconds: number
  readonly nanoseconds: number
  /** Nanoseconds the guest had run. */
  readonly guestClock: number
  /** Bytes. */
  readonly vmStateSize: number
  /** Bytes of the virtual disk then; undefined where the entry does not tell (version 2). */
  readonly diskSize: number | undefined
  /** Instructions the guest had run; undefined where nobody counted them. */
  readonly icount: number | undefined
}

export interface SnapshotEntry {
  readonly snapshot: Snapshot
  /** Bytes of extra data. */
  readonly extra: number
  /** Where the next entry begins. */
  readonly next: number
}

/**
 * One entry at `at`.
 * @param index  of the entry, for errors
 * @returns undefined when the bytes end before the entry does
 * @throws FormatError
 */
export function parseSnapshot(bytes: Uint8Array, at: number, index: number): SnapshotEntry | undefined {
  if (at + FIXED > bytes.length) return undefined
  const view = viewOf(bytes)
  const idLength = view.getUint16(at + 12)
  const nameLength = view.getUint16(at + 14)
  const extra = view.getUint32(at + 36)
  if (extra > MAX_EXTRA) throw new FormatError(`Too much extra metadata in snapshot table entry ${index}`)
  const idAt = at + FIXED + extra
  const end = idAt + idLength + nameLength
  if (end > bytes.length) return undefined
  const text = (from: number, length: number) => textOf(bytes.subarray(from, from + length))
  const snapshot: Snapshot = {
    id: text(idAt, idLength),
    name: text(idAt + idLength, nameLength),
    l1Offset: getUint64(view, at),
    l1Size: view.getUint32(at + 8),
    seconds: view.getUint32(at + 16),
    nanoseconds: view.getUint32(at + 20),
    guestClock: getUint64(view, at + 24),
    vmStateSize: extra >= 8 ? getUint64(view, at + FIXED) : view.getUint32(at + 32),
    diskSize: extra >= 16 ? getUint64(view, at + FIXED + 8) : undefined,
    icount: extra >= 24 ? icountOf(view, at + FIXED + 16) : undefined,
  }
  return { snapshot, extra, next: at + padded(end - at) }
}

/** All bits set: nobody counted. */
function icountOf(view: DataView, at: number): number | undefined {
  return view.getBigInt64(at) === -1n ? undefined : getUint64(view, at)
}

/** Where the parts of an entry lie; bytes from its start. */
export interface SnapshotOutline {
  /** Bytes of extra data. */
  readonly extra: number
  /** ID and name. */
  readonly stringsAt: number
  readonly stringsLength: number
  readonly next: number
}

/** Of the entry at `at`, of which there are at least 40 bytes. */
export function outlineSnapshot(bytes: Uint8Array, at: number): SnapshotOutline {
  const view = viewOf(bytes)
  const extra = view.getUint32(at + 36)
  const stringsLength = view.getUint16(at + 12) + view.getUint16(at + 14)
  return { extra, stringsAt: FIXED + extra, stringsLength, next: padded(FIXED + extra + stringsLength) }
}

/**
 * The entry at `at` with no more extra data than QEMU reads, of which it has more.
 * @param strings  its ID and name
 */
export function shortenSnapshot(bytes: Uint8Array, at: number, strings: Uint8Array): Uint8Array {
  const entry = new Uint8Array(padded(FIXED + MAX_EXTRA + strings.length))
  entry.set(bytes.subarray(at, at + FIXED + MAX_EXTRA))
  viewOf(entry).setUint32(36, MAX_EXTRA)
  entry.set(strings, FIXED + MAX_EXTRA)
  return entry
}

/**
 * The entry at `at` with the extra data that version 3 demands.
 * @param size  of the disk, bytes, where the entry does not tell it
 */
export function completeSnapshot(
  bytes: Uint8Array,
  at: number,
  { snapshot, extra, next }: SnapshotEntry,
  size: number,
): Uint8Array {
  const kept = bytes.subarray(at + FIXED, at + FIXED + extra)
  const length = Math.max(kept.length, LEAST_EXTRA)
  const strings = bytes.subarray(at + FIXED + extra, next)
  const entry = new Uint8Array(padded(FIXED + length + strings.length))
  const view = viewOf(entry)
  entry.set(bytes.subarray(at, at + FIXED))
  entry.set(kept, FIXED)
  view.setUint32(36, length)
  if (extra < 8) setUint64(view, FIXED, snapshot.vmStateSize)
  if (snapshot.diskSize === undefined) setUint64(view, FIXED + 8, size)
  entry.set(strings, FIXED + length)
  return entry
}

/** Whether the entry's L1 table can be one. */
export function hasPossibleL1({ l1Offset, l1Size }: Snapshot, clusterSize: number): boolean {
  return l1Offset % clusterSize === 0 && l1Size * 8 <= MAX_L1 && Number.isSafeInteger(l1Offset + MAX_L1)
}
