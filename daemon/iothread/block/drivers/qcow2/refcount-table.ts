// SPDX-License-Identifier: Apache-2.0
// The refcount table as bytes, and how large the next one is. Pure; used by Refcounts.

import { formatL1Entry } from '../../../../../protocol/qcow2/entries.js'

/**
 * @param least  entries it has at least
 * @returns clusters of the new table, and how many new blocks count them and themselves
 */
export function largerTable(
  entries: number,
  least: number,
  clusterSize: number,
  blockEntries: number,
): { blocks: number; clusters: number } {
  const wanted = Math.max(least + 1, Math.ceil(entries * 1.5))
  for (let blocks = 1; ; blocks++) {
    const clusters = Math.ceil(Math.max(wanted, entries + blocks) / (clusterSize / 8))
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
