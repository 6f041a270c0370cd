// SPDX-License-Identifier: Apache-2.0
// What must not be written as an L2 table is told as by looking at every range, however they lie.

import t from 'tap'
import type { Checked } from '../../../../../../../daemon/iothread/block/drivers/qcow2/check/image.js'
import { protection } from '../../../../../../../daemon/iothread/block/drivers/qcow2/check/protection.js'
import type { Refcounts } from '../../../../../../../daemon/iothread/block/drivers/qcow2/check/refcounts.js'
import { NO_SNAPSHOTS } from '../../../../../../../daemon/iothread/block/drivers/qcow2/check/snapshot-table.js'
import type { Snapshot } from '../../../../../../../protocol/qcow2/snapshots.js'
import { newSeed, random } from '../../../../../../helpers/graph.js'

const CLUSTER = 512
const CLUSTERS = 400

for (const tables of [0, 1, 5, 40, 400])
  t.test(`every cluster that a table touches, of ${tables} snapshots`, async (t) => {
    const seed = newSeed()
    t.comment(`seed ${seed}`)
    const below = random(seed)
    const header = {
      ...{ l1Offset: 3 * CLUSTER, l1Size: 65, refcountTableOffset: 9 * CLUSTER, refcountTableClusters: 2 },
      snapshotsOffset: 20 * CLUSTER,
    }
    const snapshots = Array.from({ length: tables }, () => {
      // Some lie within others, some are empty, some of a damaged image are not aligned.
      const l1Offset = below(CLUSTERS) * CLUSTER + (below(8) === 0 ? 8 : 0)
      return { l1Offset, l1Size: below(4) * 33 } as Snapshot
    })
    const block = 50 * CLUSTER
    const refcounts = { blocks: 1, blockOffset: () => block } as unknown as Refcounts
    const isProtected = protection(
      { header, clusterSize: CLUSTER } as Checked,
      { ...NO_SNAPSHOTS, snapshots, length: 700 },
      undefined,
      refcounts,
    )
    const ranges = [
      ...[0, 3, 4, 9, 10, 20, 21, 50].map((cluster) => [cluster * CLUSTER, CLUSTER] as const),
      ...snapshots.map(({ l1Offset, l1Size }) => [l1Offset, l1Size * 8] as const),
    ].filter(([, length]) => length > 0)
    const wrong: number[] = []
    for (let cluster = 0; cluster < CLUSTERS + 2; cluster++) {
      const at = cluster * CLUSTER
      const wanted = ranges.some(([start, length]) => at < start + length && at + CLUSTER > start)
      if (isProtected(at) !== wanted) wrong.push(cluster)
    }
    t.same(wrong, [])
  })
