// SPDX-License-Identifier: Apache-2.0
// Compares the refcounts of an image with the references that were counted; lowers those that are too high (leaks) and
// raises those that are too low, where that is asked for. A cluster in use whose refcount is 0 asks for a rebuild.
// Used by check.ts.

import { type Checked, clusterCount } from './image.js'
import type { Refcounts } from './refcounts.js'

export interface Mend {
  readonly leaks: boolean
  readonly errors: boolean
}

/** Raising and lowering are both safe at every instant: neither touches what refers to the clusters. */
export async function compareRefcounts(checked: Checked, refcounts: Refcounts, mend: Mend): Promise<void> {
  const { bytes, findings, counts, clusterSize } = checked
  const clusters = clusterCount(checked)
  let highest = 0
  for (const [first, end] of spans(checked, refcounts)) {
    for (let cluster = first; cluster < Math.min(end, clusters); cluster++) {
      if (cluster % 512 === 0 && bytes.tired) await bytes.rest()
      const found = refcounts.get(cluster)
      const stored = typeof found === 'object' ? await found : found
      if (stored === undefined) {
        findings.checkErrors += 1
        findings.say(`Can't get refcount for cluster ${cluster}: Input/output error`)
        continue
      }
      const counted = counts.get(cluster)
      if (stored > 0 || counted > 0) highest = cluster
      if (stored !== counted) await differ(checked, refcounts, mend, { cluster, stored, counted })
    }
  }
  findings.imageEndOffset = (highest + 1) * clusterSize
}

interface Difference {
  readonly cluster: number
  readonly stored: number
  readonly counted: number
}

async function differ(
  { findings }: Checked,
  refcounts: Refcounts,
  mend: Mend,
  { cluster, stored, counted }: Difference,
): Promise<void> {
  const low = stored < counted
  if (stored === 0) findings.rebuild = true
  const mended = stored > 0 && (low ? mend.errors : mend.leaks)
  const word = mended ? 'Repairing' : low ? 'ERROR' : 'Leaked'
  findings.say(`${word} cluster ${cluster} refcount=${stored} reference=${counted}`)
  if (mended) await refcounts.set(cluster, counted)
  if (low && mended) findings.corruptionsFixed += 1
  else if (low) findings.corruptions += 1
  else if (mended) findings.leaksFixed += 1
  else findings.leaks += 1
}

/** Ascending ranges of clusters that have a refcount block or a reference: all that can differ. */
function* spans({ counts }: Checked, refcounts: Refcounts): Generator<readonly [number, number]> {
  const pages = counts.ranges()
  let page = pages.next()
  let done = 0
  for (let index = 0; index < refcounts.blocks; index++) {
    if (refcounts.blockOffset(index) === 0) continue
    const [first, end] = [index * refcounts.perBlock, (index + 1) * refcounts.perBlock]
    for (; page.done !== true && page.value[0] < first; page = pages.next()) {
      yield [Math.max(done, page.value[0]), Math.min(first, page.value[1])]
      if (page.value[1] > first) break
    }
    yield [first, end]
    done = end
  }
  for (; page.done !== true; page = pages.next()) yield [Math.max(done, page.value[0]), page.value[1]]
}
