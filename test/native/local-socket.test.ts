// SPDX-License-Identifier: Apache-2.0
// The stream over a Unix socket: bytes in order both ways, back-pressure, ends and errors as Node's own sockets have them.

import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import fc from 'fast-check'
import t from 'tap'
import { LocalSocket } from '../../native/local-socket.js'
import { local, localPair, netPair } from '../helpers/local-connection.js'

const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31)

/** Turns of the loop in which what the kernel holds would be read. */
async function turns(): Promise<void> {
  for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve))
}

function descriptors(): number {
  return readdirSync('/proc/self/fd').length
}

function bytesOf(length: number, salt: number): Buffer {
  const bytes = Buffer.alloc(length)
  for (let at = 0; at < length; at++) bytes[at] = (at * 7 + salt + (at >> 8)) & 255
  return bytes
}

/** Writes pieces of random sizes, some of them corked, waiting for room as a good writer does. */
async function write(stream: LocalSocket | Socket, bytes: Buffer, sizes: readonly number[]): Promise<void> {
  for (let at = 0, turn = 0; at < bytes.length; turn++) {
    const size = sizes[turn % sizes.length] ?? 1
    if (turn % 5 === 0) stream.cork()
    const room = stream.write(bytes.subarray(at, at + size))
    if (turn % 5 === 3) stream.uncork()
    at += size
    if (!room) {
      for (let corked = 0; corked < 2; corked++) stream.uncork()
      if (stream.writableNeedDrain) await once(stream, 'drain')
    }
  }
  for (let corked = 0; corked < 4; corked++) stream.uncork()
  stream.end()
}

/** Not by iterating: that ends the other direction too. */
async function collect(stream: LocalSocket | Socket): Promise<Buffer> {
  const parts: Buffer[] = []
  stream.on('data', (part: Buffer) => parts.push(part))
  stream.resume()
  await once(stream, 'end')
  return Buffer.concat(parts)
}

async function textOf(stream: LocalSocket): Promise<string> {
  return (await collect(stream)).toString()
}

const directions = fc.record({
  length: fc.oneof(fc.nat(5000), fc.integer({ min: 100_000, max: 900_000 })),
  sizes: fc.array(fc.oneof(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 5000, max: 200_000 })), {
    minLength: 1,
    maxLength: 6,
  }),
})

t.test(`both ways at once everything arrives in order (seed ${seed})`, async (t) => {
  await fc.assert(
    fc.asyncProperty(directions, directions, fc.boolean(), async (there, back, node) => {
      // Against a stream of Node's own, and against another of ours.
      const [one, other] = await netPair(t)
      const ours = local(t, one, { allowHalfOpen: true })
      const peer = node ? other : local(t, other, { allowHalfOpen: true })
      const [sent, answered] = [bytesOf(there.length, 1), bytesOf(back.length, 9)]
      const [got, gotBack] = await Promise.all([
        collect(peer),
        collect(ours),
        write(ours, sent, there.sizes),
        write(peer, answered, back.sizes),
      ])
      if (!got.equals(sent) || !gotBack.equals(answered)) throw new Error('bytes differ')
    }),
    { seed, numRuns: 60 },
  )
})

t.test('a writer is held up by a slow reader and loses nothing', async (t) => {
  const [writer, reader] = await localPair(t)
  const bytes = bytesOf(2 << 20, 3)
  let room = true
  for (let at = 0; at < bytes.length; at += 65536) room = writer.write(bytes.subarray(at, at + 65536))
  t.notOk(room, 'told to wait')
  await turns()
  t.ok(writer.writableLength > 0, 'still waiting')
  let pauses = 0
  const parts: Buffer[] = []
  reader.on('data', (part: Buffer) => {
    parts.push(part)
    t.ok(part.length <= 65536)
    reader.pause()
    pauses++
    setImmediate(() => reader.resume())
  })
  writer.end()
  await once(reader, 'end')
  t.ok(Buffer.concat(parts).equals(bytes))
  t.ok(pauses > 10)
})

t.test('a reader that is paused takes no more than its high water mark', async (t) => {
  const [writer, reader] = await localPair(t, { highWaterMark: 16384 })
  reader.on('data', () => {})
  reader.pause()
  const big = Buffer.alloc(8 << 20)
  writer.write(big)
  await turns()
  t.ok(reader.readableLength <= 65536 + 16384, `${reader.readableLength} held`)
  t.ok(writer.writableLength > 0)
})

t.test('a held socket reads nothing until it is let go', async (t) => {
  const [writer, reader] = await localPair(t)
  reader.hold(true)
  let got = 0
  reader.on('data', (part: Buffer) => {
    got += part.length
  })
  writer.write('hello')
  await turns()
  t.equal(got, 0)
  reader.hold(false)
  await once(reader, 'data')
  t.equal(got, 5)
})

t.test('with allowHalfOpen our side goes on after the peer ended its own', async (t) => {
  const [one, other] = await localPair(t, { allowHalfOpen: true })
  one.end('question')
  t.equal(await textOf(other), 'question')
  other.end('answer')
  t.equal(await textOf(one), 'answer')
  await Promise.all([one, other].map((socket) => socket.closed || once(socket, 'close')))
  t.ok(one.destroyed && other.destroyed)
})

t.test('without allowHalfOpen the end of one side is the end of both', async (t) => {
  const [one, other] = await localPair(t)
  one.resume()
  other.resume()
  one.end()
  await Promise.all([once(one, 'close'), once(other, 'close')])
  t.ok(other.writableFinished)
})

t.test('a reset is an error after the bytes that came before it', async (t) => {
  const [one, other] = await localPair(t)
  one.write('last words')
  other.write('never read')
  other.destroy()
  const got: Buffer[] = []
  one.on('data', (part: Buffer) => got.push(part))
  const [error] = (await once(one, 'error')) as [NodeJS.ErrnoException]
  t.match(error, { code: 'ECONNRESET', errno: -104, syscall: 'read', message: 'read ECONNRESET' })
  t.equal(Buffer.concat(got).toString(), 'never read')
  t.ok(one.destroyed)
})

t.test('writing to a peer that is gone is an error and no signal', async (t) => {
  const [one, other] = await localPair(t, { allowHalfOpen: true })
  other.destroy()
  await once(other, 'close')
  const told = new Promise((resolve) => one.write('x', resolve))
  const [error] = (await once(one, 'error')) as [NodeJS.ErrnoException]
  t.match(error, { code: 'EPIPE', errno: -32, syscall: 'write' })
  t.equal(await told, error)
})

t.test('writes that wait are told when the socket is destroyed', async (t) => {
  const [one] = await localPair(t)
  const told = new Promise<Error>((resolve) =>
    one.write(Buffer.alloc(8 << 20), (error) => resolve(error as Error)),
  )
  const later = new Promise<Error>((resolve) => one.write('x', (error) => resolve(error as Error)))
  one.destroy()
  t.match(await told, { code: 'ECANCELED' })
  t.match(await later, { code: 'ECANCELED' })
})

t.test('a writer that is woken by the end of its peer hears of it', async (t) => {
  const [one, other] = await localPair(t, { allowHalfOpen: true })
  one.write(Buffer.alloc(8 << 20))
  other.destroy()
  const [error] = (await once(one, 'error')) as [NodeJS.ErrnoException]
  t.match(error.code, /^(EPIPE|ECONNRESET)$/)
})

t.test('what is no Unix stream socket is left alone', async (t) => {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const socket = connect((server.address() as { port: number }).port, '127.0.0.1')
  await once(socket, 'connect')
  t.equal(LocalSocket.takeOver(socket), undefined)
  t.notOk(socket.destroyed)
  socket.destroy()
  server.close()
  t.equal(LocalSocket.takeOver(socket), undefined)
})

t.test('a number that is no descriptor is refused', async (t) => {
  t.throws(() => new LocalSocket(1_000_000), new Error('cannot watch the socket'))
})

t.test('sockets that were closed leave no descriptor', async (t) => {
  const before = descriptors()
  for (let round = 0; round < 50; round++) {
    const [one, other] = await localPair(t)
    one.end('x')
    await textOf(other)
    one.destroy()
    other.destroy()
    await Promise.all([one, other].map((socket) => socket.closed || once(socket, 'close')))
  }
  t.ok(descriptors() <= before, `${before} → ${descriptors()}`)
})
