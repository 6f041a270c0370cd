// SPDX-License-Identifier: Apache-2.0
// The refcount table as bytes, and how large the next one is. Pure; used by Refcounts.

import { formatL1Entry } from '../../../../../protocol/qcow2/entries.js'
import { MAX_REFCOUNT_TABLE } from '../../../../../protocol/qcow2/header.js'

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

/** @param table  host offsets of the blocks, 0 = none */
export function tableBytes(table: Float64Array): Uint8Array {
  const bytes = new Uint8Array(table.length * 8)
  const view = new DataView(bytes.buffer)
  for (const [index, offset] of table.entries()) {
    if (offset !== 0) formatL1Entry(view, index * 8, { offset, copied: false })
  }
  return bytes
}
