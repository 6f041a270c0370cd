// SPDX-License-Identifier: Apache-2.0
// Clients as they should not be: slow, half open, pipelining, lying about lengths, or not speaking HTTP at all.

import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import t from 'tap'
import { RawConnection } from '../../helpers/images/http-client.js'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { fill, MiB, Scratch } from '../../helpers/scratch.js'

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
const daemon = await ImagesDaemon.start(scratch)
t.teardown(() => daemon[Symbol.asyncDispose]())
fill(scratch.file('data'), MiB)
const content = readFileSync(scratch.file('data'))
await daemon.ticket('t', 'data', MiB)

/** @returns everything that comes until the other side closes */
async function exchange(text: string | Uint8Array): Promise<string> {
  using client = new RawConnection(daemon.local)
  client.send(text)
  return await client.closed()
}

const refused: readonly { name: string; text: string; status: number }[] = [
  { name: 'nonsense', text: 'nonsense\r\n\r\n', status: 400 },
  { name: 'TLS', text: '\x16\x03\x01\0\xa5\x01\0\0\xa1\r\n\r\n', status: 400 },
  { name: 'HTTP/2', text: 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', status: 505 },
  { name: 'a long line', text: `GET /images/${'x'.repeat(5000)}`, status: 414 },
  { name: 'many headers', text: `GET /images/t HTTP/1.1\r\n${'a: b\r\n'.repeat(200)}\r\n`, status: 431 },
  { name: 'endless headers', text: `GET /images/t HTTP/1.1\r\n${'a: b\r\n'.repeat(20000)}`, status: 431 },
  {
    name: 'two lengths',
    text: 'PUT /images/t HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx',
    status: 400,
  },
]
for (const { name, text, status } of refused)
  t.test(`${name} is refused with ${status} and cut off`, async (t) => {
    const reply = await exchange(Buffer.from(text, 'latin1'))
    t.match(reply, new RegExp(`^HTTP/1.1 ${status} `))
    t.match(reply, /\r\nconnection: close\r\n/)
  })

t.test('pipelined requests are answered in order', async (t) => {
  const one = 'GET /images/t HTTP/1.1\r\nrange: bytes=0-0\r\n\r\n'
  const put = 'PUT /images/t HTTP/1.1\r\ncontent-length: 3\r\ncontent-range: bytes 0-2/*\r\n\r\nabc'
  const last = 'GET /images/t HTTP/1.1\r\nrange: bytes=0-2\r\nconnection: close\r\n\r\n'
  const text = await exchange(
    `${one}${put}PATCH /images/t HTTP/1.1\r\ncontent-length: 14\r\n\r\n{"op":"flush"}${last}`,
  )
  t.strictSame(
    text.match(/HTTP\/1.1 \d+/g),
    [206, 200, 200, 206].map((status) => `HTTP/1.1 ${status}`),
  )
  t.ok(text.endsWith('abc'))
  await exchange(
    'PUT /images/t HTTP/1.1\r\nconnection: close\r\ncontent-length: 3\r\n\r\n' +
      content.toString('latin1', 0, 3),
  )
})

t.test('a client that sends requests and takes no replies waits, and others are served', async (t) => {
  const one = Buffer.from('GET /info/ HTTP/1.1\r\n\r\n')
  const many = 200_000
  const client = connect(daemon.local)
  t.teardown(() => client.destroy())
  client.pause()
  client.write(Buffer.concat(Array.from({ length: many }, () => one)))
  await once(client, 'connect')
  for (let taken = -1; taken !== client.bytesWritten - client.writableLength; ) {
    taken = client.bytesWritten - client.writableLength
    await exchange('GET /info/ HTTP/1.1\r\nconnection: close\r\n\r\n')
  }
  t.ok(client.writableLength > 0, 'not all of them were taken')
  let replies = 0
  let rest = ''
  client.on('data', (bytes: Buffer) => {
    const parts = (rest + bytes.toString('latin1')).split('HTTP/1.1 404 ')
    replies += parts.length - 1
    rest = (parts.at(-1) ?? '').slice(-12)
  })
  client.resume()
  while (replies < many) await once(client, 'data')
  t.equal(replies, many)
})

t.test('requests for tickets and for none are pipelined too', async (t) => {
  const ask = (path: string, more = '') => `OPTIONS /images/${path} HTTP/1.1\r\n${more}\r\n`
  const text = await exchange(ask('*') + ask('t') + ask('*') + ask('t', 'connection: close\r\n'))
  t.equal(text.match(/HTTP\/1.1 200/g)?.length, 4)
})

t.test('HTTP/1.0 is answered and closed', async (t) => {
  const text = await exchange('GET /images/t HTTP/1.0\r\nrange: bytes=0-4\r\n\r\n')
  t.match(text, /^HTTP\/1.1 206 [\s\S]*connection: close\r\n\r\n.{5}$/)
})

t.test('a body that was asked for is invited, one that is refused is not', async (t) => {
  using invited = new RawConnection(daemon.local)
  const head = (range: string) =>
    `PUT /images/t HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 3\r\ncontent-range: ${range}\r\n\r\n`
  invited.send(head('bytes 0-2/*'))
  await invited.until(/^HTTP\/1.1 100 Continue\r\n\r\n$/)
  invited.send(content.subarray(0, 3))
  await invited.until(/HTTP\/1.1 200 OK/)
  const refusedText = await exchange(head(`bytes ${MiB}-*/*`))
  t.match(refusedText, /^HTTP\/1.1 416 [\s\S]*connection: close/)
})

t.test('a body that is refused is read away, so that the client can read why', async (t) => {
  const body = Buffer.alloc(8 * MiB, 1)
  const head = `PUT /images/nobody HTTP/1.1\r\ncontent-length: ${body.length}\r\n\r\n`
  t.match(await exchange(Buffer.concat([Buffer.from(head), body])), /^HTTP\/1.1 403 /)
})

t.test('a short body that nobody wants does not become a request', async (t) => {
  const get = 'GET /images/t HTTP/1.1\r\nrange: bytes=0-0\r\n'
  const text = await exchange(`${get}content-length: 4\r\n\r\nBAD \r\n${get}connection: close\r\n\r\n`)
  t.equal(text.match(/HTTP\/1.1 206/g)?.length, 2)
})

t.test('a body that ends early is told, and what came was written', async (t) => {
  using client = new RawConnection(daemon.local)
  client.send('PUT /images/t HTTP/1.1\r\ncontent-length: 100\r\ncontent-range: bytes 4096-*/*\r\n\r\nstart')
  client.socket.end()
  t.match(await client.closed(), /^HTTP\/1.1 400 [\s\S]*5 of the 100 bytes/)
  const { text } = await daemon.images('GET', 't', { range: 'bytes=4096-4100' })
  t.equal(text, 'start')
})

t.test('HEAD has no body that would be taken for a reply', async (t) => {
  const text = await exchange(
    'HEAD /images/t HTTP/1.1\r\n\r\nOPTIONS /images/* HTTP/1.1\r\nconnection: close\r\n\r\n',
  )
  t.strictSame(text.match(/HTTP\/1.1 \d+/g), ['HTTP/1.1 405', 'HTTP/1.1 200'])
  t.match(text, /\r\n\r\nHTTP\/1.1 200/)
})

t.test('two hundred slow and two hundred half-open clients leave the others alone', async (t) => {
  fill(scratch.file('other'), MiB)
  await daemon.ticket('other', 'other', MiB)
  const clients = Array.from({ length: 400 }, (_, index) => {
    const client = new RawConnection(daemon.local)
    if (index % 4 === 1) client.send('GET /ima')
    if (index % 4 === 2) client.send('PUT /images/t HTTP/1.1\r\ncontent-length: 1000000\r\n\r\nx')
    if (index % 4 === 3) {
      client.socket.pause()
      client.send('GET /images/t HTTP/1.1\r\n\r\n')
    }
    return client
  })
  t.teardown(() => {
    for (const client of clients) client[Symbol.dispose]()
  })
  const connections = async () => JSON.parse((await daemon.tickets('GET', 't')).text).connections as number
  while ((await connections()) < 200);
  for (const id of ['t', 'other'])
    for (let round = 0; round < 20; round++) {
      const body = Buffer.alloc(4096, round + 1)
      const put = await daemon.images('PUT', id, { 'content-range': 'bytes 8192-*/*' }, body)
      t.equal(put.status, 200)
      const { bytes } = await daemon.images('GET', id, { range: 'bytes=8192-12287' })
      t.equal(Buffer.compare(bytes, body), 0)
      t.equal((await daemon.images('GET', `${id}/extents`)).status, 200)
    }
  t.equal((await daemon.images('GET', 'other/checksum')).status, 200)
  t.equal(await connections(), 200, 'they are there still')
})

t.test('any bytes leave the daemon as it was', async (t) => {
  const seed = Number(process.env.SEED ?? Date.now() % 1e9)
  t.comment(`seed ${seed}`)
  let state = seed
  const random = (below: number) => {
    state = (state * 1103515245 + 12345) % 2147483648
    return Math.floor((state / 2147483648) * below)
  }
  const parts = [
    'GET ',
    'PUT ',
    '/images/t',
    '/images/',
    ' HTTP/1.1\r\n',
    '\r\n',
    'content-length: ',
    '5',
    'range: bytes=',
    '0-1',
    ': ',
    '\0',
    'expect: 100-continue\r\n',
  ]
  for (let round = 0; round < 200; round++) {
    using client = new RawConnection(daemon.local)
    const text = Array.from({ length: 1 + random(12) }, () => parts[random(parts.length)]).join('')
    client.send(text)
    client.socket.end()
    const reply = await client.closed()
    if (reply !== '') t.match(reply, /^HTTP\/1.1 [2345]\d\d /, JSON.stringify(text))
  }
  t.equal((await daemon.images('OPTIONS', 't')).status, 200)
})
