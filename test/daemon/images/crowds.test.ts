// SPDX-License-Identifier: Apache-2.0
// More clients than there are places: each service has its own, and no ticket takes all there are at disks.

import { once } from 'node:events'
import { createServer, type Server } from 'node:net'
import t, { type Test } from 'tap'
import { ImagesServer } from '../../../daemon/images/images-server.js'
import type { Answer, Question } from '../../../daemon/images/messages.js'
import type { Service } from '../../../protocol/http/routes.js'
import { RawConnection, request } from '../../helpers/images/http-client.js'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { fill, MiB, Scratch } from '../../helpers/scratch.js'

t.setTimeout(120_000)

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
fill(scratch.file('data'), MiB)

const INFO = 'GET /none HTTP/1.1\r\n\r\n'
const OPTIONS = 'OPTIONS /images/t HTTP/1.1\r\n\r\n'

interface Small {
  readonly log: string[]
  readonly handed: number[]
  /** Questions about tickets that have no answer yet. */
  readonly asked: ((answer: Answer) => void)[]
  readonly server: ImagesServer
  path(service: Service): string
}

/** A server with four places for images and two for tickets. */
async function small(t: Test): Promise<Small> {
  const log: string[] = []
  const handed: number[] = []
  const asked: ((answer: Answer) => void)[] = []
  const env = {
    ask: (_question: Question) => new Promise<Answer>((resolve) => asked.push(resolve)),
    handed: (_ticket: string, connection: number) => handed.push(connection),
    log: (level: string, _fields: unknown, text: string) => log.push(`${level}: ${text}`),
  }
  const server = new ImagesServer(env, { remote: 4, local: 4, control: 2 })
  const path = (service: Service) => scratch.file(`small-${service}`)
  for (const service of ['local', 'control'] as const) {
    const listening: Server = createServer({ allowHalfOpen: true, pauseOnConnect: true })
    server.serve(listening, service)
    listening.listen(path(service))
    await once(listening, 'listening')
    t.teardown(() => listening.close())
  }
  t.teardown(() => server.close())
  return { log, handed, asked, server, path }
}

t.test('a flood of one service costs the clients of another nothing', async (t) => {
  const { path } = await small(t)
  const manager = new RawConnection(path('control'))
  t.teardown(() => manager[Symbol.dispose]())
  manager.send('GET /tickets/ HTTP/1.1\r\n\r\n')
  await manager.until(/400/)
  const flood = Array.from({ length: 50 }, () => new RawConnection(path('local')))
  // All but the last four have made room.
  await Promise.all(flood.slice(0, -4).map((client) => client.closed()))
  manager.send('GET /none HTTP/1.1\r\n\r\n')
  t.match(await manager.until(/404/), /400/, 'on the same connection')
  for (const client of flood.slice(-4)) {
    client.send(INFO)
    await client.until(/404/)
    client[Symbol.dispose]()
  }
})

t.test('who waits for us stays, and who comes then is told that there is no place', async (t) => {
  const { path, asked, handed, log } = await small(t)
  const clients = Array.from({ length: 4 }, () => new RawConnection(path('local')))
  t.teardown(() => {
    for (const client of clients) client[Symbol.dispose]()
  })
  for (const client of clients) client.send(OPTIONS)
  while (asked.length < 4) await new Promise((resolve) => setImmediate(resolve))
  for (let round = 0; round < 3; round++) {
    const late = new RawConnection(path('local'))
    t.match(
      await late.closed(),
      /^HTTP\/1.1 503 [\s\S]*connection: close[\s\S]*no place for another client\n$/,
    )
  }
  t.strictSame(log, ['warn: clients are turned away: no place is left'], 'told once')
  asked[0]!({ kind: 'done' })
  while (handed.length < 1) await new Promise((resolve) => setImmediate(resolve))
  using next = new RawConnection(path('local'))
  next.send(INFO)
  await next.until(/404/)
  asked[1]!({ kind: 'refused', status: 403, message: 'no' })
  t.match(await Promise.any(clients.map((client) => client.until(/403/))), /^HTTP/)
})

/** The queue of a local socket is short, and who finds it full tries again. */
async function connected(where: string | { port: number; host: string }): Promise<RawConnection> {
  for (;;) {
    const client = new RawConnection(where)
    try {
      await once(client.socket, 'connect')
      return client
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error
    }
  }
}

t.test('a thousand idle clients of each service, and more, leave room for others', async (t) => {
  await using daemon = await ImagesDaemon.start(scratch)
  await daemon.ticket('t', 'data', MiB)
  const { port } = new URL(daemon.url)
  const remote = { port: Number(port), host: '127.0.0.1' }
  const idle: RawConnection[] = []
  t.teardown(() => {
    for (const client of idle) client[Symbol.dispose]()
  })
  for (const where of [daemon.local, remote, daemon.control])
    for (let count = 0; count < 1100; count++) {
      const client = await connected(where)
      if (count % 2 === 1) client.send('GET /ima')
      idle.push(client)
    }
  t.equal((await daemon.images('GET', 't', { range: 'bytes=0-9' })).status, 206)
  t.equal((await daemon.tickets('GET', 't')).status, 200)
  t.equal((await fetch(`${daemon.url}/images/t`)).status, 200)
})

t.test('no ticket takes all places, and all are free again when its clients have gone', async (t) => {
  await using daemon = await ImagesDaemon.start(scratch)
  for (const id of ['t', 'other']) await daemon.ticket(id, 'data', MiB)
  const served: number[] = []
  for (let round = 0; round < 3; round++) {
    const clients: RawConnection[] = []
    for (let count = 0; count < 1100; count++) {
      const client = await connected(daemon.local)
      client.send(OPTIONS)
      clients.push(client)
    }
    const replies = await Promise.all(clients.map((client) => client.until(/\r\n\r\n[\s\S]+/)))
    const count = (status: number) => replies.filter((text) => text.startsWith(`HTTP/1.1 ${status}`)).length
    t.equal(count(200) + count(503), 1100)
    t.match(replies.at(-1), /the ticket has \d+ connections/)
    served.push(count(200))
    t.equal(JSON.parse((await daemon.tickets('GET', 't')).text).connections, count(200))
    t.equal((await request(daemon.local, 'GET', '/images/other')).status, 200)
    // In different ways: clients go, or the ticket does.
    if (round === 1) t.equal((await daemon.tickets('DELETE', 't')).status, 204)
    for (const client of clients) client[Symbol.dispose]()
    if (round === 1) await daemon.ticket('t', 'data', MiB)
    while (JSON.parse((await daemon.tickets('GET', 't')).text).connections > 0);
  }
  t.strictSame(served, [500, 500, 500])
})
