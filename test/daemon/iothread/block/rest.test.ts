// SPDX-License-Identifier: Apache-2.0
import t from 'tap'
import { CommandError, IoError } from '../../../../daemon/errors.js'
import { restingSoon } from '../../../../daemon/iothread/block/rest.js'
import { testGraph } from '../../../helpers/graph.js'
import { turn } from '../../../helpers/graph-jobs.js'

const SIZE = 65536

t.test('a node on which a request is stuck goes on when that takes too long', async (t) => {
  const g = testGraph(t)
  await g.add({ driver: 'x-memory', 'node-name': 'memory', size: SIZE })
  const rules = [{ op: 'write', stall: true }]
  const node = await g.add({ driver: 'x-inject', 'node-name': 'disk', file: 'memory', rules })
  const writing = g.write(node, 0, Buffer.alloc(512, 1))
  await turn()
  const message = "node 'disk' did not come to rest within 0.005 s; nothing was changed"
  await t.rejects(
    restingSoon('disk', (signal) => node.drain(signal), 5),
    new CommandError(message),
  )
  t.equal((await node.status(0, 512)).length, 512, 'other requests are served')
  node.driver.release?.()
  await writing
  using _quiet = await restingSoon('disk', (signal) => node.drain(signal), 60_000)
})

t.test('what else goes wrong is told as it is', async (t) => {
  const error = new IoError(5, 'flush', 'disk')
  await t.rejects(
    restingSoon('disk', () => Promise.reject(error), 60_000),
    error,
  )
})
