// SPDX-License-Identifier: Apache-2.0
// The image under check: header facts, and what all parts of a check share. Used by the files of this folder.

import { FormatError } from '../../../../../../protocol/format-error.js'
import { getUint64, viewOf } from '../../../../../../protocol/qcow2/bytes.js'
import {
  clusterSizeOf,
  ExtensionType,
  FIXED_LENGTH,
  type Header,
  Incompatible,
  MAX_L1,
  MAX_REFCOUNT_TABLE,
  parseHeader,
} from '../../../../../../protocol/qcow2/header.js'
import { maxRefcount } from '../../../../../../protocol/qcow2/refcount-block.js'
import type { Findings } from './findings.js'
import type { ImageBytes } from './image-bytes.js'
import type { ReferenceCounts } from './reference-counts.js'

export type Repair = 'none' | 'leaks' | 'all'

/** What all parts of one check work on. */
export interface Checked {
  readonly bytes: ImageBytes
  /** Replaced when the refcount structures, or the snapshot table, are built anew. */
  header: Header
  readonly clusterSize: number
  readonly extended: boolean
  readonly dataFile: boolean
  repair: Repair
  readonly findings: Findings
  counts: ReferenceCounts
}

/** @throws FormatError when the image cannot be opened even to be checked */
export async function readHeader(bytes: ImageBytes): Promise<Header> {
  const length = bytes.length
  const first = await bytes.read(0, Math.min(length, FIXED_LENGTH))
  const header = parseHeader(await bytes.read(0, Math.min(length, clusterSizeOf(first))))
  checkTables(header)
  return header
}

/** Tables that would eat memory, or lie where no table can. */
function checkTables(header: Header): void {
  const clusterSize = 2 ** header.clusterBits
  const extended = header.incompatible.has(Incompatible.extendedL2)
  if (extended && header.clusterBits < 14)
    throw new FormatError('Extended L2 entries are only supported with cluster sizes of at least 16384 bytes')
  const tableBytes = header.refcountTableClusters * clusterSize
  if (tableBytes > MAX_REFCOUNT_TABLE) throw new FormatError('Reference count table too large')
  if (header.refcountTableOffset % clusterSize !== 0)
    throw new FormatError('Reference count table offset invalid')
  if (header.l1Size * 8 > MAX_L1) throw new FormatError('Active L1 table too large')
  if (header.l1Offset % clusterSize !== 0) throw new FormatError('Active L1 table offset invalid')
  const perTable = (clusterSize / (extended ? 16 : 8)) * clusterSize
  const needed = Math.ceil(header.size / perTable)
  if (needed * 8 > MAX_L1) throw new FormatError('Image is too big')
  if (header.l1Size < needed) throw new FormatError('L1 table is too small')
}

/**
 * Counts the clusters of a range as referred to.
 * @param offset  host offset, bytes, any
 * @param times   how often
 */
export function countRange(checked: Checked, offset: number, length: number, times = 1): void {
  if (length <= 0) return
  const { bytes, clusterSize, findings, counts, header } = checked
  // The last cluster of a file may be cut short.
  if (offset + length - bytes.length >= clusterSize) {
    findings.corruption(
      'ERROR: counting reference for region exceeding the end of the file by one cluster or more: ' +
        `offset 0x${hex(offset)} size 0x${hex(length)}`,
    )
    return
  }
  const last = Math.floor((offset + length - 1) / clusterSize)
  const most = maxRefcount(header.refcountOrder)
  for (let cluster = Math.floor(offset / clusterSize); cluster <= last; cluster++) {
    const fitting = Math.min(times, Math.max(0, most - counts.get(cluster)))
    if (fitting > 0) counts.add(cluster, fitting)
    if (fitting === times) continue
    findings.corruption(
      `ERROR: overflow cluster offset=0x${hex(cluster * clusterSize)}`,
      times - fitting,
      'Use qemu-img amend to increase the refcount entry width or qemu-img convert to create a clean copy ' +
        'if the image cannot be opened for writing',
    )
  }
}

/** Clusters of the file, the last one perhaps cut short. */
export function clusterCount({ bytes, clusterSize }: Checked): number {
  return Math.ceil(bytes.length / clusterSize)
}

/** The area of the key material, where there is one. */
export function encryptionArea(header: Header): { offset: number; length: number } | undefined {
  const data = header.extensions.find(({ type }) => type === ExtensionType.encryption)?.data
  if (data === undefined || data.length < 16) return undefined
  const view = viewOf(data)
  return { offset: getUint64(view, 0), length: getUint64(view, 8) }
}

/** @param value  below 2^64, a whole number; without leading 0x */
export function hex(value: number): string {
  return BigInt(value).toString(16)
}

/** Eight bytes as they stand there. */
export function rawHex(view: DataView, at: number): string {
  return view.getBigUint64(at).toString(16)
}
