// SPDX-License-Identifier: Apache-2.0
// Ranges of a file sent over a socket without being read: what arrives, what stops it, and what is told when one of both fails.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  ftruncateSync,
  openSync,
  readFileSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { createServer, connect as dial, type Socket } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createEngine } from '../../native/engine.js'
import type { FilePart } from '../../native/stream-types.js'
import type { FileId, IoEngine } from '../../native/types.js'
import { shortFolder } from '../helpers/short-folder.js'
import { SlowFs, slowfsAbsent } from '../helpers/slowfs.js'
import { within } from '../helpers/waiting.js'
import { leftOver, openDescriptors, socketPair } from './descriptors.js'
import { difference, engineFor, factsOf, KIB, kinds, MIB, pattern, random, takeSlot } from './kinds.js'

const EIO = -5
const EBADF = -9
const EINVAL = -22
const EPIPE = -32
const EOPNOTSUPP = -95
const ECANCELED = -125
/** Longer than a test takes: nothing below may depend on it. */
const LONG = 20_000
/** More than a socket holds. */
const LARGE = 16 * MIB

/** A connection of the engine's own. Its peer is not read before somebody asks for it. */
async function connection(t: Test, engine: IoEngine, how: 'connect' | 'accept' = 'connect') {
  const address = { kind: 'unix', path: join(shortFolder(t), 'socket') } as const
  let sockets: readonly [FileId, Socket]
  if (how === 'connect') {
    const server = createServer({ pauseOnConnect: true, allowHalfOpen: true }).listen(address.path)
    await once(server, 'listening')
    const accepted = once(server, 'connection') as Promise<[Socket]>
    sockets = [await engine.connect(address), (await accepted)[0]]
    server.close()
  } else {
    const listener = await engine.listen(address)
    const peer = dial({ path: address.path, allowHalfOpen: true })
    sockets = [await engine.accept(listener), peer.pause()]
    await engine.close(listener)
  }
  const [stream, peer] = sockets
  peer.on('error', () => undefined)
  t.teardown(() => peer.destroy())
  return { stream, peer }
}

async function openFile(t: Test, engine: IoEngine, bytes: Uint8Array, direct = false) {
  const path = join(t.testdir(), 'image')
  writeFileSync(path, bytes)
  return { path, file: await engine.open(path, { write: false, direct }) }
}

/** Everything the peer gets, to the end. */
async function read(peer: Socket): Promise<Buffer> {
  const parts: Buffer[] = []
  peer.on('data', (part: Buffer) => parts.push(part))
  peer.resume()
  await within(once(peer, 'end'), LONG, 'the end of the connection')
  return Buffer.concat(parts)
}

/** What is to arrive. */
function joined(parts: readonly FilePart[], heads: Uint8Array, file: Uint8Array): Buffer {
  let at = 0
  const bytes = parts.flatMap(({ head, offset, length }) => {
    at += head
    return [heads.subarray(at - head, at), file.subarray(offset, offset + length)]
  })
  return Buffer.concat(bytes)
}

/** Of a file of LARGE bytes, in any order, with heads or without, odd or not. */
function randomParts(seed: number): FilePart[] {
  const below = random(seed)
  return Array.from({ length: 60 }, () => {
    const unit = below(2) === 0 ? 1 : 4096
    const length = (1 + below((below(4) === 0 ? MIB : 20 * KIB) / unit)) * unit
    const offset = below((LARGE - length) / unit) * unit
    return { head: below(3) === 0 ? 0 : below(2000), offset, length }
  })
}

const page = { head: 8, offset: 0, length: 4096 }
const all = { head: 8, offset: 0, length: LARGE }

for (const { aio, absent } of kinds) {
  t.test(aio, { skip: absent }, async (t) => {
    for (const how of ['connect', 'accept'] as const)
      t.test(`heads and ranges arrive in their order over a connection by ${how}`, async (t) => {
        const engine = engineFor(t, { aio })
        const bytes = pattern(LARGE)
        const { file } = await openFile(t, engine, bytes)
        const slot = takeSlot(engine)
        engine.slotBytes(slot).set(pattern(MIB, 99))
        const seed = Date.now() % 1e6
        t.comment(`seed ${seed}`)
        for (const parts of [[page], [all], randomParts(seed), randomParts(seed + 1)]) {
          const { stream, peer } = await connection(t, engine, how)
          const wanted = joined(parts, pattern(MIB, 99).subarray(100), bytes)
          const sent = engine.sendFile(stream, file, parts, slot, 100)
          await factsOf(engine, file)
          const received = read(peer)
          t.equal(await sent, wanted.length)
          await engine.close(stream)
          t.equal(difference(await received, wanted), undefined)
        }
      })

    t.test('a file that is not read through the page cache arrives too', async (t) => {
      const engine = engineFor(t, { aio })
      const bytes = pattern(MIB)
      const { file } = await openFile(t, engine, bytes, true)
      const { stream, peer } = await connection(t, engine)
      const received = read(peer)
      const parts = [{ head: 0, offset: 4096, length: MIB - 4096 }]
      t.equal(await engine.sendFile(stream, file, parts, takeSlot(engine), 0), MIB - 4096)
      await engine.close(stream)
      t.equal(difference(await received, joined(parts, bytes, bytes)), undefined)
    })

    t.test('what is sent before and behind keeps its place', async (t) => {
      const engine = engineFor(t, { aio })
      const bytes = pattern(LARGE)
      const { file } = await openFile(t, engine, bytes)
      const { stream, peer } = await connection(t, engine)
      const slot = takeSlot(engine)
      engine.slotBytes(slot).set(pattern(MIB, 7))
      const sent = [0, 1].flatMap(() => [
        engine.send(stream, 300 * KIB, slot, 0),
        engine.sendFile(stream, file, [all], slot, 0),
      ])
      await factsOf(engine, file)
      const received = read(peer)
      t.same(await Promise.all(sent), [300 * KIB, LARGE + 8, 300 * KIB, LARGE + 8])
      await engine.close(stream)
      const once = Buffer.concat([pattern(300 * KIB, 7), pattern(8, 7), bytes])
      t.equal(difference(await received, Buffer.concat([once, once])), undefined)
    })

    t.test('a peer that does not read holds up nothing, and the sending is ended', async (t) => {
      const engine = engineFor(t, { aio, maxRequests: 2, maxBytes: 128 * KIB })
      const { file } = await openFile(t, engine, pattern(LARGE))
      const { stream, peer } = await connection(t, engine)
      const slot = takeSlot(engine)
      const sent = Array.from({ length: 5 }, () => engine.sendFile(stream, file, [all], slot, 0))
      const reads = Array.from({ length: 20 }, () => engine.read(file, 0, 64 * KIB, slot, 0))
      t.ok((await Promise.all(reads)).every((result) => result === 64 * KIB))
      t.equal(engine.oldest(), undefined, 'who waits for a peer is not stuck')
      t.equal(engine.stats().requests, 5)
      engine.shutdownStream(stream, 'write')
      t.same(await within(Promise.all(sent), LONG, 'the end'), Array(5).fill(ECANCELED))
      t.equal(await engine.sendFile(stream, file, [page], slot, 0), ECANCELED, 'and later ones')
      const received = await read(peer)
      t.equal(difference(received.subarray(8), pattern(LARGE).subarray(0, received.length - 8)), undefined)
    })

    t.test('an engine that ends at its deadline leaves nothing of what is being sent', async (t) => {
      const before = openDescriptors()
      const engine = createEngine({ aio })
      const { file } = await openFile(t, engine, pattern(LARGE))
      const { stream, peer } = await connection(t, engine)
      const sent = engine.sendFile(stream, file, [all], takeSlot(engine), 0)
      await factsOf(engine, file)
      t.ok((await engine.shutdown(20)) >= 1)
      t.equal(await sent, ECANCELED)
      peer.destroy()
      t.same(await leftOver(before), [])
    })

    t.test('an engine that ends sends what is being sent', async (t) => {
      const engine = createEngine({ aio })
      const { file } = await openFile(t, engine, pattern(LARGE))
      const { stream, peer } = await connection(t, engine)
      const sent = engine.sendFile(stream, file, [all], takeSlot(engine), 0)
      const ended = engine.shutdown(LONG)
      const received = await read(peer)
      t.equal(await sent, LARGE + 8)
      t.equal(await ended, 0)
      t.equal(difference(received.subarray(8), pattern(LARGE)), undefined)
    })

    t.test('a file that ends too early is told with its part, and nothing follows', async (t) => {
      const engine = engineFor(t, { aio })
      const bytes = pattern(MIB - 100)
      const { file } = await openFile(t, engine, bytes)
      const { stream, peer } = await connection(t, engine)
      const slot = takeSlot(engine)
      engine.slotBytes(slot).set(pattern(MIB, 9))
      const parts = [
        { head: 10, offset: 0, length: 64 * KIB },
        { head: 10, offset: MIB - 4096, length: 4096 },
        { head: 10, offset: 0, length: 4096 },
      ]
      const received = read(peer)
      const sent = engine.sendFile(stream, file, parts, slot, 0)
      const late = engine.send(stream, 1000, slot, 0)
      t.same(await sent, { result: EIO, piece: 1 })
      t.equal(await late, EIO)
      await engine.close(stream)
      const wanted = joined(parts.slice(0, 2), pattern(MIB, 9), bytes)
      t.equal(difference(await received, wanted), undefined)
      const other = await connection(t, engine)
      const behind = [{ head: 0, offset: 2 * MIB, length: 1 }]
      t.same(await engine.sendFile(other.stream, file, behind, slot, 0), { result: EIO, piece: 0 })
    })

    t.test('a file that is cut while its peer does not read ends the sending', async (t) => {
      const engine = engineFor(t, { aio })
      const { path, file } = await openFile(t, engine, pattern(LARGE))
      const { stream, peer } = await connection(t, engine)
      const sent = engine.sendFile(stream, file, [all], takeSlot(engine), 0)
      await factsOf(engine, file)
      truncateSync(path, 0)
      peer.resume()
      t.same(await within(sent, LONG, 'the end'), { result: EIO, piece: 0 })
    })

    t.test('a file that cannot be read is told with its error', async (t) => {
      const engine = engineFor(t, { aio })
      const path = join(t.testdir(), 'image')
      const fd = openSync(path, 'w')
      ftruncateSync(fd, MIB)
      const file = await engine.adopt(fd)
      closeSync(fd)
      const { stream } = await connection(t, engine)
      t.same(await engine.sendFile(stream, file, [page], takeSlot(engine), 0), { result: EBADF, piece: 0 })
    })

    t.test('a peer that has closed is an error of the stream and no signal', async (t) => {
      const engine = engineFor(t, { aio })
      const { file } = await openFile(t, engine, pattern(LARGE))
      for (const when of ['before', 'amid'] as const) {
        const { stream, peer } = await connection(t, engine)
        const slot = takeSlot(engine)
        const close = async () => {
          peer.destroy()
          await once(peer, 'close')
        }
        if (when === 'before') await close()
        const sent = engine.sendFile(stream, file, [{ ...all, head: 0 }], slot, 0)
        await factsOf(engine, file)
        if (when === 'amid') await close()
        t.equal(await within(sent, LONG, 'the end'), EPIPE, when)
        t.equal(await engine.sendFile(stream, file, [page], slot, 0), EPIPE, 'and later')
        await engine.close(stream)
      }
    })

    t.test('a connection is drained when its peer has read, and then the file may change', async (t) => {
      const engine = engineFor(t, { aio })
      const bytes = pattern(MIB)
      const path = join(t.testdir(), 'image')
      writeFileSync(path, bytes)
      const file = await engine.open(path, { write: false })
      const { stream, peer } = await connection(t, engine)
      const slot = takeSlot(engine)
      t.equal(await engine.sendFile(stream, file, [{ head: 0, offset: 0, length: MIB }], slot, 0), MIB)
      let drained = false
      const draining = engine.drain(stream).then((result) => {
        drained = true
        return result
      })
      for (let asked = 0; asked < 20; asked++) await factsOf(engine, file)
      t.notOk(drained, 'nobody has read')
      const received = read(peer)
      t.equal(await within(draining, LONG, 'the peer has read'), 0)
      const fd = openSync(path, 'r+')
      writeSync(fd, new Uint8Array(MIB))
      closeSync(fd)
      await engine.close(stream)
      t.equal(difference(await received, bytes), undefined)
    })

    t.test('who waits for a peer to read ends with it, or when he is told to', async (t) => {
      const engine = engineFor(t, { aio })
      const { file } = await openFile(t, engine, pattern(MIB))
      const slot = takeSlot(engine)
      const waiting = async () => {
        const { stream, peer } = await connection(t, engine)
        await engine.sendFile(stream, file, [{ head: 0, offset: 0, length: MIB }], slot, 0)
        const draining = engine.drain(stream)
        await factsOf(engine, file)
        return { stream, peer, draining }
      }
      const gone = await waiting()
      gone.peer.destroy()
      t.equal(await within(gone.draining, LONG, 'the end'), 0)
      const told = await waiting()
      engine.shutdownStream(told.stream, 'both')
      t.equal(await within(told.draining, LONG, 'the end'), ECANCELED)
    })

    t.test('a file whose file system has no sendfile(2) arrives all the same', async (t) => {
      const engine = engineFor(t, { aio })
      const text = (seed: number) => Buffer.from(pattern(70 * KIB, seed)).toString('base64')
      const env = Object.fromEntries(['A', 'B', 'C', 'D', 'E'].map((name, at) => [name, text(at)]))
      const child = spawn('sleep', ['60'], { env: { ...env, PATH: process.env.PATH } })
      t.teardown(() => child.kill())
      await once(child, 'spawn')
      const path = `/proc/${child.pid}/environ`
      const bytes = readFileSync(path)
      t.ok(bytes.length > 400 * KIB)
      const file = await engine.open(path, { write: false })
      const slot = takeSlot(engine)
      engine.slotBytes(slot).set(pattern(MIB, 99))
      const below = random(Date.now() % 1e6)
      const parts = Array.from({ length: 40 }, () => {
        const length = 1 + below(300 * KIB)
        return { head: below(2) * below(2000), offset: below(bytes.length - length), length }
      })
      const wanted = joined(parts, pattern(MIB, 99), bytes)
      const { stream, peer } = await connection(t, engine)
      const sent = engine.sendFile(stream, file, parts, slot, 0)
      await factsOf(engine, file)
      const received = read(peer)
      t.equal(await sent, wanted.length)
      const behind = [{ head: 8, offset: bytes.length, length: 4096 }]
      t.same(await engine.sendFile(stream, file, behind, slot, 0), { result: EIO, piece: 0 }, 'it ends there')
      await engine.close(stream)
      t.equal(difference((await received).subarray(0, wanted.length), wanted), undefined)
    })

    t.test('what could wait in the kernel is refused, and so is what is no range', async (t) => {
      const engine = engineFor(t, { aio })
      const { path, file } = await openFile(t, engine, pattern(MIB))
      const slot = takeSlot(engine)
      const { fd, mine } = await socketPair(t)
      const adopted = await engine.adopt(fd)
      mine.destroy()
      const tcp = await engine.listen({ kind: 'tcp', host: '127.0.0.1', port: 0 })
      const other = await engine.open(path, { write: true })
      for (const stream of [adopted, tcp, other]) {
        t.equal(await engine.sendFile(stream, file, [page], slot, 0), EOPNOTSUPP)
        t.equal(await engine.drain(stream), EOPNOTSUPP)
      }
      const { stream } = await connection(t, engine)
      const refused = (part: Partial<FilePart>, slotOffset = 0) =>
        engine.sendFile(stream, file, [page, { ...page, ...part }], slot, slotOffset)
      t.equal(await engine.sendFile(stream, file, [], slot, 0), EINVAL)
      t.equal(await refused({ length: 0 }), EINVAL)
      t.equal(await refused({ length: -1 }), EINVAL)
      t.equal(await refused({ length: Number.NaN }), EINVAL)
      t.equal(await refused({ offset: -1 }), EINVAL)
      t.equal(await refused({ offset: 2 ** 63 }), EINVAL)
      t.equal(await refused({ head: -8 }), EINVAL)
      t.equal(await refused({ head: MIB }), EINVAL, 'more heads than a slot has')
      t.equal(await refused({}, MIB - 15), EINVAL)
      t.equal(await engine.sendFile(stream, 9999, [page], slot, 0), EBADF)
      t.equal(await engine.sendFile(9999, file, [page], slot, 0), EBADF)
      t.equal(await refused({}, MIB - 16), 2 * (4096 + 8))
    })
  })
}

t.test('storage that does not answer is told as what is stuck', { skip: slowfsAbsent() }, async (t) => {
  const slow = await SlowFs.mount(t.testdir())
  const engine = engineFor(t, { aio: 'threads' })
  writeFileSync(join(slow.files, 'image'), pattern(MIB))
  const file = await engine.open(join(slow.mount, 'image'), { write: false })
  const { stream, peer } = await connection(t, engine)
  slow.rules({ op: 'read', delayMs: 2000 })
  const sent = engine.sendFile(stream, file, [page], takeSlot(engine), 0)
  while (engine.oldest() === undefined) await new Promise((resolve) => setImmediate(resolve))
  t.match(engine.oldest(), { op: 'sendFile', file })
  slow.rules()
  peer.resume()
  t.equal(await within(sent, LONG, 'the end'), 4096 + 8)
  await engine.close(file)
  await slow.unmount()
})
