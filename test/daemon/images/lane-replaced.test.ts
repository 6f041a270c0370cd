// SPDX-License-Identifier: Apache-2.0
// A request that a lane has in part when its ticket ends: it began under that ticket, and is never done under another one.

import { readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { RawConnection } from '../../helpers/images/http-client.js'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { fill, MiB, Scratch } from '../../helpers/scratch.js'
import { allRead } from '../../helpers/socket-queue.js'

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
const BLOCK = 4096
/** More than are needed before a lane. */
const ROW = 40
const PLACE = 100 * BLOCK

const put = (at: number, bytes: string) =>
  `PUT /images/t?flush=n HTTP/1.1\r\ncontent-range: bytes ${at}-${at + bytes.length - 1}/*\r\n` +
  `content-length: ${bytes.length}\r\n\r\n${bytes}`

/** A client on a lane of a ticket for the file `old`, and the file `new`. */
async function onLane(t: Test) {
  for (const name of ['old', 'new']) fill(scratch.file(name), MiB)
  const daemon = await ImagesDaemon.start(scratch)
  t.teardown(() => daemon[Symbol.asyncDispose]())
  await daemon.ticket('t', 'old', MiB)
  const { hostname: host, port } = new URL(daemon.url)
  const client = new RawConnection({ host, port: Number(port) })
  t.teardown(() => client[Symbol.dispose]())
  const replies = (count: number) => (text: string) =>
    text.endsWith('\r\n\r\n') && text.split('HTTP/1.1 200').length > count
  for (let index = 0; index < ROW; index++) {
    client.send(put(index * BLOCK, 'x'.repeat(BLOCK)))
    await client.until(replies(index + 1))
  }
  /** Sends it, and sees that it was received. */
  const sendPart = async (text: string) => {
    await client.sent(text)
    await allRead(Number(port), client.socket.localPort ?? 0)
  }
  const bytesOf = (name: string) => readFileSync(scratch.file(name)).toString('latin1', PLACE, PLACE + BLOCK)
  return { daemon, client, replies, sendPart, bytesOf }
}

for (const came of [0, 1, BLOCK / 2, BLOCK - 1])
  t.test(
    `a PUT with ${came} bytes of its body when its ticket is replaced is written where it began`,
    async (t) => {
      const { daemon, client, replies, sendPart, bytesOf } = await onLane(t)
      const before = bytesOf('new')
      const bytes = 'z'.repeat(BLOCK)
      const text = put(PLACE, bytes)
      await sendPart(text.slice(0, text.length - BLOCK + came))
      await daemon.ticket('t', 'new', MiB)
      client.send(text.slice(text.length - BLOCK + came))
      await client.until(replies(ROW + 1))
      t.equal(bytesOf('old'), bytes)
      t.equal(bytesOf('new'), before)
      client.send(put(PLACE, 'n'.repeat(BLOCK)))
      await client.until(replies(ROW + 2))
      t.equal(bytesOf('new'), 'n'.repeat(BLOCK), 'the next request is for the new ticket')
      t.equal(bytesOf('old'), bytes)
    },
  )

t.test('a PUT with a part of its body is refused when its ticket is removed and comes again', async (t) => {
  const { daemon, client, sendPart, bytesOf } = await onLane(t)
  const [old, before] = [bytesOf('old'), bytesOf('new')]
  await sendPart(put(PLACE, 'z'.repeat(BLOCK)).slice(0, -1000))
  t.equal((await daemon.tickets('DELETE', 't')).status, 204)
  await daemon.ticket('t', 'new', MiB)
  client.send('z'.repeat(1000))
  t.match(await client.until(/HTTP\/1.1 (?!200)/), /HTTP\/1.1 403/)
  t.strictSame([bytesOf('old'), bytesOf('new')], [old, before])
})

t.test('a client with a part of a PUT that goes away lets its ticket end', async (t) => {
  const { daemon, client, sendPart } = await onLane(t)
  await sendPart(put(PLACE, 'z'.repeat(BLOCK)).slice(0, -1000))
  client.socket.destroy()
  while (JSON.parse((await daemon.tickets('GET', 't')).text).connections > 0);
  t.match(JSON.parse((await daemon.tickets('GET', 't')).text), { active: false })
  t.equal((await daemon.tickets('DELETE', 't')).status, 204)
})
