// SPDX-License-Identifier: Apache-2.0

import fc from 'fast-check'
import t from 'tap'
import { Inbox } from '../../../protocol/nbd/inbox.js'
import { holds } from '../../helpers/property.js'

t.test('bytes are taken in the order in which they came, in any pieces', async (t) => {
  const moves = fc.array(fc.oneof(fc.uint8Array({ maxLength: 900 }), fc.nat(1200)), { maxLength: 60 })
  const property = fc.property(moves, (list) => {
    const inbox = new Inbox()
    let model = Buffer.alloc(0)
    for (const move of list) {
      if (typeof move !== 'number') {
        inbox.push(move)
        model = Buffer.concat([model, move])
        continue
      }
      const taken = inbox.take(move)
      if ((taken === undefined) !== move > model.length) return false
      if (taken === undefined) continue
      if (!model.subarray(0, move).equals(taken)) return false
      model = model.subarray(move)
    }
    return inbox.length === model.length && model.equals(inbox.peek()) && model.equals(inbox.rest())
  })
  holds(t, property, 500)
})

t.test('the rest is a copy, and nothing is left', async (t) => {
  const inbox = new Inbox()
  inbox.push(Uint8Array.of(1, 2, 3))
  inbox.take(1)
  const rest = inbox.rest()
  inbox.push(Uint8Array.of(9, 9, 9, 9))
  t.same(rest, Uint8Array.of(2, 3))
  t.equal(inbox.length, 4)
})
