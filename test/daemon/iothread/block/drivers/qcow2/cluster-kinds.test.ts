// SPDX-License-Identifier: Apache-2.0
// The map of clusters does what a Map does.

import t from 'tap'
import { ClusterKinds } from '../../../../../../daemon/iothread/block/drivers/qcow2/cluster-kinds.js'
import { random } from '../../../../../native/kinds.js'

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
    for (let step = 0; step < 60_000; step++) {
      const key = index(below(3000))
      const value = below(3) === 0 ? 0 : 1 + below(255)
      kinds.set(key, value)
      if (value === 0) model.delete(key)
      else model.set(key, value)
      if (step % 5000 !== 0) continue
      const wrong = Array.from({ length: 3000 }, (_, at) => index(at)).filter(
        (each) => kinds.get(each) !== (model.get(each) ?? 0),
      )
      t.same(wrong, [], `after step ${step}`)
      t.equal(kinds.size, model.size)
    }
    kinds.clear()
    t.equal(kinds.size, 0)
    t.equal(kinds.get(index(1)), 0)
  })
