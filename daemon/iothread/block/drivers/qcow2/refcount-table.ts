// SPDX-License-Identifier: Apache-2.0
// The refcount table as bytes, and how large the next one is. Pure; used by Refcounts.

import { formatL1Entry } from '../../../../../protocol/qcow2/entries.js'
import { MAX_REFCOUNT_TABLE } from '../../../../../protocol/qcow2/header.js'
import { setRefcount } from '../../../../../protocol/qcow2/refcount-block.js'

/**
 * @param least  entries it has at least
 * @returns clusters of the new table, and how many new blocks count them and themselves; undefined when an image may not
 *     have one that long
 */
export function largerTable(
  entries: number,
  least: number,
  clusterSize: number,
  blockEntries: number,
): { blocks: number; clusters: number } | undefined {
  const wanted = Math.max(
    least,
    Math.min(MAX_REFCOUNT_TABLE / 8, Math.max(least + 1, Math.ceil(entries * 1.5))),
  )
  for (let blocks = 1; ; blocks++) {
    const clusters = Math.ceil(Math.max(wanted, entries + blocks) / (clusterSize / 8))
    if (clusters * clusterSize > MAX_REFCOUNT_TABLE) return undefined
    if (blocks * blockEntries >= blocks + clusters) return { blocks, clusters }
  }
}

/** Refcount blocks of so many bytes that count the first `clusters` of theirs once each. */
export function usedOnce(clusters: number, length: number, order: number): Uint8Array {
  const bytes = new Uint8Array(length)
  const view = new DataView(bytes.buffer)
  for (let index = 0; index < clusters; index++) setRefcount(view, index, order, 1)
  return bytes
}

/** @param added  offsets of the blocks that follow those of `table` */
export function lengthened(
  table: Float64Array,
  added: readonly number[],
  entries: number,
): Float64Array<ArrayBuffer> {
  const longer = new Float64Array(entries)
  longer.set(table)
  longer.set(added, table.length)
  return longer
}

/** @param table  host offsets of the blocks, 0 = none */
export function tableBytes(table: Float64Array): Uint8Array {
  const bytes = new Uint8Array(table.length * 8)
  const view = new DataView(bytes.buffer)
  for (const [index, offset] of table.entries()) {
    if (offset !== 0) formatL1Entry(view, index * 8, { offset, copied: false })
  }
  return bytes
}
