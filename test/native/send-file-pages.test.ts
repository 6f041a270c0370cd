// SPDX-License-Identifier: Apache-2.0
// Pages of a file sent as records of a migration stream, without being read into a slot.

import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  constants,
  ftruncateSync,
  openSync,
  readFileSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { IoEngine, Range } from '../../native/types.js'
import { installed } from '../helpers/program.js'
import { within } from '../helpers/waiting.js'
import { socketPair } from './descriptors.js'
import { difference, engineFor, factsOf, KIB, kinds, MIB, pattern, random } from './kinds.js'
import { records } from './page-records.js'

const EIO = -5
const EBADF = -9
const EINVAL = -22
const EPIPE = -32
const ECANCELED = -125
/** Longer than a test takes: nothing below may depend on it. */
const LONG = 20_000
/** More than a socket holds. */
const LARGE = 16 * MIB
const noFifo = installed('mkfifo') ? false : 'no mkfifo'

const first = Buffer.concat([Buffer.from('0000000000003008', 'hex'), Buffer.from('\x06pc.ram')])
const page = { offset: 0, length: 4096 }

async function connection(t: Test, engine: IoEngine, kind: 'unix' | 'tcp' = 'unix') {
  const { mine, peer, fd } = await socketPair(t, kind)
  const stream = await engine.adopt(fd)
  mine.destroy()
  peer.pause()
  peer.on('error', () => undefined)
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

/** What is to arrive of a file in which the block begins at `place`. */
function wantedOf(pages: readonly Range[], pageSize: number, file: Uint8Array, place: number): Buffer {
  const data = pages.map(({ offset, length }) => file.subarray(place + offset, place + offset + length))
  return records(pages, pageSize, Buffer.concat(data), first)
}

/** Of a block of so many bytes, in any order. */
function randomPages(seed: number, block: number, pageSize: number): Range[] {
  const below = random(seed)
  return Array.from({ length: 40 }, () => {
    const length = (1 + below(below(4) === 0 ? 64 : 4)) * pageSize
    return { offset: below((block - length) / pageSize) * pageSize, length }
  })
}

for (const { aio, absent } of kinds) {
  t.test(aio, { skip: absent }, async (t) => {
    for (const kind of ['unix', 'tcp'] as const)
      for (const [pageSize, place] of [
        [4096, 4096],
        [1024, 100],
        [65_536, 3 * 1024],
      ] as const)
        t.test(`pages of ${pageSize} bytes from ${place} on arrive over ${kind}`, async (t) => {
          const engine = engineFor(t, { aio })
          const bytes = pattern(LARGE)
          const { file } = await openFile(t, engine, bytes)
          const seed = Date.now() % 1e6
          t.comment(`seed ${seed}`)
          const block = LARGE - 65_536
          const lists = [randomPages(seed, block, pageSize), [{ offset: 0, length: 65_536 }]]
          const { stream, peer } = await connection(t, engine, kind)
          const received = read(peer)
          for (const pages of lists) {
            const length = pages.reduce((sum, each) => sum + each.length, 0)
            t.equal(await engine.sendFilePages(stream, pages, pageSize, file, place, first), length)
          }
          await engine.close(stream)
          const wanted = lists.map((pages) => wantedOf(pages, pageSize, bytes, place))
          t.equal(difference(await received, Buffer.concat(wanted)), undefined)
        })

    t.test('a file that is not read through the page cache arrives too', async (t) => {
      const engine = engineFor(t, { aio })
      const bytes = pattern(MIB)
      const { file } = await openFile(t, engine, bytes, true)
      const { stream, peer } = await connection(t, engine)
      const received = read(peer)
      const pages = [{ offset: 8192, length: MIB - 8192 }]
      t.equal(await engine.sendFilePages(stream, pages, 4096, file, 0, first), MIB - 8192)
      await engine.close(stream)
      t.equal(difference(await received, wantedOf(pages, 4096, bytes, 0)), undefined)
    })

    t.test('pages of a file to a file, and to a pipe', { skip: noFifo }, async (t) => {
      const engine = engineFor(t, { aio })
      const bytes = pattern(MIB)
      const { file } = await openFile(t, engine, bytes)
      const pages = [page, { offset: 64 * KIB, length: 32 * KIB }]
      const wanted = wantedOf(pages, 4096, bytes, 4096)
      for (const direct of [0, constants.O_DIRECT]) {
        const path = join(t.testdir(), 'stream')
        const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | direct)
        const stream = await engine.adopt(fd)
        t.equal(await engine.sendFilePages(stream, pages, 4096, file, 4096, first), 36 * KIB)
        t.equal(difference(readFileSync(path), wanted), undefined)
        await engine.close(stream)
        closeSync(fd)
      }
      const path = join(t.testdir(), 'fifo')
      spawnSync('mkfifo', [path])
      const stream = await engine.open(path, { write: true })
      const reader = openSync(path, constants.O_RDONLY)
      t.equal(await engine.sendFilePages(stream, pages, 4096, file, 4096, first), 36 * KIB)
      await engine.close(stream)
      t.equal(difference(readFileSync(reader), wanted), undefined)
      closeSync(reader)
    })

    t.test('a file that is not to be mapped arrives all the same', async (t) => {
      const engine = engineFor(t, { aio })
      const bytes = pattern(MIB)
      const path = join(t.testdir(), 'image')
      writeFileSync(path, bytes)
      const file = await engine.open(path, { write: false, without: ['map'] })
      const { stream, peer } = await connection(t, engine)
      const received = read(peer)
      const pages = [{ offset: 64 * KIB, length: 512 * KIB }, page]
      t.equal(await engine.sendFilePages(stream, pages, 4096, file, 100, first), 516 * KIB)
      const behind = [page, { offset: MIB - 4096, length: 4096 }]
      t.same(await engine.sendFilePages(stream, behind, 4096, file, 100, first), { result: EIO, piece: 1 })
      await engine.close(stream)
      t.equal(difference(await received, wantedOf(pages, 4096, bytes, 100)), undefined)
    })

    t.test('a file that cannot be mapped arrives all the same', async (t) => {
      const engine = engineFor(t, { aio })
      const text = Buffer.from(pattern(90 * KIB)).toString('base64')
      const child = spawn('sleep', ['60'], { env: { TEXT: text, PATH: process.env.PATH } })
      t.teardown(() => child.kill())
      await once(child, 'spawn')
      const path = `/proc/${child.pid}/environ`
      const bytes = readFileSync(path)
      t.ok(bytes.length > 100 * KIB)
      const file = await engine.open(path, { write: false })
      const pages = [{ offset: 64 * KIB, length: 16 * KIB }, page]
      const { stream, peer } = await connection(t, engine)
      const received = read(peer)
      t.equal(await engine.sendFilePages(stream, pages, 4096, file, 10, first), 20 * KIB)
      await engine.close(stream)
      t.equal(difference(await received, wantedOf(pages, 4096, bytes, 10)), undefined)
    })

    t.test('what is sent before and behind keeps its place', async (t) => {
      const engine = engineFor(t, { aio })
      const bytes = pattern(LARGE)
      const { file } = await openFile(t, engine, bytes)
      const { stream, peer } = await connection(t, engine)
      const lists = [[{ offset: 0, length: 2 * MIB }], [page], [{ offset: 4 * MIB, length: 2 * MIB }]]
      const sent = lists.map((pages) => engine.sendFilePages(stream, pages, 4096, file, 0, first))
      await factsOf(engine, file)
      const received = read(peer)
      t.same(await Promise.all(sent), [2 * MIB, 4096, 2 * MIB])
      await engine.close(stream)
      const wanted = lists.map((pages) => wantedOf(pages, 4096, bytes, 0))
      t.equal(difference(await received, Buffer.concat(wanted)), undefined)
    })

    t.test('a peer that does not read holds up nothing, and the sending is ended', async (t) => {
      const engine = engineFor(t, { aio, maxRequests: 2, maxBytes: 128 * KIB })
      const { file } = await openFile(t, engine, pattern(LARGE))
      const { stream } = await connection(t, engine)
      const pages = [{ offset: 0, length: 4 * MIB }]
      const sent = Array.from({ length: 3 }, () => engine.sendFilePages(stream, pages, 4096, file, 0, first))
      await factsOf(engine, file)
      t.equal(engine.stats().requests, 3)
      engine.shutdownStream(stream, 'write')
      t.same(await within(Promise.all(sent), LONG, 'the end'), Array(3).fill(ECANCELED))
      t.equal(await engine.sendFilePages(stream, [page], 4096, file, 0, first), ECANCELED, 'and later ones')
      t.equal(engine.oldest(), undefined)
    })

    t.test('a file that ends too early is told with its range, and nothing of it is sent', async (t) => {
      const engine = engineFor(t, { aio })
      const { file } = await openFile(t, engine, pattern(MIB - 5000))
      const { stream, peer } = await connection(t, engine)
      const received = read(peer)
      const pages = [page, { offset: MIB - 8192, length: 4096 }, page]
      const sent = engine.sendFilePages(stream, pages, 4096, file, 0, first)
      const late = engine.sendFilePages(stream, [page], 4096, file, 0, first)
      t.same(await sent, { result: EIO, piece: 1 })
      t.equal(await late, EIO)
      await engine.close(stream)
      t.equal((await received).length, 0)
    })

    t.test('a file that is cut while its peer does not read ends the sending', async (t) => {
      const engine = engineFor(t, { aio })
      const { path, file } = await openFile(t, engine, pattern(LARGE))
      const { stream, peer } = await connection(t, engine)
      const pages = [page, { offset: 4096, length: 8 * MIB }]
      const sent = engine.sendFilePages(stream, pages, 4096, file, 0, first)
      // Something has arrived: the pages are being sent, and most of them have no room yet.
      await within(once(peer, 'readable'), LONG, 'the first bytes')
      truncateSync(path, 4096)
      peer.resume()
      t.same(await within(sent, LONG, 'the end'), { result: EIO, piece: 1 })
      t.equal(await engine.sendFilePages(stream, [page], 4096, file, 0, first), EIO, 'and later ones')
    })

    t.test('so does one that is cut, and it stays so when the file has grown again', async (t) => {
      const engine = engineFor(t, { aio })
      const { path, file } = await openFile(t, engine, pattern(LARGE))
      const { stream, peer } = await connection(t, engine)
      const sent = engine.sendFilePages(stream, [{ offset: 0, length: 8 * MIB }], 4096, file, 0, first)
      await within(once(peer, 'readable'), LONG, 'the first bytes')
      truncateSync(path, 4096)
      peer.resume()
      t.same(await within(sent, LONG, 'the end'), { result: EIO, piece: 0 })
      truncateSync(path, LARGE)
      t.equal(await engine.sendFilePages(stream, [page], 4096, file, 0, first), EIO)
    })

    t.test('a file that cannot be read is told with its error', async (t) => {
      const engine = engineFor(t, { aio })
      const path = join(t.testdir(), 'image')
      const fd = openSync(path, 'w')
      ftruncateSync(fd, MIB)
      const file = await engine.adopt(fd)
      closeSync(fd)
      const { stream } = await connection(t, engine)
      t.same(await engine.sendFilePages(stream, [page], 4096, file, 0, first), { result: EBADF, piece: 0 })
    })

    t.test('a peer that has closed is an error of the stream and no signal', async (t) => {
      const engine = engineFor(t, { aio })
      const { file } = await openFile(t, engine, pattern(LARGE))
      const { stream, peer } = await connection(t, engine)
      const sent = engine.sendFilePages(stream, [{ offset: 0, length: 8 * MIB }], 4096, file, 0, first)
      await factsOf(engine, file)
      peer.destroy()
      t.equal(await within(sent, LONG, 'the end'), EPIPE)
      t.equal(await engine.sendFilePages(stream, [page], 4096, file, 0, first), EPIPE, 'and later')
    })

    t.test('what is no pages of a file is refused', async (t) => {
      const engine = engineFor(t, { aio })
      const { file } = await openFile(t, engine, pattern(MIB))
      const { stream } = await connection(t, engine)
      const send = (pages: Range[], pageSize: number, offset = 0) =>
        engine.sendFilePages(stream, pages, pageSize, file, offset, first)
      t.equal(await send([], 4096), EINVAL, 'none')
      t.equal(await send([page], 512), EINVAL, 'flags would not fit')
      t.equal(await send([page], 3000), EINVAL)
      t.equal(await send([page], Number.NaN), EINVAL)
      t.equal(await send([page], 2 ** 40), EINVAL)
      t.equal(await send([{ offset: 100, length: 4096 }], 4096), EINVAL)
      t.equal(await send([{ offset: 0, length: 4095 }], 4096), EINVAL)
      t.equal(await send([{ offset: -4096, length: 4096 }], 4096), EINVAL)
      t.equal(await send([{ offset: 0, length: 128 * MIB }], 4096), EINVAL, 'more than is copied at once')
      t.equal(await send([page], 4096, -1), EINVAL)
      t.equal(await send([page], 4096, 2 ** 63), EINVAL)
      t.equal(await engine.sendFilePages(stream, [page], 4096, 99, 0, first), EBADF)
    })
  })
}
