// SPDX-License-Identifier: Apache-2.0
import t from 'tap'
import { NO_LIMITS } from '../../../../daemon/common/throttle-limits.js'
import { ThrottleGroup } from '../../../../daemon/iothread/block/throttle-group.js'

t.test('nodes of a group take turns, each in its order', async (t) => {
  const group = new ThrottleGroup({ ...NO_LIMITS, iopsTotal: { rate: 1e-3, burst: 0, burstSeconds: 1 } })
  const order: string[] = []
  const requests = ['a1', 'a2', 'a3', 'a4', 'b1', 'c1', 'b2'].map(async (name) => {
    await group.admit(name.slice(0, 1), 'write', 1)
    order.push(name)
  })
  await requests[0]
  t.same(order, ['a1'], 'the bucket is full')
  group.setLimits(NO_LIMITS)
  await Promise.all(requests)
  t.same(order, ['a1', 'a2', 'b1', 'c1', 'a3', 'b2', 'a4'])
})

t.test('new limits forget what went before', async (t) => {
  const slow = { ...NO_LIMITS, bpsRead: { rate: 1, burst: 0, burstSeconds: 1 } }
  const group = new ThrottleGroup(slow)
  for (let count = 0; count < 3; count++) {
    await group.admit('a', 'read', 2 ** 50)
    group.setLimits(slow)
  }
  t.pass('none of them waited')
})
