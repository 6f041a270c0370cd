// SPDX-License-Identifier: Apache-2.0
// Long bodies over a connection of their own, from servers that send as they like: nothing is lost or overwritten, however the
// bytes come and however slowly they are taken.

import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { setTimeout } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { BodySocket } from '../../../daemon/cli/images/body-socket.js'
import { newSeed, random } from '../../helpers/graph.js'

const MiB = 2 ** 20

/** @param serve  one connection, told of each request by its path */
async function connected(
  t: Test,
  serve: (path: string, socket: Socket) => void | Promise<void>,
  timeoutMs = 60_000,
) {
  let connections = 0
  const server = createServer((socket) => {
    connections += 1
    socket.on('error', () => undefined)
    socket.on('data', (bytes) => void serve(String(bytes).split(' ')[1] ?? '', socket))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const body = new BodySocket({ host: '127.0.0.1', port, timeoutMs })
  t.teardown(() => {
    body[Symbol.dispose]()
    server.close()
  })
  return { body, connections: () => connections }
}

const head = (length: number, more = '') => `HTTP/1.1 206 x\r\ncontent-length: ${length}\r\n${more}\r\n`

/** Every byte says where it is. */
function content(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length)
  for (let at = 0; at < length; at++) bytes[at] = (at * 31 + (at >> 8) + seed) & 0xff
  return bytes
}

async function all(body: BodySocket): Promise<Buffer> {
  const parts: Buffer[] = []
  for (let bytes = await body.next(); bytes !== undefined; bytes = await body.next())
    parts.push(Buffer.from(bytes))
  return Buffer.concat(parts)
}

t.test('bodies of any length, sent in any pieces and taken at any pace', async (t) => {
  const seed = newSeed()
  const pick = random(seed)
  const lengths = [0, 1, MiB - 1, MiB, MiB + 1, 3 * MiB, ...Array.from({ length: 10 }, () => pick(5 * MiB))]
  const { body, connections } = await connected(t, async (path, socket) => {
    const length = Number(path.slice(1))
    const whole = Buffer.concat([Buffer.from(head(length)), content(length, length)])
    for (let at = 0; at < whole.length; ) {
      const size = pick(3) === 0 ? 1 + pick(50) : 1 + pick(2 * MiB)
      if (!socket.write(whole.subarray(at, at + size))) await once(socket, 'drain')
      if (pick(4) === 0) await new Promise(setImmediate)
      at += size
    }
  })
  for (const length of lengths) {
    const { status, length: told } = await body.get(`/${length}`, {})
    t.strictSame([status, told], [206, length])
    const parts: Buffer[] = []
    for (let bytes = await body.next(); bytes !== undefined; bytes = await body.next()) {
      const copy = Buffer.from(bytes)
      for (let turns = pick(20); turns > 0; turns--) await new Promise(setImmediate)
      if (!copy.equals(bytes)) t.fail(`seed ${seed}: bytes changed while they were held`)
      parts.push(copy)
    }
    t.ok(Buffer.concat(parts).equals(content(length, length)), `seed ${seed}, ${length} bytes`)
  }
  t.equal(connections(), 1)
})

t.test('a head that comes byte by byte', async (t) => {
  const { body } = await connected(t, async (_, socket) => {
    for (const byte of head(3)) {
      socket.write(byte)
      await new Promise(setImmediate)
    }
    socket.write('abc')
  })
  t.match(await body.get('/', {}), { status: 206, length: 3 })
  t.equal(String(await all(body)), 'abc')
})

t.test('a connection that the server closed while nobody asked is made anew', async (t) => {
  const { body, connections } = await connected(t, (_, socket) => {
    socket.end(`${head(2)}ab`)
  })
  for (let round = 0; round < 3; round++) {
    await body.get('/', {})
    t.equal(String(await all(body)), 'ab')
  }
  t.equal(connections(), 3)
})

t.test('a server that says it closes is believed', async (t) => {
  const { body, connections } = await connected(t, (_, socket) => {
    socket.write(`${head(2, 'connection: close\r\n')}ab`)
  })
  for (let round = 0; round < 2; round++) {
    await body.get('/', {})
    t.equal(String(await all(body)), 'ab')
  }
  t.equal(connections(), 2)
})

t.test('a server that falls silent while its client is busy is given up', async (t) => {
  const { body } = await connected(
    t,
    (_, socket) => {
      const start = Buffer.from(head(4 * MiB))
      socket.write(Buffer.concat([start, content(2 * MiB - start.length, 0)]))
    },
    50,
  )
  await body.get('/', {})
  t.ok(await body.next())
  // Both pieces of memory are full now, for longer than the server may be silent.
  await setTimeout(300)
  t.ok((await all(body)).length < 4 * MiB)
})

t.test('a body that ends early ends', async (t) => {
  const { body } = await connected(t, (_, socket) => {
    socket.end(`${head(10)}abc`)
  })
  await body.get('/', {})
  t.ok((await all(body)).length < 10)
})

const wrong = [
  { name: 'no HTTP', answer: 'SSH-2.0-x\r\n\r\n', text: /no HTTP reply/ },
  { name: 'no length', answer: 'HTTP/1.1 200 OK\r\n\r\n', text: /does not say how much it sends/ },
  {
    name: 'a refusal in chunks',
    answer: 'HTTP/1.1 502 Bad Gateway\r\ntransfer-encoding: chunked\r\n\r\n',
    text: /it refused with 502/,
  },
  { name: 'no end of the head', answer: 'x'.repeat(2 * MiB), text: /does not begin as a reply does/ },
  { name: 'an end at once', answer: '', text: /closed the connection/ },
]

for (const { name, answer, text } of wrong)
  t.test(`what is no reply is an error: ${name}`, async (t) => {
    const { body } = await connected(t, (_, socket) => {
      socket.end(answer)
    })
    await t.rejects(body.get('/', {}), text)
  })

t.test('nobody listens', async (t) => {
  using body = new BodySocket({ host: '127.0.0.1', port: 1, timeoutMs: 1000 })
  await t.rejects(body.get('/', {}), /ECONNREFUSED/)
})
