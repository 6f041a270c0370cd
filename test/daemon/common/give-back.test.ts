// SPDX-License-Identifier: Apache-2.0
import t from 'tap'
import { giveBack } from '../../../daemon/common/give-back.js'

t.test('all is given back, the last first, and the first failure is told', async (t) => {
  const told: string[] = []
  const one =
    (name: string, fails = false) =>
    async () => {
      told.push(name)
      if (fails) throw new Error(name)
    }
  const taken = [one('a', true), one('b'), () => void told.push('c'), one('d', true), one('e')]
  await t.rejects(giveBack(taken), { message: 'd' })
  t.strictSame(told, ['e', 'd', 'c', 'b', 'a'])
  t.strictSame(taken, [])
  await t.rejects(giveBack([one('f', true)], { error: new Error('before') }), { message: 'before' })
  t.equal(told.at(-1), 'f')
  await giveBack([one('g')])
})
