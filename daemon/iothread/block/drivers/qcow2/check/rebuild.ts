// SPDX-License-Identifier: Apache-2.0
// New refcount structures from the references that were counted, for images whose own cannot be mended in place.
//
// Order of writes: the new blocks and the new table go where nothing is, behind the end of the file; then a flush; then the
// header's pointer, 12 bytes of one sector. Before that write the image is as it was, after it the new structures are
// complete, and the old ones are free in them. Used by check.ts.

import { FormatError } from '../../../../../../protocol/format-error.js'
import { setUint64, viewOf } from '../../../../../../protocol/qcow2/bytes.js'
import { MAX_REFCOUNT_TABLE } from '../../../../../../protocol/qcow2/header.js'
import { maxRefcount, setRefcount } from '../../../../../../protocol/qcow2/refcount-block.js'
import { type Checked, clusterCount } from './image.js'

/** Where the pointer to the refcount table, and its length, stand in the header. */
const HEADER_FIELD = 48

/** New structures, in clusters. */
interface Plan {
  readonly tableAt: number
  readonly tableClusters: number
  /** Cluster of each block, by its index in the table, ascending. */
  readonly blocks: ReadonlyMap<number, number>
  readonly end: number
}

/**
 * @param counts of `checked`  all references but those of the refcount structures
 * @returns where the new table is
 * @throws FormatError when the table would be larger than an image may have
 */
export async function rebuildRefcounts(checked: Checked): Promise<{ offset: number; clusters: number }> {
  const { bytes, clusterSize, counts } = checked
  const plan = planStructures(checked)
  for (let cluster = plan.tableAt; cluster < plan.end; cluster++) counts.add(cluster)
  await bytes.resize(plan.end * clusterSize)
  const table = new Uint8Array(plan.tableClusters * clusterSize)
  for (const [index, cluster] of plan.blocks) {
    if (bytes.tired) await bytes.rest()
    setUint64(viewOf(table), index * 8, cluster * clusterSize)
    await bytes.write(cluster * clusterSize, blockBytes(checked, index))
  }
  await bytes.write(plan.tableAt * clusterSize, table)
  await bytes.flush()
  const field = new Uint8Array(12)
  setUint64(viewOf(field), 0, plan.tableAt * clusterSize)
  viewOf(field).setUint32(8, plan.tableClusters)
  await bytes.write(HEADER_FIELD, field)
  await bytes.flush()
  return { offset: plan.tableAt * clusterSize, clusters: plan.tableClusters }
}

function planStructures(checked: Checked): Plan {
  const { clusterSize, counts } = checked
  const perBlock = blockEntries(checked)
  const tableAt = clusterCount(checked)
  const needed = new Set<number>()
  for (const [first, end] of counts.ranges())
    for (let cluster = first; cluster < end; cluster++)
      if (counts.get(cluster) > 0) needed.add(Math.floor(cluster / perBlock))
  // Blocks need clusters, which need counters, which need blocks: until both agree.
  for (let tableClusters = 1; ; ) {
    const end = tableAt + tableClusters + needed.size
    const before = needed.size
    for (let index = Math.floor(tableAt / perBlock); index <= Math.floor((end - 1) / perBlock); index++)
      needed.add(index)
    const largest = Math.floor((end - 1) / perBlock)
    const wanted = Math.ceil(((largest + 1) * 8) / clusterSize)
    if (wanted * clusterSize > MAX_REFCOUNT_TABLE)
      throw new FormatError('The refcount table of this image would be larger than an image may have')
    if (needed.size === before && wanted <= tableClusters) {
      const indexes = [...needed].sort((a, b) => a - b)
      const blocks = new Map(indexes.map((index, at) => [index, tableAt + tableClusters + at]))
      return { tableAt, tableClusters, blocks, end }
    }
    tableClusters = Math.max(tableClusters, wanted)
  }
}

function blockEntries({ clusterSize, header }: Checked): number {
  return (clusterSize * 8) / 2 ** header.refcountOrder
}

function blockBytes(checked: Checked, index: number): Uint8Array {
  const block = new Uint8Array(checked.clusterSize)
  const perBlock = blockEntries(checked)
  const { refcountOrder } = checked.header
  for (let entry = 0; entry < perBlock; entry++) {
    const count = Math.min(checked.counts.get(index * perBlock + entry), maxRefcount(refcountOrder))
    if (count > 0) setRefcount(viewOf(block), entry, refcountOrder, count)
  }
  return block
}
