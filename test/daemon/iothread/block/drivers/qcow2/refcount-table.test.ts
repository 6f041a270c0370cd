// SPDX-License-Identifier: Apache-2.0
// How large the next refcount table is: it counts itself, and stays one that can be opened.

import t from 'tap'
import { largerTable } from '../../../../../../daemon/iothread/block/drivers/qcow2/refcount-table.js'

const MOST = (8 << 20) / 8

for (const cluster of [512, 4096, 65536, 2 ** 21])
  for (const bits of [1, 16, 64])
    t.test(
      `clusters of ${cluster}, counts of ${bits} bits: it grows up to 8 MiB and no further`,
      async (t) => {
        const blockEntries = (cluster * 8) / bits
        let entries = cluster / 8
        for (;;) {
          const larger = largerTable(entries, entries + 1, cluster, blockEntries)
          if (larger === undefined) break
          const { blocks, clusters } = larger
          const next = (clusters * cluster) / 8
          if (next > MOST || next < entries + blocks) t.fail(`${entries} entries become ${next}`)
          if (blocks * blockEntries < blocks + clusters) t.fail('the new blocks do not count what is new')
          entries = next
        }
        t.equal(entries, MOST, 'all of the room was used')
      },
    )

t.test('one that was nearly as long as it may be becomes that long', async (t) => {
  t.equal(largerTable(700_032, 700_033, 512, 64)?.clusters, (8 << 20) / 512)
  t.equal(largerTable(MOST, MOST + 1, 512, 64), undefined)
})
