// SPDX-License-Identifier: Apache-2.0
// Tickets that end under connections that are not between requests: each connection comes back or is told as gone, however
// its client behaves, and until then the thread it is in serves no other disk.

import t from 'tap'
import { RawConnection } from '../../helpers/images/http-client.js'
import { imageTable } from '../../helpers/images/image-table.js'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { fill, MiB, Scratch } from '../../helpers/scratch.js'

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
fill(scratch.file('data'), MiB)

const OWES_BODY = 'GET /images/t HTTP/1.1\r\nrange: bytes=0-0\r\ncontent-length: 4\r\n\r\n'
const OPTIONS = 'OPTIONS /images/t HTTP/1.1\r\n\r\n'

t.test('a client that owes a body when its ticket is removed is answered on', async (t) => {
  await using daemon = await ImagesDaemon.start(scratch)
  await daemon.ticket('t', 'data', MiB)
  using client = new RawConnection(daemon.local)
  client.send(OWES_BODY)
  await client.until(/^HTTP\/1.1 206 [\s\S]*\r\n\r\n[\s\S]$/)
  t.equal((await daemon.tickets('DELETE', 't')).status, 204)
  // The worker of a disk that nobody uses is free for others; several rounds make sure that it was looked at.
  for (let round = 0; round < 3; round++) {
    await daemon.ticket('other', 'data', MiB)
    t.equal((await daemon.images('OPTIONS', 'other')).status, 200)
    t.equal((await daemon.tickets('DELETE', 'other')).status, 204)
  }
  client.send(`body${OPTIONS}`)
  t.match(await client.until(/HTTP\/1.1 403[\s\S]*\n$/), /no such ticket/)
})

t.test('a client that owes a body when its ticket is replaced goes on with the new one', async (t) => {
  await using daemon = await ImagesDaemon.start(scratch)
  await daemon.ticket('t', 'data', MiB)
  using client = new RawConnection(daemon.local)
  client.send(OWES_BODY)
  await client.until(/^HTTP\/1.1 206 [\s\S]*\r\n\r\n[\s\S]$/)
  await daemon.ticket('t', 'data', MiB, { ops: ['read'] })
  client.send(`body${OPTIONS}`)
  t.match(await client.until(/max_writers/), /"features":\["checksum","extents"\]/)
})

const midst: readonly { readonly name: string; readonly text: string; readonly shows: RegExp }[] = [
  { name: 'between two requests', text: OPTIONS, shows: /max_writers/ },
  { name: 'half a head', text: `${OPTIONS}GET /ima`, shows: /max_writers/ },
  { name: 'a body nobody wants', text: OWES_BODY, shows: /206/ },
  {
    name: 'a refused body',
    text: 'PUT /images/t HTTP/1.1\r\ncontent-length: 1000000\r\ncontent-range: x\r\n\r\n',
    shows: /400/,
  },
  {
    name: 'a PUT',
    text: 'PUT /images/t HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n',
    shows: /100/,
  },
  {
    name: 'the body of a PATCH',
    text: 'PATCH /images/t HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n',
    shows: /100/,
  },
  { name: 'a reply that nobody takes', text: 'GET /images/t HTTP/1.1\r\n\r\n', shows: /^/ },
  { name: 'replies that nobody takes', text: OPTIONS.repeat(4000), shows: /^/ },
]

t.test(
  'every connection is told of once when a ticket is cancelled, whatever it is in the midst of',
  async (t) => {
    const { clock, table, reports, connect } = await imageTable(t, scratch.file('data'))
    for (const { text, shows } of midst) {
      const client = await connect(text)
      await client.until((got) => shows.test(got))
    }
    // All that the server can do it has done: it does sixteen requests of a client in a turn.
    for (let turn = 0; turn < 1000; turn++) await new Promise((resolve) => setImmediate(resolve))
    t.equal(table.clients, midst.length)
    await table.handlers['image-end']({ key: 1, stop: true })
    clock.pass(10_000)
    while (table.size > 0) await new Promise((resolve) => setImmediate(resolve))
    const left = reports.flatMap((report) => (report.kind === 'image-left' ? [report] : []))
    t.strictSame(
      left.map(({ connection }) => connection).sort(),
      midst.map((_, index) => index),
    )
    const back = left
      .filter(({ back }) => back !== undefined)
      .map(({ connection }) => midst[connection]?.name)
    t.strictSame(back.sort(), ['between two requests', 'half a head'])
    t.equal(table.clients, 0)
    t.equal(clock.timers, 0)
  },
)
