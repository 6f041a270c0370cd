// SPDX-License-Identifier: Apache-2.0
// Heads of HTTP requests: what is understood, what is refused, and that anything else is one of the two.

import fc from 'fast-check'
import t from 'tap'
import { checkUnfinished, findHeadEnd, headLimits, parseHead } from '../../../protocol/http/head.js'
import { holds } from '../../helpers/property.js'
import { refusalOf } from '../../helpers/refusal.js'

function statusOf(text: string): number | undefined {
  return refusalOf(() => parseHead(text))?.status
}

t.test('a request as curl sends it', async (t) => {
  const head = parseHead(
    'PUT /images/x?flush=n HTTP/1.1\r\nHost: a:1\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\n',
  )
  t.match(head, {
    ...{ method: 'PUT', target: '/images/x?flush=n', contentLength: 12, chunked: false },
    ...{ expectsContinue: true, keepAlive: true, minor: 1 },
  })
  t.equal(head.headers.get('host'), 'a:1')
})

const kept = [
  { name: 'HTTP/1.1', text: 'GET / HTTP/1.1\r\n\r\n', keepAlive: true },
  { name: 'HTTP/1.1 that closes', text: 'GET / HTTP/1.1\r\nconnection: Close\r\n\r\n', keepAlive: false },
  { name: 'HTTP/1.0', text: 'GET / HTTP/1.0\r\n\r\n', keepAlive: false },
  {
    name: 'HTTP/1.0 that goes on',
    text: 'GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n',
    keepAlive: true,
  },
]
for (const { name, text, keepAlive } of kept)
  t.test(`${name} is kept alive or not`, async (t) => t.equal(parseHead(text).keepAlive, keepAlive))

const refused = [
  { name: 'no version', text: 'GET /\r\n\r\n', status: 400 },
  { name: 'two spaces', text: 'GET  / HTTP/1.1\r\n\r\n', status: 400 },
  { name: 'another version', text: 'GET / HTTP/2.0\r\n\r\n', status: 505 },
  { name: 'a long line', text: `GET /${'x'.repeat(headLimits.line)} HTTP/1.1\r\n\r\n`, status: 414 },
  { name: 'many headers', text: `GET / HTTP/1.1\r\n${'a: b\r\n'.repeat(101)}\r\n`, status: 431 },
  {
    name: 'long headers',
    text: `GET / HTTP/1.1\r\na: ${'b'.repeat(headLimits.headers)}\r\n\r\n`,
    status: 431,
  },
  { name: 'a space before the colon', text: 'GET / HTTP/1.1\r\nhost : a\r\n\r\n', status: 400 },
  { name: 'a folded line', text: 'GET / HTTP/1.1\r\nhost: a\r\n b\r\n\r\n', status: 400 },
  {
    name: 'two lengths',
    text: 'PUT / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n',
    status: 400,
  },
  { name: 'a negative length', text: 'PUT / HTTP/1.1\r\ncontent-length: -1\r\n\r\n', status: 400 },
  { name: 'a huge length', text: 'PUT / HTTP/1.1\r\ncontent-length: 9999999999999999\r\n\r\n', status: 400 },
  {
    name: 'length and chunks',
    text: 'PUT / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n',
    status: 400,
  },
  { name: 'another encoding', text: 'PUT / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n', status: 400 },
]
for (const { name, text, status } of refused)
  t.test(`${name} is refused with ${status}`, async (t) => t.equal(statusOf(text), status))

t.test('the same length twice is one length', async (t) => {
  t.equal(parseHead('PUT / HTTP/1.1\r\ncontent-length: 7\r\ncontent-length: 7\r\n\r\n').contentLength, 7)
})

t.test('the end of a head is found wherever its bytes are cut', async (t) => {
  const bytes = Buffer.from('GET / HTTP/1.1\r\na: b\r\n\r\nbody')
  const end = bytes.length - 4
  for (let to = 0; to <= bytes.length; to++)
    for (let looked = 0; looked <= Math.min(to, end - 1); looked++)
      t.equal(findHeadEnd(bytes, 0, to, looked), to >= end ? end : undefined)
})

t.test('a head without end is refused when it is too long', async (t) => {
  const line = Buffer.alloc(headLimits.line + 2, 'x')
  t.match(
    refusalOf(() => checkUnfinished(line, 0, line.length)),
    { status: 414 },
  )
  const headers = Buffer.from(`GET / HTTP/1.1\r\n${'a: b\r\n'.repeat(13000)}`)
  t.match(
    refusalOf(() => checkUnfinished(headers, 0, headers.length)),
    { status: 431 },
  )
  t.doesNotThrow(() => checkUnfinished(line, 0, headLimits.line))
})

t.test('any text is a request or a refusal', async (t) => {
  const part = fc.oneof(
    fc.constantFrom('GET ', 'PUT ', '/', ' HTTP/1.1', '\r\n', ':', 'content-length: ', '\0', '\n', ' ', ','),
    fc.string({ unit: 'binary', maxLength: 8 }),
  )
  holds(
    t,
    fc.property(fc.array(part, { maxLength: 30 }), (parts) => {
      const status = statusOf(parts.join(''))
      return status === undefined || [400, 414, 431, 505].includes(status)
    }),
    3000,
  )
})
