// SPDX-License-Identifier: Apache-2.0
// Drained sections of a node's requests that are given up.

import t from 'tap'
import { InFlight } from '../../../../daemon/iothread/block/in-flight.js'

for (const early of [true, false])
  t.test(`who gives up ${early ? 'before' : 'while'} waiting holds nobody up`, async (t) => {
    const requests = new InFlight()
    requests.enter()
    const giveUp = new AbortController()
    if (early) giveUp.abort()
    const drained = requests.drain(giveUp.signal)
    giveUp.abort()
    await t.rejects(drained, { name: 'Cancelled' })
    t.equal(requests.gate, undefined, 'others go on')
    requests.leave()
    using _section = await requests.drain()
    t.ok(requests.gate, 'and it can be drained later')
  })
