// SPDX-License-Identifier: Apache-2.0
// A connection that is wanted back by whoever served it before: nothing of what was answered is lost, and nothing of what
// was not.

import t from 'tap'
import type { Exchange } from '../../../daemon/http/exchange.js'
import { type Answerer, serveRequests } from '../../../daemon/http/serve.js'
import { HttpStream } from '../../../daemon/http/stream.js'
import { httpPair, LIMITS } from '../../helpers/http-pair.js'

const KiB = 1024
const REQUEST = 'GET /images/t HTTP/1.1\r\n\r\n'

/** Answers everything with so many bytes. */
class Plain implements Answerer {
  answered = 0
  readonly #bytes: Uint8Array
  constructor(bytes: number) {
    this.#bytes = Buffer.alloc(bytes, '~')
  }
  mine(): boolean {
    return true
  }
  async answer(exchange: Exchange): Promise<void> {
    exchange.reply(200, [], this.#bytes)
    this.answered++
  }
  failed(_exchange: Exchange, error: unknown): never {
    throw error
  }
}

t.test('replies that are queued when a connection is wanted back reach their client', async (t) => {
  const { stream, client } = httpPair(t)
  const plain = new Plain(32 * KiB)
  const released = serveRequests(stream, plain).then(({ kind }) => {
    t.equal(kind, 'foreign')
    return stream.release()!
  })
  // The last reply is queued, and short enough that another request is waited for.
  while (stream.waiting === 0) {
    const before = plain.answered
    await client.send(REQUEST)
    while (plain.answered === before) await new Promise((resolve) => setImmediate(resolve))
  }
  stream.askBack()
  await client.send(REQUEST)
  const bodies = (text: string) => text.split('~').length - 1
  const reading = client.until((text) => bodies(text) >= plain.answered * 32 * KiB)
  t.ok((await reading).endsWith('~'))
  const { fd, rest } = await released
  const next = new HttpStream(fd, rest, LIMITS)
  t.teardown(() => next.close())
  t.match(await next.next(), { kind: 'head', text: REQUEST }, 'the request that was not answered is there')
})

t.test('half a head goes on with whoever has the connection next', async (t) => {
  const { stream, client } = httpPair(t)
  const served = serveRequests(stream, new Plain(1))
  await client.send('GET /ima')
  while (!stream.ahead) await new Promise((resolve) => setImmediate(resolve))
  stream.askBack()
  t.match(await served, { kind: 'foreign' })
  const { fd, rest } = stream.release()!
  const next = new HttpStream(fd, rest, LIMITS)
  t.teardown(() => next.close())
  await client.send('ges/t HTTP/1.1\r\n\r\n')
  t.match(await next.next(), { kind: 'head', text: REQUEST })
})

t.test('a client that goes away while its replies are waited for is told as lost', async (t) => {
  const { stream, client } = httpPair(t)
  const served = serveRequests(stream, new Plain(8 * KiB * KiB))
  await client.send(REQUEST)
  while (stream.waiting === 0) await new Promise((resolve) => setImmediate(resolve))
  stream.askBack()
  client.socket.destroy()
  t.match(await served, { kind: 'closed', why: 'the client went away' })
})

t.test(
  'a head that is refused on a connection that was cut off meanwhile ends that connection only',
  async (t) => {
    const { stream, client } = httpPair(t)
    const requests = 15
    const plain = new Plain(1)
    const answerer: Answerer = {
      mine: () => true,
      answer: async (exchange) => {
        await plain.answer(exchange)
        // Before the next head is looked at: others are served in between.
        if (plain.answered === requests) setImmediate(() => stream.close())
      },
      failed: (_exchange, error) => {
        throw error
      },
    }
    const served = serveRequests(stream, answerer)
    await client.send(`${REQUEST.repeat(requests)}nonsense\r\n\r\n`)
    t.match(await served, { kind: 'closed' })
    t.equal(plain.answered, requests)
  },
)
