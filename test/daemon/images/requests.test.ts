// SPDX-License-Identifier: Apache-2.0
// Requests for images: what is read, written, zeroed and listed, and the status of everything that is refused.

import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { type HttpReply, request } from '../../helpers/images/http-client.js'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { empty, fill, MiB, Scratch } from '../../helpers/scratch.js'

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
const daemon = await ImagesDaemon.start(scratch)
t.teardown(() => daemon[Symbol.asyncDispose]())

const SIZE = 4 * MiB
fill(scratch.file('data'), SIZE)
const content = readFileSync(scratch.file('data'))
await daemon.ticket('rw', 'data', SIZE)
await daemon.ticket('ro', 'data', SIZE, { ops: ['read'] })
await daemon.ticket('none', 'data', SIZE, { ops: [] })
await daemon.ticket('half', 'data', SIZE / 2)
await daemon.ticket('absent', 'absent', SIZE)
await daemon.ticket('expired', 'data', SIZE, { timeout: 0 })
await daemon.ticket('name', 'data', SIZE, { filename: 'a.raw' })

interface Row {
  readonly name: string
  readonly method: string
  readonly path: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
  readonly status: number
  readonly says?: RegExp
  readonly has?: Readonly<Record<string, string>>
}

const octets = { 'content-type': 'application/octet-stream' }
const table: readonly Row[] = [
  {
    name: 'unknown ticket',
    method: 'GET',
    path: 'nobody',
    status: 403,
    says: /no such ticket/,
    has: { connection: 'close' },
  },
  { name: 'expired ticket', method: 'GET', path: 'expired', status: 403, says: /expired/ },
  { name: 'ticket without operations', method: 'GET', path: 'none', status: 403, says: /forbids to read/ },
  { name: 'OPTIONS without operations', method: 'OPTIONS', path: 'none', status: 403 },
  {
    name: 'PUT with a read ticket',
    method: 'PUT',
    path: 'ro',
    body: 'x',
    status: 403,
    says: /forbids to write/,
  },
  { name: 'PATCH with a read ticket', method: 'PATCH', path: 'ro', body: '{"op":"flush"}', status: 403 },
  { name: 'extents without operations', method: 'GET', path: 'none/extents', status: 403 },
  {
    name: 'file that is not there',
    method: 'OPTIONS',
    path: 'absent',
    status: 500,
    says: /^the image cannot be opened\n$/,
  },
  { name: 'misspelt sub-resource', method: 'GET', path: 'rw/extent', status: 403 },
  { name: 'empty ticket', method: 'GET', path: '', status: 400 },
  { name: 'POST', method: 'POST', path: 'rw', status: 405, has: { allow: 'OPTIONS,GET,PUT,PATCH' } },
  { name: 'DELETE', method: 'DELETE', path: 'rw', status: 405 },
  { name: 'PUT of extents', method: 'PUT', path: 'rw/extents', body: 'x', status: 405 },
  { name: 'HEAD', method: 'HEAD', path: 'rw', status: 405 },
  { name: 'suffix range', method: 'GET', path: 'rw', headers: { range: 'bytes=-5' }, status: 416 },
  { name: 'two ranges', method: 'GET', path: 'rw', headers: { range: 'bytes=0-1,4-5' }, status: 416 },
  {
    name: 'range beyond the end',
    method: 'GET',
    path: 'rw',
    headers: { range: `bytes=0-${SIZE}` },
    status: 416,
    has: { 'content-range': `bytes */${SIZE}` },
  },
  {
    name: 'range from the end on',
    method: 'GET',
    path: 'rw',
    headers: { range: `bytes=${SIZE}-` },
    status: 416,
  },
  {
    name: 'range beyond the ticket',
    method: 'GET',
    path: 'half',
    headers: { range: `bytes=0-${SIZE / 2}` },
    status: 416,
    has: { 'content-range': `bytes */${SIZE / 2}` },
  },
  { name: 'switch that is none', method: 'GET', path: 'rw?close=1', status: 400 },
  {
    name: 'content-range that is none',
    method: 'PUT',
    path: 'rw',
    body: 'x',
    headers: { 'content-range': 'bytes */9' },
    status: 400,
  },
  {
    name: 'PUT beyond the ticket',
    method: 'PUT',
    path: 'half',
    body: 'xy',
    headers: { 'content-range': `bytes ${SIZE / 2 - 1}-*/*` },
    status: 416,
    has: { 'content-range': `bytes */${SIZE / 2}` },
  },
  {
    name: 'PUT in chunks',
    method: 'PUT',
    path: 'rw',
    body: 'x',
    headers: { 'transfer-encoding': 'chunked' },
    status: 400,
  },
  { name: 'PUT with a flush that is none', method: 'PUT', path: 'rw?flush=maybe', body: 'x', status: 400 },
  { name: 'PATCH of no JSON', method: 'PATCH', path: 'rw', body: 'zero', status: 400 },
  { name: 'PATCH of a list', method: 'PATCH', path: 'rw', body: '[]', status: 400 },
  { name: 'PATCH of another operation', method: 'PATCH', path: 'rw', body: '{"op":"trim"}', status: 400 },
  {
    name: 'zero beyond the ticket',
    method: 'PATCH',
    path: 'half',
    body: `{"op":"zero","size":${SIZE}}`,
    status: 416,
  },
  { name: 'extents of another context', method: 'GET', path: 'rw/extents?context=blue', status: 400 },
  { name: 'dirty extents', method: 'GET', path: 'rw/extents?context=dirty', status: 404 },
  {
    name: 'whole image',
    method: 'GET',
    path: 'rw',
    status: 200,
    has: { ...octets, 'content-disposition': 'attachment', 'content-length': String(SIZE) },
  },
  {
    name: 'half an image',
    method: 'GET',
    path: 'half',
    status: 200,
    has: { 'content-length': String(SIZE / 2) },
  },
  {
    name: 'range',
    method: 'GET',
    path: 'rw',
    headers: { range: 'bytes=5-6' },
    status: 206,
    has: { 'content-range': `bytes 5-6/${SIZE}`, 'content-length': '2' },
  },
  {
    name: 'file name',
    method: 'GET',
    path: 'name',
    headers: { range: 'bytes=0-0' },
    status: 206,
    has: { 'content-disposition': 'attachment; filename=a.raw' },
  },
  {
    name: 'close',
    method: 'GET',
    path: 'rw?close=y',
    headers: { range: 'bytes=0-0' },
    status: 206,
    has: { connection: 'close' },
  },
  {
    name: 'preflight',
    method: 'OPTIONS',
    path: 'rw',
    headers: {
      origin: 'https://a',
      'access-control-request-method': 'PUT',
      'access-control-request-headers': 'x',
    },
    status: 200,
    has: {
      'access-control-allow-origin': '*',
      'access-control-allow-headers': '*',
      'access-control-allow-methods': 'OPTIONS,GET,PUT',
      'access-control-max-age': '86400',
    },
  },
  {
    name: 'flush',
    method: 'PATCH',
    path: 'rw',
    body: '{"op":"flush"}',
    status: 200,
    has: { 'content-length': '0' },
  },
  {
    name: 'PUT of nothing',
    method: 'PUT',
    path: 'rw',
    body: '',
    headers: { 'content-length': '0' },
    status: 200,
  },
]

for (const { name, method, path, headers, body, status, says, has } of table)
  t.test(`${name}: ${method} is answered with ${status}`, async (t) => {
    const reply = await daemon.images(method, path, headers, body)
    t.equal(reply.status, status)
    if (says !== undefined) t.match(reply.text, says)
    if (has !== undefined) t.match(reply.headers, has)
    if (status >= 400 && method !== 'HEAD') {
      t.equal(reply.headers['content-type'], 'text/plain; charset=UTF-8')
      t.match(reply.text, /^[^\n]+\n$/, 'one line')
      t.notMatch(reply.text, scratch.path, 'without a path')
    }
  })

t.test('nothing of this changed the image', async (t) => {
  t.equal(Buffer.compare(readFileSync(scratch.file('data')), content), 0)
  t.equal((await daemon.tickets('GET', 'half')).status, 200)
})

t.test('OPTIONS says what can be done', async (t) => {
  const writable = await daemon.images('OPTIONS', 'rw')
  t.equal(writable.headers.allow, 'OPTIONS,GET,PUT,PATCH')
  t.strictSame(JSON.parse(writable.text), {
    ...{
      features: ['checksum', 'extents', 'flush', 'zero'],
      unix_socket: daemon.local,
      max_readers: 8,
      max_writers: 8,
    },
  })
  const readable = await daemon.images('OPTIONS', 'ro')
  t.equal(readable.headers.allow, 'OPTIONS,GET')
  t.strictSame(JSON.parse(readable.text).features, ['checksum', 'extents'])
  const server = await daemon.images('OPTIONS', '*')
  t.strictSame(JSON.parse(server.text), { features: ['checksum', 'extents', 'flush', 'zero'] })
})

t.test('the version is told to whoever asks over TCP', async (t) => {
  const reply = await fetch(`${daemon.url}/info/`)
  t.equal(reply.status, 200)
  t.match(await reply.json(), { version: /^\d+\.\d+/ })
  t.equal((await request(daemon.local, 'GET', '/info/')).status, 404)
  t.equal((await request(daemon.local, 'GET', '/tickets/rw')).status, 404)
  t.equal((await request(daemon.control, 'GET', '/images/rw')).status, 404)
})

t.test('what was put is read again, at any offset and length', async (t) => {
  const model = Buffer.from(content)
  const ranges: readonly [number, number][] = [
    ...([
      [0, 1],
      [511, 2],
      [4095, 4098],
      [100, 1_000_000],
      [MiB - 1, 2 * MiB + 2],
    ] as const),
    ...([
      [SIZE - 1, 1],
      [SIZE - 4097, 4097],
      [4096, 4096],
      [0, SIZE],
    ] as const),
  ].map(([offset, length]) => [offset, length])
  for (const [index, [offset, length]] of ranges.entries()) {
    const bytes = Buffer.alloc(length, 100 + index)
    bytes[0] = 1
    bytes.copy(model, offset)
    const headers = { 'content-range': `bytes ${offset}-${offset + length - 1}/*` }
    const put = await daemon.images('PUT', `rw?flush=${index % 2 === 0 ? 'y' : 'n'}`, headers, bytes)
    t.equal(put.status, 200, `PUT ${offset} ${length}`)
    const got = await daemon.images('GET', 'rw', { range: `bytes=${offset}-${offset + length - 1}` })
    t.equal(Buffer.compare(got.bytes, bytes), 0, `GET ${offset} ${length}`)
  }
  t.equal(Buffer.compare(readFileSync(scratch.file('data')), model), 0)
})

t.test('what a read ticket sees is what was written last', async (t) => {
  await daemon.images('PUT', 'rw', { 'content-range': 'bytes 8192-*/*' }, 'fresh')
  const { text } = await daemon.images('GET', 'ro', { range: 'bytes=8192-8196' })
  t.equal(text, 'fresh')
})

t.test('zeroes read as zeroes, and nothing beside them', async (t) => {
  fill(scratch.file('zeroes'), SIZE)
  const model = readFileSync(scratch.file('zeroes'))
  await daemon.ticket('zeroes', 'zeroes', SIZE)
  for (const [offset, size] of [
    [0, 4096],
    [100, 10000],
    [MiB, MiB],
    [SIZE - 3, 3],
    [5, 0],
  ] as const) {
    model.fill(0, offset, offset + size)
    const body = JSON.stringify({ op: 'zero', offset, size, flush: true })
    t.equal((await daemon.images('PATCH', 'zeroes', {}, body)).status, 200)
  }
  t.equal(Buffer.compare(readFileSync(scratch.file('zeroes')), model), 0)
})

t.test('extents cover the image and merge neighbours', async (t) => {
  empty(scratch.file('sparse'), 3 * MiB)
  await daemon.ticket('sparse', 'sparse', 3 * MiB)
  await daemon.images('PUT', 'sparse', { 'content-range': `bytes ${MiB}-*/*` }, Buffer.alloc(MiB, 5))
  const { status, text, headers } = await daemon.images('GET', 'sparse/extents')
  t.equal(status, 200)
  t.equal(headers['content-type'], 'application/json')
  t.strictSame(JSON.parse(text), [
    { start: 0, length: MiB, zero: true, hole: false },
    { start: MiB, length: MiB, zero: false, hole: false },
    { start: 2 * MiB, length: MiB, zero: true, hole: false },
  ])
})

t.test('a file that others change is looked at anew by a read ticket', async (t) => {
  empty(scratch.file('others'), MiB)
  await daemon.ticket('others', 'others', MiB, { ops: ['read'] })
  const before = JSON.parse((await daemon.images('GET', 'others/extents')).text)
  writeFileSync(scratch.file('others'), Buffer.alloc(MiB / 2, 7))
  truncateSync(scratch.file('others'), MiB / 2)
  const after = JSON.parse((await daemon.images('GET', 'others/extents')).text)
  t.strictSame(before, [{ start: 0, length: MiB, zero: true, hole: false }])
  t.strictSame(after, [{ start: 0, length: MiB / 2, zero: false, hole: false }])
})

t.test('an empty image is read as nothing', async (t) => {
  writeFileSync(scratch.file('nothing'), '')
  await daemon.ticket('nothing', 'nothing', MiB, { ops: ['read'] })
  const reply: HttpReply = await daemon.images('GET', 'nothing')
  t.match(reply, { status: 200, text: '' })
  t.equal((await daemon.images('GET', 'nothing/extents')).text, '[]')
  t.equal((await daemon.images('GET', 'nothing', { range: 'bytes=0-0' })).status, 416)
})
