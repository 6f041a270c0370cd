// SPDX-License-Identifier: Apache-2.0

import t from 'tap'
import { chosenContexts, listedContexts } from '../../../protocol/nbd/contexts.js'
import { disk } from '../../helpers/nbd/negotiation.js'

const [allocation = '', depth = '', b0 = '', b1 = ''] = disk.contexts

const cases: readonly { queries: string[]; listed: string[]; chosen: number[] }[] = [
  { queries: [], listed: [allocation, depth, b0, b1], chosen: [] },
  { queries: ['base:'], listed: [allocation], chosen: [] },
  { queries: ['base:allocation'], listed: [allocation], chosen: [0] },
  { queries: ['qemu:'], listed: [depth, b0, b1], chosen: [] },
  { queries: ['qemu:dirty-bitmap:'], listed: [b0, b1], chosen: [] },
  { queries: ['qemu:dirty-bitmap:b1'], listed: [b1], chosen: [3] },
  { queries: ['qemu:dirty-bitmap:b'], listed: [], chosen: [] },
  { queries: ['qemu:allocation-depth', 'base:allocation'], listed: [allocation, depth], chosen: [0, 1] },
  { queries: ['base:allocation', 'base:', 'base:allocation'], listed: [allocation], chosen: [0] },
  { queries: ['base:other', 'x-mine:', 'qemu', 'no colon', ''], listed: [], chosen: [] },
]

for (const { queries, listed, chosen } of cases) {
  t.test(`queries ${JSON.stringify(queries)}`, async (t) => {
    t.same(listedContexts(disk.contexts, queries), listed)
    t.same(chosenContexts(disk.contexts, queries), chosen)
  })
}

t.test('a bitmap without a name is listed, and cannot be chosen: its name is a wildcard', async (t) => {
  const offered = ['qemu:dirty-bitmap:']
  t.same(listedContexts(offered, ['qemu:dirty-bitmap:']), offered)
  t.same(chosenContexts(offered, ['qemu:dirty-bitmap:']), [])
})
