// SPDX-License-Identifier: Apache-2.0
// The table of internal snapshots. Source: docs/interop/qcow2 of QEMU, "Snapshots".

import { FormatError } from '../format-error.js'
import { getUint64, padded, textOf, viewOf } from './bytes.js'

const FIXED = 40
const MAX_EXTRA = 1024

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

/**
 * One entry at `at`.
 * @returns the entry and where the next one begins; undefined when the bytes end before the entry does
 * @throws FormatError
 */
export function parseSnapshot(
  bytes: Uint8Array,
  at: number,
): { snapshot: Snapshot; next: number } | undefined {
  if (at + FIXED > bytes.length) return undefined
  const view = viewOf(bytes)
  const idLength = view.getUint16(at + 12)
  const nameLength = view.getUint16(at + 14)
  const extra = view.getUint32(at + 36)
  if (extra > MAX_EXTRA) throw new FormatError('Too much extra metadata in snapshot table entry')
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
  return { snapshot, next: at + padded(end - at) }
}

/** All bits set: nobody counted. */
function icountOf(view: DataView, at: number): number | undefined {
  return view.getBigInt64(at) === -1n ? undefined : getUint64(view, at)
}
