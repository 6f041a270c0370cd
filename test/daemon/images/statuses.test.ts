// SPDX-License-Identifier: Apache-2.0
// The statuses of the images API as other programs see them: curl and Node's fetch ask for the same, and are told the same.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import t from 'tap'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { installed } from '../../helpers/program.js'
import { fill, MiB, Scratch } from '../../helpers/scratch.js'

const skip = installed('curl') ? false : 'no curl'

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
const daemon = await ImagesDaemon.start(scratch)
t.teardown(() => daemon[Symbol.asyncDispose]())
fill(scratch.file('data'), MiB)
const content = readFileSync(scratch.file('data'))
await daemon.ticket('rw', 'data', MiB)
await daemon.ticket('ro', 'data', MiB, { ops: ['read'] })
await daemon.ticket('old', 'data', MiB, { timeout: 0 })
await daemon.ticket('absent', 'absent', MiB)
await daemon.ticket('half', 'data', MiB / 2)

interface Row {
  readonly status: number
  readonly method: string
  readonly path: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
}

const many = Object.fromEntries(Array.from({ length: 101 }, (_, index) => [`x-${index}`, 'y']))
const images: readonly Row[] = [
  { status: 200, method: 'OPTIONS', path: '/images/rw' },
  { status: 200, method: 'OPTIONS', path: '/images/*' },
  { status: 200, method: 'GET', path: '/images/rw' },
  { status: 200, method: 'GET', path: '/images/rw/extents' },
  { status: 200, method: 'GET', path: '/images/rw/extents?context=zero' },
  { status: 200, method: 'GET', path: '/images/rw/checksum' },
  { status: 200, method: 'GET', path: '/images/any/checksum/algorithms' },
  { status: 200, method: 'GET', path: '/info/' },
  { status: 200, method: 'PUT', path: '/images/rw?flush=n', body: content.toString('latin1', 0, 0) },
  { status: 200, method: 'PATCH', path: '/images/rw', body: '{"op":"flush"}' },
  { status: 200, method: 'PATCH', path: '/images/rw', body: '{"op":"zero","size":0,"flush":true}' },
  { status: 206, method: 'GET', path: '/images/rw', headers: { range: 'bytes=0-9' } },
  { status: 206, method: 'GET', path: '/images/rw', headers: { range: 'bytes=1000-' } },
  { status: 400, method: 'GET', path: '/images/' },
  { status: 400, method: 'GET', path: '/images/rw?close=maybe' },
  { status: 400, method: 'GET', path: '/images/rw/extents?context=blue' },
  { status: 400, method: 'GET', path: '/images/rw/checksum?algorithm=md5' },
  { status: 400, method: 'GET', path: '/images/rw/checksum?block_size=1' },
  { status: 400, method: 'GET', path: '/images/%zz' },
  { status: 400, method: 'PUT', path: '/images/rw?flush=maybe', body: 'x' },
  { status: 400, method: 'PUT', path: '/images/rw', body: 'x', headers: { 'content-range': 'bytes 9-0/*' } },
  { status: 400, method: 'PUT', path: '/images/rw', body: 'x', headers: { 'content-range': 'bytes 0-9/9' } },
  { status: 400, method: 'PATCH', path: '/images/rw', body: 'no JSON' },
  { status: 400, method: 'PATCH', path: '/images/rw', body: '{"op":"trim"}' },
  { status: 400, method: 'PATCH', path: '/images/rw', body: '{"op":"zero","size":-1}' },
  { status: 400, method: 'PATCH', path: '/images/rw', body: '{"op":"zero","size":1.5}' },
  { status: 403, method: 'GET', path: '/images/nobody' },
  { status: 403, method: 'GET', path: '/images/old' },
  { status: 403, method: 'PUT', path: '/images/ro', body: 'x' },
  { status: 403, method: 'PATCH', path: '/images/ro', body: '{"op":"flush"}' },
  { status: 404, method: 'GET', path: '/nothing' },
  { status: 404, method: 'GET', path: '/tickets/rw' },
  { status: 404, method: 'GET', path: '/images/rw/extents?context=dirty' },
  { status: 405, method: 'POST', path: '/images/rw', body: 'x' },
  { status: 405, method: 'DELETE', path: '/images/rw' },
  { status: 405, method: 'PUT', path: '/images/rw/extents', body: 'x' },
  { status: 405, method: 'POST', path: '/info/', body: 'x' },
  { status: 413, method: 'PATCH', path: '/images/rw', body: ' '.repeat(MiB + 1) },
  { status: 414, method: 'GET', path: `/images/${'x'.repeat(5000)}` },
  { status: 416, method: 'GET', path: '/images/rw', headers: { range: 'bytes=-5' } },
  { status: 416, method: 'GET', path: '/images/rw', headers: { range: `bytes=0-${MiB}` } },
  { status: 416, method: 'GET', path: '/images/half', headers: { range: `bytes=${MiB / 2}-` } },
  {
    status: 416,
    method: 'PUT',
    path: '/images/half',
    body: 'x',
    headers: { 'content-range': `bytes ${MiB / 2}-*/*` },
  },
  { status: 416, method: 'PATCH', path: '/images/half', body: `{"op":"zero","size":${MiB}}` },
  { status: 431, method: 'GET', path: '/images/rw', headers: many },
  { status: 500, method: 'GET', path: '/images/absent' },
]

const ticket = { uuid: 'new', size: 1, ops: ['read'], timeout: 9, url: `file://${scratch.file('data')}` }
const tickets: readonly Row[] = [
  { status: 200, method: 'PUT', path: '/tickets/new', body: JSON.stringify(ticket) },
  { status: 200, method: 'GET', path: '/tickets/new' },
  { status: 200, method: 'PATCH', path: '/tickets/new', body: '{"timeout":9}' },
  { status: 204, method: 'DELETE', path: '/tickets/new' },
  { status: 204, method: 'DELETE', path: '/tickets/never' },
  { status: 400, method: 'PUT', path: '/tickets/new', body: '{}' },
  { status: 400, method: 'PUT', path: '/tickets/other', body: JSON.stringify(ticket) },
  { status: 400, method: 'PUT', path: '/tickets/', body: JSON.stringify(ticket) },
  { status: 400, method: 'PATCH', path: '/tickets/rw', body: '{"timeout":-1}' },
  { status: 400, method: 'GET', path: '/tickets/' },
  { status: 404, method: 'GET', path: '/tickets/new' },
  { status: 404, method: 'PATCH', path: '/tickets/new', body: '{"timeout":9}' },
  { status: 404, method: 'GET', path: '/images/rw' },
  { status: 404, method: 'GET', path: '/info/' },
  { status: 405, method: 'POST', path: '/tickets/rw', body: 'x' },
]

async function curl(base: readonly string[], { method, path, headers = {}, body }: Row): Promise<number> {
  const fields = Object.entries(headers).flatMap(([name, value]) => ['-H', `${name}: ${value}`])
  const data = body === undefined ? [] : ['--data-binary', '@-', '-H', 'content-type:']
  const [host = '', ...socket] = [...base].reverse()
  const how = ['-s', '-g', '--path-as-is', '-o', '/dev/null', '-w', '%{http_code}', '-X', method]
  const child = spawn('curl', [...how, ...fields, ...data, ...socket.reverse(), host + path])
  let out = ''
  child.stdout.on('data', (bytes: Buffer) => {
    out += bytes.toString()
  })
  child.stdin.on('error', () => undefined)
  child.stdin.end(body)
  await once(child, 'close')
  return Number(out)
}

const named = ({ status, method, path, headers = {} }: Row) =>
  `${status}: ${method} ${path.slice(0, 60)} ${JSON.stringify(headers).slice(0, 60)}`

t.test('curl is told the status of each request for an image', { skip }, async (t) => {
  for (const row of images) t.equal(await curl([daemon.url], row), row.status, named(row))
})

t.test('fetch is told the same', async (t) => {
  for (const row of images) {
    const { method, path, headers = {}, body } = row
    const reply = await fetch(daemon.url + path, { method, headers, ...(body !== undefined && { body }) })
    t.equal(reply.status, row.status, named(row))
    const bytes = Buffer.from(await reply.arrayBuffer())
    if (row.status >= 400) t.match(bytes.toString(), /^[^\n]+\n$/, 'one line')
  }
})

t.test('HEAD has no body for either', { skip }, async (t) => {
  const reply = await fetch(`${daemon.url}/images/rw`, { method: 'HEAD' })
  t.equal(reply.status, 405)
  const child = spawn('curl', [
    '-s',
    '-I',
    '-o',
    '/dev/null',
    '-w',
    '%{http_code}',
    `${daemon.url}/images/rw`,
  ])
  let out = ''
  child.stdout.on('data', (bytes: Buffer) => {
    out += bytes.toString()
  })
  await once(child, 'close')
  t.equal(out, '405')
})

t.test('curl is told the status of each request about tickets', { skip }, async (t) => {
  for (const row of tickets)
    t.equal(await curl(['--unix-socket', daemon.control, 'http://localhost'], row), row.status, named(row))
})

t.test('nothing of this changed the image', async (t) => {
  t.equal(Buffer.compare(readFileSync(scratch.file('data')), content), 0)
})
