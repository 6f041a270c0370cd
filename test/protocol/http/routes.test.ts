// SPDX-License-Identifier: Apache-2.0
// Targets of requests: which resource they name, and that anything else is refused.

import fc from 'fast-check'
import t from 'tap'
import { Refusal } from '../../../protocol/http/refusal.js'
import { checkMethod, parseTarget, type Service, yesOrNo } from '../../../protocol/http/routes.js'
import { holds } from '../../helpers/property.js'
import { refusalOf } from '../../helpers/refusal.js'

function outcome(text: string, service: Service = 'remote'): object | number {
  try {
    return parseTarget(text, service).resource
  } catch (error) {
    if (error instanceof Refusal) return error.status
    throw error
  }
}

const targets: readonly { text: string; service?: Service; is: object | number }[] = [
  { text: '/images/a', is: { kind: 'image', ticket: 'a' } },
  { text: '/images/a%2Fb/c?x=1', is: { kind: 'image', ticket: 'a/b/c' } },
  { text: '/images/../../etc/passwd', is: { kind: 'image', ticket: '../../etc/passwd' } },
  { text: '/images/a/extents?context=zero', is: { kind: 'extents', ticket: 'a' } },
  { text: '/images/a/extent', is: { kind: 'image', ticket: 'a/extent' } },
  { text: '/images/a/checksum', is: { kind: 'checksum', ticket: 'a' } },
  { text: '/images/a/checksum/algorithms', is: { kind: 'algorithms' } },
  { text: '/images/', is: 400 },
  { text: '/images//extents', is: 400 },
  { text: '/images', is: 404 },
  { text: '/info/', is: { kind: 'info' } },
  { text: '/info/', service: 'local', is: 404 },
  { text: '/tickets/a', is: 404 },
  { text: '/tickets/a', service: 'control', is: { kind: 'ticket', ticket: 'a' } },
  { text: '/images/a', service: 'control', is: 404 },
  { text: 'http://host/images/a', is: 404 },
  { text: '*', is: 404 },
  { text: '/images/%ff', is: 400 },
  { text: '/images/a?%zz', is: 400 },
]
for (const { text, service, is } of targets)
  t.test(`${service ?? 'remote'} ${text}`, async (t) => t.strictSame(outcome(text, service), is))

t.test('a method that a resource lacks is refused, with those it has', async (t) => {
  t.match(
    refusalOf(() => checkMethod({ kind: 'extents', ticket: 'a' }, 'PUT')),
    {
      status: 405,
      headers: [['allow', 'GET']],
    },
  )
  t.doesNotThrow(() => checkMethod({ kind: 'image', ticket: 'a' }, 'PATCH'))
})

t.test('switches of a query are y or n', async (t) => {
  const { query } = parseTarget('/images/a?flush=n&close=y&odd=1&flush=y', 'remote')
  t.equal(yesOrNo(query, 'flush', true), false)
  t.equal(yesOrNo(query, 'close', false), true)
  t.equal(yesOrNo(query, 'other', true), true)
  t.match(
    refusalOf(() => yesOrNo(query, 'odd', true)),
    { status: 400 },
  )
})

t.test('any target is a resource or a refusal', async (t) => {
  const part = fc.oneof(
    fc.constantFrom('/images/', '/extents', '/checksum', '/tickets/', '?', '&', '=', '%', '%2f', '/', '..'),
    fc.string({ maxLength: 5 }),
  )
  holds(
    t,
    fc.property(
      fc.array(part, { maxLength: 12 }),
      fc.constantFrom('remote', 'local', 'control'),
      (parts, service) => {
        const found = outcome(parts.join(''), service as Service)
        return typeof found === 'object' || found === 400 || found === 404
      },
    ),
    3000,
  )
})
