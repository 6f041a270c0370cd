// SPDX-License-Identifier: Apache-2.0

import t from 'tap'
import { authzListFrom, isAllowed } from '../../protocol/authz.js'

t.test('the first rule that fits decides, else the policy', async (t) => {
  const list = authzListFrom({
    rules: [
      { match: 'CN=eve,O=x', policy: 'deny' },
      { match: 'CN=*,O=x', policy: 'allow', format: 'glob' },
      { match: 'CN=*', policy: 'allow' },
    ],
  })
  t.equal(isAllowed(list, 'CN=eve,O=x'), false)
  t.equal(isAllowed(list, 'CN=alice,O=x'), true)
  t.equal(isAllowed(list, 'CN=alice,O=y'), false, 'denied when nothing is said')
  t.equal(isAllowed(list, 'CN=*'), true, 'an exact rule knows no pattern')
  t.equal(isAllowed(authzListFrom({ policy: 'allow' }), 'anybody'), true)
  t.equal(isAllowed(authzListFrom({}), 'anybody'), false)
})

t.test('patterns', async (t) => {
  const cases: [string, string, boolean][] = [
    ['', '', true],
    ['', 'a', false],
    ['*', '', true],
    ['**a', 'xya', true],
    ['a*', 'a', true],
    ['a?', 'a', false],
    ['a?c', 'abc', true],
    ['?', '😀', true],
    ['*a*b', 'xaxxbxb', true],
    ['*a*b', 'xbxa', false],
    ['a.c', 'abc', false],
    ['[ab]', 'a', false],
    ['ab*ab', 'ab', false],
  ]
  for (const [match, name, allowed] of cases)
    t.equal(
      isAllowed(authzListFrom({ rules: [{ match, policy: 'allow', format: 'glob' }] }), name),
      allowed,
      `${match} ${name}`,
    )
  const long = authzListFrom({ rules: [{ match: '*a'.repeat(200), policy: 'allow', format: 'glob' }] })
  t.equal(isAllowed(long, `${'a'.repeat(20_000)}b`), false, 'in a time that can be waited for')
})
