// SPDX-License-Identifier: Apache-2.0
// The map of clusters does what a Map does, in bounded memory.

import t from 'tap'
import { ClusterKinds } from '../../../../../../daemon/iothread/block/drivers/qcow2/cluster-kinds.js'
import { bytesHeld } from '../../../../../helpers/bytes-held.js'
import { random } from '../../../../../native/kinds.js'

const MiB = 2 ** 20
/**
 * As many as are learned of any image: 4 Mi in the L1 table, as many of snapshots and bitmaps, 1 Mi refcount blocks, and the
 * clusters of their table.
 */
const MOST = 9 * MiB + 16384

const spaces = [
  { name: 'neighbours', index: (below: number) => below },
  { name: 'places far apart', index: (below: number) => below * 4096 },
  { name: 'places beyond 32 bits', index: (below: number) => below * (2 ** 32 + 64) },
]
for (const { name, index } of spaces)
  t.test(`sets, changes and takes away as a Map does: ${name}`, async (t) => {
    const seed = Date.now() % 1e6
    t.comment(`seed ${seed}`)
    const below = random(seed)
    const kinds = new ClusterKinds()
    const model = new Map<number, number>()
    for (let step = 0; step < 200_000; step++) {
      const key = index(below(20_000))
      const value = below(3) === 0 ? 0 : 1 + below(255)
      kinds.set(key, value)
      if (value === 0) model.delete(key)
      else model.set(key, value)
      if (step % 20_000 !== 0) continue
      const wrong = Array.from({ length: 20_000 }, (_, at) => index(at)).filter(
        (each) => kinds.get(each) !== (model.get(each) ?? 0),
      )
      t.same(wrong, [], `after step ${step}`)
      t.equal(kinds.size, model.size)
    }
    kinds.clear()
    t.equal(kinds.size, 0)
    t.equal(kinds.get(index(1)), 0)
  })

t.test(
  'as many as are ever learned of an image fit into 144 MiB, and no step takes much of it at once',
  async (t) => {
    const kinds = new ClusterKinds()
    const before = bytesHeld()
    let last = process.memoryUsage().arrayBuffers
    let largest = 0
    for (let count = 0; count < MOST; count++) {
      kinds.set(count * 8192, 3)
      if (count % 256 !== 0) continue
      const now = process.memoryUsage().arrayBuffers
      largest = Math.max(largest, now - last)
      last = now
    }
    const bytes = bytesHeld() - before
    t.ok(bytes <= 148 * MiB, `${bytes} bytes`)
    t.ok(largest <= 16 * MiB, `${largest} bytes at once`)
    t.equal(kinds.size, MOST)
    t.equal(kinds.get((MOST - 1) * 8192), 3)
    t.equal(kinds.get(1), 0)
  },
)
