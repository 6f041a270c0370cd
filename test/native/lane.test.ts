// SPDX-License-Identifier: Apache-2.0
// Lanes: what a task of the engine does for an NBD client by itself, and what comes back to JavaScript.

import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import t from 'tap'
import type { LaneStyle, LaneTerms } from '../../native/lane-types.js'
import type { FileId, IoEngine } from '../../native/types.js'
import type { Agreed } from '../../protocol/nbd/agreed.js'
import { commandFlags, commands } from '../../protocol/nbd/constants.js'
import { type Ask, NbdClient } from '../helpers/nbd/client.js'
import { SlowFs, slowfsAbsent } from '../helpers/slowfs.js'
import { pace, within } from '../helpers/waiting.js'
import { openDescriptors, socketPair } from './descriptors.js'
import { engineFor, kinds, MIB, pattern, takeSlot } from './kinds.js'

const STYLES: readonly LaneStyle[] = ['simple', 'structured', 'extended']
const SIZE = MIB
const ROOM = 64 * 1024
const NEVER_MS = 60_000
const EBADF = -9
const ECANCELED = -125

function agreed(style: LaneStyle): Agreed {
  const blockSizes = { minimum: 1, preferred: 4096, maximumPayload: 32 * MIB }
  return { exportName: '', size: SIZE, flags: 0, replies: style, blockSizes, contexts: [] }
}

interface Track {
  readonly engine: IoEngine
  readonly file: FileId
  readonly path: string
  readonly client: NbdClient
  readonly terms: LaneTerms
}

interface TrackOptions {
  readonly aio: 'threads' | 'io_uring'
  readonly style?: LaneStyle
  readonly direct?: boolean
  /** Of the image. */
  readonly folder?: string
  readonly kind?: 'unix' | 'tcp'
}

/** A client and a file with a pattern in its first half. */
async function track(
  t: Test,
  { aio, style = 'structured', direct = false, ...more }: TrackOptions,
): Promise<Track> {
  const engine = engineFor(t, { aio })
  const path = join(more.folder ?? t.testdir(), 'disk.img')
  writeFileSync(path, pattern(SIZE / 2))
  truncateSync(path, SIZE)
  const file = await engine.open(path, { write: true, direct })
  const { peer, fd } = await socketPair(t, more.kind)
  const stream = await engine.adopt(fd)
  const terms = {
    ...{ file, stream, slot: takeSlot(engine), slotOffset: 4096, room: ROOM, length: SIZE, style },
    ...{ writable: true, align: 1, idleMs: NEVER_MS },
  }
  return { engine, file, path, client: new NbdClient(peer, agreed(style)), terms }
}

const payloadFlag = (style: LaneStyle) => (style === 'extended' ? commandFlags.PAYLOAD_LEN : 0)

for (const { aio, absent } of kinds)
  t.test(aio, { skip: absent }, async (t) => {
    for (const style of STYLES)
      for (const direct of [false, true])
        t.test(
          `${style}, ${direct ? 'direct' : 'cached'}: reads and writes one by one need nobody else`,
          async (t) => {
            const { engine, client, terms, path } = await track(t, { aio, style, direct })
            const lane = engine.lane(terms)
            const model = Buffer.from(readFileSync(path))
            for (let turn = 0; turn < 50; turn++) {
              const offset = ((turn * 37) % 200) * 4096
              const bytes = pattern(4096 * (1 + (turn % 16)), turn)
              t.equal((await client.write(offset, bytes)).error, 0)
              model.set(bytes, offset)
              const { data } = await client.read(offset, ROOM)
              t.ok(data.equals(model.subarray(offset, offset + ROOM)), `turn ${turn}`)
            }
            t.strictSame(lane.counts().reads, 50)
            lane.callBack()
            const { result, received, unsent } = await lane.ended
            t.strictSame([result, received.length, unsent.length], [0, 0, 0])
            const { reads, readBytes, writes, writeBytes, from, to } = lane.counts()
            t.strictSame([reads, readBytes, writes], [50, 50 * ROOM, 50])
            t.equal(
              writeBytes,
              50 * 4096 + 4096 * Array.from({ length: 50 }, (_, turn) => turn % 16).reduce((a, b) => a + b),
            )
            t.ok(from === 0 && to <= SIZE && to > 180 * 4096)
            t.ok(Buffer.from(readFileSync(path)).equals(model), 'the file has it all')
          },
        )

    t.test('zeroes are told as holes where the client knows them', async (t) => {
      for (const style of STYLES) {
        const { engine, client, terms } = await track(t, { aio, style })
        const lane = engine.lane(terms)
        const { data, chunks } = await client.read(SIZE / 2, ROOM)
        t.ok(data.equals(Buffer.alloc(ROOM)))
        t.strictSame(chunks, style === 'simple' ? [] : ['OFFSET_HOLE'], style)
        lane.callBack()
        t.equal((await lane.ended).result, 0)
      }
    })

    t.test('what is unusual comes back as it was sent', async (t) => {
      const payload = pattern(4096)
      const { READ, WRITE, FLUSH, TRIM } = commands
      const cases: readonly (Ask & {
        name: string
        terms?: Partial<LaneTerms>
        direct?: true
        style?: LaneStyle
      })[] = [
        { name: 'a flush', command: FLUSH, offset: 0, length: 0 },
        { name: 'another command', command: TRIM, offset: 0, length: 4096 },
        { name: 'a flag', command: READ, offset: 0, length: 4096, flags: commandFlags.DF },
        { name: 'FUA', command: WRITE, offset: 0, length: 4096, flags: commandFlags.FUA, payload },
        { name: 'nothing', command: READ, offset: 0, length: 0 },
        { name: 'beyond the end', command: READ, offset: SIZE - 512, length: 1024 },
        { name: 'far beyond', command: WRITE, offset: 2 ** 52, length: 4096, payload },
        { name: 'too long', command: READ, offset: 0, length: ROOM + 1 },
        {
          name: 'a payload that is too long',
          command: WRITE,
          offset: 0,
          length: ROOM + 4096,
          payload: pattern(ROOM + 4096),
        },
        {
          name: 'unaligned for the client',
          command: READ,
          offset: 512,
          length: 4096,
          terms: { align: 4096 },
        },
        { name: 'unaligned for the file', command: WRITE, offset: 1, length: 4096, payload, direct: true },
        {
          name: 'a write where only reads are wanted',
          command: WRITE,
          offset: 0,
          length: 4096,
          payload,
          terms: { writable: false },
        },
        {
          name: 'a payload of a read',
          command: READ,
          offset: 0,
          length: 4096,
          flags: commandFlags.PAYLOAD_LEN,
          style: 'extended',
        },
      ]
      for (const { name, terms: other, direct = false, style = 'structured', ...ask } of cases) {
        const { engine, client, terms, path } = await track(t, { aio, style, direct })
        const before = readFileSync(path)
        const lane = engine.lane({ ...terms, ...other })
        t.equal((await client.read(0, 4096)).error, 0)
        const { bytes } = client.prepare(ask)
        client.socket.write(bytes)
        const { result, received, unsent } = await within(lane.ended, NEVER_MS, name)
        t.equal(result, 0, name)
        // What is behind a payload that does not fit stays in the socket.
        t.ok(
          received.length > 0 && Buffer.from(received).equals(bytes.subarray(0, received.length)),
          `${name}: the bytes`,
        )
        if (bytes.length <= ROOM) t.equal(received.length, bytes.length, name)
        t.equal(unsent.length, 0, name)
        t.ok(readFileSync(path).equals(before), `${name}: nothing was done`)
      }
    })

    t.test('who asks for more before the answer came gets it elsewhere', async (t) => {
      const { engine, client, terms } = await track(t, { aio })
      const lane = engine.lane(terms)
      const asks = [0, 1, 2, 3].map((at) =>
        client.prepare({ command: commands.READ, offset: at * 4096, length: 4096 }),
      )
      const stream = Buffer.concat(asks.map(({ bytes }) => bytes))
      client.socket.write(stream)
      const { received } = await lane.ended
      const { reads } = lane.counts()
      t.ok(Buffer.from(received).equals(stream.subarray(28 * reads, 28 * reads + received.length)))
      t.equal(reads, 0, 'they came together')
    })

    t.test('what does not come whole comes back', async (t) => {
      const { engine, client, terms, path } = await track(t, { aio })
      const before = readFileSync(path)
      const { bytes } = client.prepare({
        command: commands.WRITE,
        offset: 0,
        length: 4096,
        payload: pattern(4096, 9),
      })
      const lane = engine.lane(terms)
      client.socket.end(bytes.subarray(0, 1000))
      const { result, received } = await lane.ended
      t.equal(result, 0)
      t.ok(Buffer.from(received).equals(bytes.subarray(0, 1000)))
      t.ok(readFileSync(path).equals(before), 'nothing was written')
    })

    t.test('a request in the smallest pieces is served', async (t) => {
      const { engine, client, terms } = await track(t, { aio, style: 'extended' })
      const lane = engine.lane(terms)
      const ask = {
        command: commands.WRITE,
        offset: 7,
        length: 50,
        payload: pattern(50),
        flags: payloadFlag('extended'),
      }
      const { bytes, answer } = client.prepare(ask)
      for (const byte of bytes) {
        client.socket.write(Uint8Array.of(byte))
        await new Promise((resolve) => setImmediate(resolve))
      }
      t.equal((await answer).error, 0)
      lane.callBack()
      await lane.ended
      t.equal(lane.counts().writes, 1)
    })

    t.test('a client that is silent ends it', async (t) => {
      const { engine, client, terms } = await track(t, { aio })
      const lane = engine.lane({ ...terms, idleMs: 20 })
      t.equal((await client.read(0, 4096)).error, 0)
      const { result, received } = await lane.ended
      t.strictSame([result, received.length, lane.counts().reads], [0, 0, 1])
      const again = engine.lane({ ...terms, idleMs: 20 })
      await again.ended
      t.equal((await engine.close(terms.stream)) + (await engine.close(terms.file)), 0)
    })

    t.test('a client that sends its request a byte at a time does not keep it', async (t) => {
      const { engine, client, terms, path } = await track(t, { aio })
      const before = readFileSync(path)
      const lane = engine.lane({ ...terms, idleMs: 50 })
      let over = false
      const ended = lane.ended.finally(() => {
        over = true
      })
      const { bytes } = client.prepare({
        command: commands.WRITE,
        offset: 0,
        length: 4096,
        payload: pattern(4096, 9),
      })
      let sent = 0
      for (; !over && sent < bytes.length; sent++) {
        client.socket.write(bytes.subarray(sent, sent + 1))
        await pace(5)
      }
      const { received } = await ended
      t.ok(received.length > 0 && received.length < bytes.length, `${received.length} of ${sent} bytes`)
      t.ok(Buffer.from(received).equals(bytes.subarray(0, received.length)))
      t.equal(lane.counts().writes, 0)
      t.ok(readFileSync(path).equals(before), 'nothing was written')
    })

    t.test('a client that goes away ends it', async (t) => {
      const { engine, client, terms } = await track(t, { aio })
      const lane = engine.lane(terms)
      client.socket.destroy()
      t.match(await lane.ended, { result: 0, received: { length: 0 } })
    })

    t.test('what the socket does not take is left to JavaScript', async (t) => {
      const { engine, client, terms } = await track(t, { aio, style: 'simple' })
      client.socket.pause()
      let unsent = new Uint8Array()
      let reads = 0
      while (unsent.length === 0) {
        const { bytes } = client.prepare({ command: commands.READ, offset: 0, length: ROOM })
        const lane = engine.lane(terms)
        client.socket.write(bytes)
        while (lane.counts().reads === 0) await pace(1)
        lane.callBack()
        unsent = (await lane.ended).unsent as Uint8Array<ArrayBuffer>
        reads += lane.counts().reads
      }
      const reply = 16 + ROOM
      const bytes: Buffer[] = []
      client.socket.removeAllListeners('data')
      client.socket.on('data', (piece: Buffer) => bytes.push(piece))
      client.socket.resume()
      const missing = () => reads * reply - unsent.length - bytes.reduce((sum, { length }) => sum + length, 0)
      while (missing() > 0) await pace(1)
      const all = Buffer.concat([...bytes, unsent])
      t.equal(all.length, reads * reply)
      const content = Buffer.from(pattern(SIZE / 2)).subarray(0, ROOM)
      for (let at = 0; at < all.length; at += reply)
        t.ok(all.subarray(at + 16, at + reply).equals(content), `reply at ${at}`)
    })

    t.test('a file that became shorter is for JavaScript to tell', async (t) => {
      const { engine, client, terms, path } = await track(t, { aio })
      truncateSync(path, SIZE / 4)
      const lane = engine.lane(terms)
      const { bytes } = client.prepare({ command: commands.READ, offset: SIZE / 2, length: 4096 })
      client.socket.write(bytes)
      t.ok(Buffer.from((await lane.ended).received).equals(bytes))
      t.equal(lane.counts().reads, 0)
    })

    t.test('one that is called back before it began does nothing', async (t) => {
      const { engine, client, terms } = await track(t, { aio })
      const { bytes } = client.prepare({ command: commands.READ, offset: 0, length: 4096 })
      client.socket.write(bytes)
      const lane = engine.lane(terms)
      lane.callBack()
      lane.callBack()
      const { received } = await lane.ended
      const { reads } = lane.counts()
      // What came too late is still in the socket.
      const left = received.length === 0 || Buffer.from(received).equals(bytes)
      t.ok(left && reads * received.length === 0 && reads <= 1, `${reads} reads, ${received.length} bytes`)
    })

    t.test('an engine that ends ends its lanes', async (t) => {
      const { engine, client, terms } = await track(t, { aio })
      const lane = engine.lane(terms)
      t.equal((await client.read(0, 4096)).error, 0)
      t.equal(await engine.shutdown(NEVER_MS), 0)
      t.equal((await lane.ended).result, 0)
      t.equal((await engine.lane(terms).ended).result, ECANCELED)
    })

    t.test('what does not fit is refused', async (t) => {
      const { engine, terms } = await track(t, { aio })
      const EINVAL = -22
      for (const wrong of [{ slot: 999 }, { slotOffset: MIB }, { room: 0 }, { align: 0 }, { length: -1 }])
        t.equal((await engine.lane({ ...terms, ...wrong }).ended).result, EINVAL, JSON.stringify(wrong))
      t.equal((await engine.lane({ ...terms, file: 4711 }).ended).result, EBADF)
      t.equal((await engine.lane({ ...terms, stream: 4711 }).ended).result, EBADF)
    })

    t.test('a hundred lanes hold up no storage and leave nothing open', async (t) => {
      const { engine, client, terms } = await track(t, { aio })
      const open = openDescriptors().length
      for (let turn = 0; turn < 100; turn++) {
        const lane = engine.lane(terms)
        if (turn % 2 === 0) t.equal((await client.read(0, 512)).error, 0)
        lane.callBack()
        await lane.ended
      }
      t.equal(openDescriptors().length, open)
    })
  })

t.test('storage that is slow', { skip: slowfsAbsent() }, async (t) => {
  const slow = await SlowFs.mount(t.testdir())
  for (const { aio, absent } of kinds) {
    await t.test(
      `${aio}: a stuck write is told as such, and comes back when it is called back`,
      { skip: absent },
      async (t) => {
        const { engine, client, terms } = await track(t, { aio, folder: slow.mount })
        const lane = engine.lane(terms)
        t.equal((await client.read(0, 4096)).error, 0)
        t.equal(engine.oldest(), undefined, 'who waits for the client is not stuck')
        slow.rules({ op: 'write', delayMs: 1500 })
        const ask = { command: commands.WRITE, offset: 8192, length: 4096, payload: pattern(4096, 3) }
        const { bytes, answer } = client.prepare(ask)
        let answered = false
        const note = () => {
          answered = true
        }
        void answer.then(note, () => undefined)
        client.socket.write(bytes)
        while (engine.oldest() === undefined) await pace(5)
        t.match(engine.oldest(), { op: 'write', file: terms.file })
        lane.callBack()
        const { received } = await lane.ended
        slow.rules()
        t.ok(Buffer.from(received).equals(bytes), 'to be done again')
        t.notOk(answered)
        const { from, to, writes } = lane.counts()
        t.strictSame([from, to, writes], [8192, 12288, 0], 'but it may have changed the file')
        t.equal(engine.oldest(), undefined)
      },
    )

    await t.test(`${aio}: a write that fails comes back`, { skip: absent }, async (t) => {
      const { engine, client, terms } = await track(t, { aio, folder: slow.mount })
      slow.rules({ op: 'write', delayMs: 0, error: 'ENOSPC' })
      const lane = engine.lane(terms)
      const ask = { command: commands.WRITE, offset: 0, length: 4096, payload: pattern(4096, 3) }
      const { bytes } = client.prepare(ask)
      client.socket.write(bytes)
      t.ok(Buffer.from((await lane.ended).received).equals(bytes))
      slow.rules()
    })
  }
  await slow.unmount()
})
