// SPDX-License-Identifier: Apache-2.0
// Whether an image was made with places for data that was never written: many clusters are in use that take up no storage.
// Only then is it worth asking the file what of a cluster is a hole. The rule is QEMU's (qcow2_detect_metadata_preallocation).

import { viewOf } from '../../../../../protocol/qcow2/bytes.js'
import { parseRefcountTableEntry } from '../../../../../protocol/qcow2/entries.js'
import { getRefcount } from '../../../../../protocol/qcow2/refcount-block.js'
import type { Image } from './image.js'

/** Bytes of a refcount block that are looked at at once. */
const PART = 65536
/** Bytes of them that are looked at: of more than 2 TiB in clusters of 64 KiB the beginning tells, and a hostile table ends. */
const MOST = 64 * 2 ** 20

/** What was not written back yet is left out: a few clusters make no difference. @throws IoError */
export async function isPreallocated(image: Image): Promise<boolean> {
  const { clusterSize, env, external } = image
  if (external) return false
  const facts = await env.file.withDriver(async (driver) => driver.facts?.())
  if (facts?.kind !== 'file') return false
  const stored = Math.floor(facts.allocated / clusterSize)
  const threshold = Math.max(Math.floor((stored * 10) / 9), stored + 2)
  const clusters = Math.ceil(env.file.length() / clusterSize)
  // Of an ordinary image nothing has to be read for that.
  if (threshold > clusters) return false
  let used = 0
  for await (const part of refcounts(image, clusters)) {
    used += part
    if (used >= threshold) return true
  }
  return false
}

/** Clusters in use among the first ones of the file, part after part. */
async function* refcounts(image: Image, clusters: number): AsyncGenerator<number> {
  const { header, blockEntries, clusterSize, env } = image
  let looked = 0
  const perPart = Math.min(blockEntries, (PART * 8) / 2 ** header.refcountOrder)
  const blocks = Math.min(
    Math.ceil(clusters / blockEntries),
    (header.refcountTableClusters * clusterSize) / 8,
  )
  const table = viewOf(await image.read(header.refcountTableOffset, blocks * 8))
  for (let block = 0; block < blocks; block++) {
    const { offset, reserved } = parseRefcountTableEntry(table, block * 8)
    if (offset === 0 || reserved || offset % clusterSize !== 0 || offset >= env.file.length()) continue
    const entries = Math.min(blockEntries, clusters - block * blockEntries)
    for (let first = 0; first < entries; first += perPart) {
      const count = Math.min(perPart, entries - first)
      const bits = 2 ** header.refcountOrder
      const length = Math.ceil((count * bits) / 8)
      looked += length
      if (looked > MOST) return
      const view = viewOf(await image.read(offset + (first * bits) / 8, length))
      let used = 0
      for (let index = 0; index < count; index++)
        if (getRefcount(view, index, header.refcountOrder) > 0) used += 1
      yield used
    }
  }
}
