// SPDX-License-Identifier: Apache-2.0
// JSON bodies of the images API: tickets and changes of images.

import t from 'tap'
import { parseExtension, parsePatch, parseTicket } from '../../../protocol/http/json-body.js'
import { refusalOf } from '../../helpers/refusal.js'

const ticket = { uuid: 'a', size: 4096, ops: ['read'], timeout: 300, url: 'file:///disk' }
const parse = (more: object) => parseTicket(JSON.stringify({ ...ticket, ...more }), 'a')

t.test('a ticket with what must be there has defaults for the rest', async (t) => {
  t.strictSame(parse({ unknown: 1 }), {
    ...{ id: 'a', size: 4096, ops: ['read'], timeout: 300, url: 'file:///disk', sparse: false, dirty: false },
    ...{ inactivityTimeout: undefined, transferId: '(ticket a)', filename: undefined },
  })
})

t.test('the id of a ticket is not shown whole', async (t) => {
  const id = '0123456789abcdef0123456789'
  t.equal(parseTicket(JSON.stringify({ ...ticket, uuid: id }), id).transferId, '(ticket 0123456789abcdef01)')
})

const bad: readonly { name: string; more: object; says: RegExp }[] = [
  { name: 'uuid that is not that of the URL', more: { uuid: 'b' }, says: /"uuid"/ },
  { name: 'size that is missing', more: { size: undefined }, says: /"size" is missing/ },
  { name: 'size below zero', more: { size: -1 }, says: /"size"/ },
  { name: 'size of a boolean', more: { size: true }, says: /"size"/ },
  { name: 'size with a fraction', more: { size: 1.5 }, says: /"size"/ },
  { name: 'ops that are unknown', more: { ops: ['erase'] }, says: /"ops"/ },
  { name: 'ops that are no list', more: { ops: 'read' }, says: /"ops"/ },
  { name: 'timeout of text', more: { timeout: '300' }, says: /"timeout"/ },
  { name: 'url without a scheme', more: { url: '/disk' }, says: /"url"/ },
  { name: 'url with a host', more: { url: 'file://host/disk' }, says: /"url"/ },
  { name: 'url with a NUL', more: { url: 'file:///a\0b' }, says: /"url"/ },
  { name: 'url of another server', more: { url: 'https://host/images/a' }, says: /"url"/ },
  { name: 'url that asks for TLS', more: { url: 'nbds://host/e' }, says: /"url"/ },
  { name: 'url of NBD that is none', more: { url: 'nbd:unix:' }, says: /"url"/ },
  { name: 'sparse of a number', more: { sparse: 1 }, says: /"sparse"/ },
  { name: 'inactivity timeout of nothing', more: { inactivity_timeout: 0 }, says: /"inactivity_timeout"/ },
]
for (const { name, more, says } of bad)
  t.test(`${name} is refused and named`, async (t) => {
    t.match(
      refusalOf(() => parse(more)),
      { status: 400, message: says },
    )
  })

for (const url of [
  'nbd:unix:/s',
  'nbd:unix:/s:exportname=e',
  'nbd:host:10809',
  'nbd://host/e',
  'nbd+unix:///e?socket=/s',
])
  t.test(`${url} is taken`, async (t) => t.equal(parse({ url }).url, url))

t.test('changes of images', async (t) => {
  t.strictSame(parsePatch('{"op":"zero","size":8}'), { op: 'zero', offset: 0, size: 8, flush: false })
  t.strictSame(parsePatch('{"op":"flush","size":"any"}'), { op: 'flush' })
  for (const text of [
    '',
    '[]',
    'null',
    '{}',
    '{"op":"zero"}',
    '{"op":"zero","size":1,"offset":-1}',
    '{"op":1}',
  ])
    t.match(
      refusalOf(() => parsePatch(text)),
      { status: 400 },
      text,
    )
  t.match(
    refusalOf(() => parsePatch('{"op":"zero","size":1,"flush":"y"}')),
    { status: 400, message: /"flush"/ },
  )
})

t.test('a ticket is extended by whole seconds', async (t) => {
  t.equal(parseExtension('{"timeout":0}'), 0)
  t.match(
    refusalOf(() => parseExtension('{"timeout":-1}')),
    { status: 400 },
  )
  t.match(
    refusalOf(() => parseExtension('{}')),
    { status: 400 },
  )
})
