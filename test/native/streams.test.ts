// SPDX-License-Identifier: Apache-2.0
// Streams of both engines: what arrives and in which order, and how they end.

import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, constants, openSync, readFileSync, readSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { IoEngine } from '../../native/types.js'
import { installed } from '../helpers/program.js'
import { within } from '../helpers/waiting.js'
import { socketPair } from './descriptors.js'
import { difference, engineFor, kinds, MIB, pattern, takeSlot } from './kinds.js'

const EPIPE = -32
const EINVAL = -22
const ECONNRESET = -104
const ECANCELED = -125
const noFifo = installed('mkfifo') ? false : 'no mkfifo'
/** Longer than a test takes: nothing below may depend on it. */
const LONG = 60_000

const { O_RDONLY, O_RDWR, O_WRONLY, O_NONBLOCK, O_DIRECT, O_APPEND, O_CREAT } = constants

interface Folder {
  testdir(): string
}

function makeFifo(t: Folder): string {
  const path = join(t.testdir(), 'fifo')
  spawnSync('mkfifo', [path])
  return path
}

/** Both ends of a pipe; neither open waits. */
function pipeEnds(path: string, flags = 0): { reader: number; writer: number } {
  const reader = openSync(path, O_RDONLY | O_NONBLOCK)
  const writer = openSync(path, O_WRONLY | flags)
  if ((flags & O_NONBLOCK) !== 0) return { reader, writer }
  const blocking = openSync(path, O_RDONLY)
  closeSync(reader)
  return { reader: blocking, writer }
}

async function adopted(engine: IoEngine, fd: number): Promise<number> {
  const file = await engine.adopt(fd)
  if (file < 0) throw new Error(`adopt: ${file}`)
  return file
}

/** Everything up to the end, received in pieces of `sizes` in turn, `depth` of them queued. */
async function receiveAll(engine: IoEngine, file: number, sizes: readonly number[], depth: number) {
  const slots = engine.takeSlots(depth)
  const parts: Uint8Array[] = []
  let number = 0
  const next = (slot: number) => {
    const length = sizes[number++ % sizes.length] ?? 1
    return { slot, result: engine.receive(file, length, slot, 0, 5) }
  }
  const queue = slots.map(next)
  for (let first = queue.shift(); first !== undefined; first = queue.shift()) {
    const result = await first.result
    if (result < 0) throw new Error(`receive: ${result}`)
    parts.push(engine.slotBytes(first.slot).slice(0, result))
    if (result > 0) queue.push(next(first.slot))
  }
  engine.giveSlots(slots)
  return Buffer.concat(parts)
}

async function sendText(engine: IoEngine, file: number, text: string): Promise<number> {
  const slot = takeSlot(engine)
  engine.slotBytes(slot).set(Buffer.from(text))
  const result = await engine.send(file, text.length, slot, 0)
  engine.giveSlots([slot])
  return result
}

async function receiveText(engine: IoEngine, file: number, length: number, lingerMs: number) {
  const slot = takeSlot(engine)
  const result = await engine.receive(file, length, slot, 0, lingerMs)
  const text = result < 0 ? `${result}` : Buffer.from(engine.slotBytes(slot).subarray(0, result)).toString()
  engine.giveSlots([slot])
  return text
}

for (const { aio, absent } of kinds) {
  t.test(aio, { skip: absent }, async (t) => {
    for (const kind of ['unix', 'tcp'] as const) {
      t.test(`what a peer sends over ${kind} arrives whole and in order`, async (t) => {
        const engine = engineFor(t, { aio })
        const { mine, peer, fd } = await socketPair(t, kind)
        const file = await adopted(engine, fd)
        mine.destroy()
        const sent = pattern(16 * MIB + 12_345)
        let at = 0
        for (const size of [1, 4096, 77_777, 3 * MIB, 5, 9 * MIB]) {
          peer.write(sent.subarray(at, at + size))
          at += size
        }
        peer.end(sent.subarray(at))
        const found = await receiveAll(engine, file, [MIB, 1, 4104, 300_000], 6)
        t.equal(difference(found, sent), undefined)
      })

      t.test(`what is sent over ${kind} arrives whole and in order`, async (t) => {
        const engine = engineFor(t, { aio })
        const { mine, peer, fd } = await socketPair(t, kind)
        const file = await adopted(engine, fd)
        mine.destroy()
        const parts: Buffer[] = []
        peer.on('data', (part: Buffer) => parts.push(part))
        const slots = engine.takeSlots(12)
        const wanted: Uint8Array[] = []
        const results = slots.map((slot, index) => {
          const length = index % 3 === 1 ? 10 + index : MIB - index
          engine.slotBytes(slot).set(pattern(MIB, index))
          wanted.push(pattern(MIB, index).subarray(5, 5 + length - 5))
          return engine.send(file, length - 5, slot, 5)
        })
        t.same(
          await Promise.all(results),
          wanted.map(({ length }) => length),
        )
        engine.shutdownStream(file, 'write')
        await once(peer, 'end')
        t.equal(difference(Buffer.concat(parts), Buffer.concat(wanted)), undefined)
      })
    }

    for (const without of [[], ['nowait']] as const) {
      const how = without.length > 0 ? ', where it cannot be asked without waiting' : ''
      t.test(`a pipe is read to its end${how}`, { skip: noFifo }, async (t) => {
        const engine = engineFor(t, { aio })
        const path = makeFifo(t)
        const file = await engine.open(path, { write: false, without })
        const received = receiveAll(engine, file, [300_000, 7], 3)
        const sent = pattern(2 * MIB)
        const writing = engineFor(t, { aio })
        const writer = openSync(path, O_WRONLY)
        const target = await adopted(writing, writer)
        closeSync(writer)
        const slots = writing.takeSlots(2)
        for (const [index, slot] of slots.entries()) {
          writing.slotBytes(slot).set(sent.subarray(index * MIB, (index + 1) * MIB))
          t.equal(await writing.send(target, MIB, slot, 0), MIB)
        }
        await writing.close(target)
        t.equal(difference(await received, sent), undefined)
      })

      t.test(`a pipe is written as it is read${how}`, { skip: noFifo }, async (t) => {
        const engine = engineFor(t, { aio })
        const path = makeFifo(t)
        const file = await engine.open(path, { write: true, without })
        const reader = openSync(path, O_RDONLY)
        const slot = takeSlot(engine)
        engine.slotBytes(slot).set(pattern(MIB))
        const sends = [0, 1, 2].map(() => engine.send(file, MIB, slot, 0))
        const into = new Uint8Array(3 * MIB)
        for (let at = 0; at < into.length; ) {
          at += readSync(reader, into, at, into.length - at, null)
          await new Promise((resolve) => setImmediate(resolve))
        }
        t.same(await Promise.all(sends), [MIB, MIB, MIB])
        t.equal(difference(into.subarray(MIB, 2 * MIB), pattern(MIB)), undefined)
        closeSync(reader)
      })
    }

    t.test('a pipe nobody has opened for writing has not ended', { skip: noFifo }, async (t) => {
      const engine = engineFor(t, { aio })
      const path = makeFifo(t)
      const file = await engine.open(path, { write: false })
      const text = receiveText(engine, file, 5, LONG)
      await engine.stat(file)
      const writer = openSync(path, O_WRONLY)
      writeSync(writer, 'hel')
      writeSync(writer, 'lo')
      t.equal(await text, 'hello')
      closeSync(writer)
      t.equal(await receiveText(engine, file, 5, LONG), '')
      t.equal(await receiveText(engine, file, 5, LONG), '', 'and again')
    })

    t.test('a receive waits for the first bytes, and lingers for more', async (t) => {
      const engine = engineFor(t, { aio })
      const { peer, fd } = await socketPair(t)
      const file = await adopted(engine, fd)
      const first = receiveText(engine, file, 10, LONG)
      const rest = receiveText(engine, file, 10, 1)
      peer.write('first')
      await engine.stat(file)
      peer.write(' and ')
      t.equal(await first, 'first and ')
      peer.write('rest')
      t.equal(await rest, 'rest', 'nothing more came')
      peer.write('now')
      const now = await receiveText(engine, file, 10, 0)
      t.ok(now.length > 0 && 'now'.startsWith(now), 'what is there at once')
    })

    t.test('what came before the end is told first, then the end for ever', async (t) => {
      const engine = engineFor(t, { aio })
      const { peer, fd } = await socketPair(t)
      const file = await adopted(engine, fd)
      const texts = [1, 2, 3].map(() => receiveText(engine, file, 10, LONG))
      peer.end('last')
      t.same(await Promise.all(texts), ['last', '', ''])
      t.equal(await sendText(engine, file, 'answer'), 6, 'the other direction goes on')
      const [answer] = (await once(peer, 'data')) as [Buffer]
      t.equal(answer.toString(), 'answer')
    })

    t.test('a peer that resets is an error, after what it sent', async (t) => {
      const engine = engineFor(t, { aio })
      const { mine, peer, fd } = await socketPair(t, 'tcp')
      const file = await adopted(engine, fd)
      mine.destroy()
      const waiting = receiveText(engine, file, 10, LONG)
      await engine.stat(file)
      peer.resetAndDestroy()
      t.equal(await waiting, `${ECONNRESET}`)
      t.equal(await receiveText(engine, file, 10, LONG), `${ECONNRESET}`, 'and again')
      t.equal(await sendText(engine, file, 'x'), EPIPE)
    })

    t.test('a reader that has gone is an error and no signal', { skip: noFifo }, async (t) => {
      const engine = engineFor(t, { aio })
      for (const flags of [0, O_NONBLOCK]) {
        const { reader, writer } = pipeEnds(makeFifo(t), flags)
        const file = await adopted(engine, writer)
        closeSync(reader)
        t.equal(await sendText(engine, file, 'x'), EPIPE)
        t.equal(await sendText(engine, file, 'x'), EPIPE)
        closeSync(writer)
      }
      const { mine, peer, fd } = await socketPair(t)
      const file = await adopted(engine, fd)
      mine.destroy()
      const slots = engine.takeSlots(4)
      const sends = slots.map((slot) => engine.send(file, MIB, slot, 0))
      await engine.stat(file)
      peer.destroy()
      const results = await Promise.all(sends)
      t.equal(results.at(-1), EPIPE, results.join())
    })

    t.test('files are read on and written on from where the descriptor stands', async (t) => {
      const engine = engineFor(t, { aio })
      const path = join(t.testdir(), 'file')
      const content = pattern(MIB + 777)
      for (const direct of [0, O_DIRECT]) {
        writeFileSync(path, content)
        const fd = openSync(path, O_RDWR | direct)
        const shared = openSync(path, O_RDONLY)
        readSync(shared, new Uint8Array(100), 0, 100, null)
        const file = await adopted(engine, direct === 0 ? shared : fd)
        const found = await receiveAll(engine, file, [65_536, 4097], 3)
        t.equal(difference(found, content.subarray(direct === 0 ? 100 : 0)), undefined)
        const target = await adopted(engine, fd)
        const before = direct === 0 ? 0 : content.length
        t.equal(await sendText(engine, target, 'written'), 7)
        t.equal(await sendText(engine, target, ' on'), 3)
        t.equal(
          readFileSync(path)
            .subarray(before, before + 10)
            .toString(),
          'written on',
        )
        for (const each of [fd, shared]) closeSync(each)
        for (const each of [file, target]) await engine.close(each)
      }
      const appended = openSync(path, O_WRONLY | O_APPEND | O_CREAT)
      t.equal(await sendText(engine, await adopted(engine, appended), 'end'), 3)
      t.equal(readFileSync(path).subarray(-3).toString(), 'end')
      closeSync(appended)
    })

    t.test('devices are streams', async (t) => {
      const engine = engineFor(t, { aio })
      const zero = await engine.open('/dev/zero', { write: false })
      const sink = await engine.open('/dev/null', { write: true })
      const full = await engine.open('/dev/full', { write: true })
      const slot = takeSlot(engine)
      engine.slotBytes(slot).fill(1)
      t.equal(await engine.receive(zero, MIB, slot, 0, 0), MIB)
      t.ok(engine.slotBytes(slot).every((byte) => byte === 0))
      t.equal(await engine.send(sink, MIB, slot, 0), MIB)
      t.equal(await engine.send(full, MIB, slot, 0), -28)
      t.equal(await engine.receive(sink, MIB, slot, 0, 0), 0)
    })

    t.test('what cannot be a request of a stream is refused', async (t) => {
      const engine = engineFor(t, { aio })
      const file = await engine.open('/dev/zero', { write: true })
      const slot = takeSlot(engine)
      t.equal(await engine.receive(file, 0, slot, 0, 0), EINVAL)
      t.equal(await engine.receive(file, MIB + 1, slot, 0, 0), EINVAL)
      t.equal(await engine.receive(file, 1, slot, 0, -1), EINVAL)
      t.equal(await engine.receive(file, 1, slot + 1, 0, 0), EINVAL)
      t.equal(await engine.send(file, 0, slot, 0), 0)
      t.equal(await engine.send(file + 1, 1, slot, 0), -9)
      engine.shutdownStream(file + 1, 'both')
    })

    t.test('a direction that is shut down wakes who waits in it, in order', { skip: noFifo }, async (t) => {
      const engine = engineFor(t, { aio })
      const { reader, writer } = pipeEnds(makeFifo(t))
      const { mine, peer, fd } = await socketPair(t)
      for (const [kind, number] of [
        ['pipe', reader],
        ['socket', fd],
      ] as const) {
        const file = await adopted(engine, number)
        const order: number[] = []
        const waiting = [0, 1, 2].map(async (index) => {
          const text = await receiveText(engine, file, 10, LONG)
          order.push(index)
          return text
        })
        await engine.stat(file)
        engine.shutdownStream(file, 'read')
        t.same(await Promise.all(waiting), [`${ECANCELED}`, `${ECANCELED}`, `${ECANCELED}`], kind)
        t.same(order, [0, 1, 2])
        t.equal(await receiveText(engine, file, 10, LONG), `${ECANCELED}`, 'and later ones')
        if (kind === 'socket') t.equal(await sendText(engine, file, 'still'), 5, 'the other goes on')
        engine.shutdownStream(file, 'both')
        t.equal(await engine.close(file), 0)
      }
      await within(once(peer.resume(), 'end'), LONG, 'the end of the stream')
      t.pass('the peer learns of it, although others have the socket too')
      mine.destroy()
      closeSync(reader)
      closeSync(writer)
    })

    t.test('a close that waits for a stream ends when the stream is shut down', async (t) => {
      const engine = engineFor(t, { aio })
      const { fd } = await socketPair(t)
      const file = await adopted(engine, fd)
      const waiting = receiveText(engine, file, 10, LONG)
      const closed = engine.close(file)
      engine.shutdownStream(file, 'both')
      t.equal(await waiting, `${ECANCELED}`)
      t.equal(await closed, 0)
    })
  })
}
