// SPDX-License-Identifier: Apache-2.0
// Packets of multifd that are received apart from their heads: what the scanner makes of them, in place and copied.

import { once } from 'node:events'
import type { Socket } from 'node:net'
import t from 'tap'
import { createChannelScanner } from '../../native/page-scanner.js'
import type { ChannelScanner, ReceivedPackets } from '../../native/stream-types.js'
import type { FileId, IoEngine } from '../../native/types.js'
import {
  deflated,
  HEAD_BYTES,
  type Packet,
  PacketFlag,
  packetBytes,
  randomPackets,
  replayPackets,
} from './channel-packets.js'
import { socketPair } from './descriptors.js'
import { difference, engineFor, KIB, kinds, MIB, pattern, random, takeSlot } from './kinds.js'
import { type BlockSpec, type Memory, Model, makeMemory } from './page-streams.js'

const seed = Number(process.env.TEST_SEED ?? Math.floor(Math.random() * 2 ** 31))
const PAGE = 4096
const EINVAL = -22
const EOPNOTSUPP = -95
/** Longer than a test takes. */
const LONG = 60_000
const specs: readonly BlockSpec[] = [
  { name: 'pc.ram', pages: 300 },
  { name: 'pc.rom', pages: 40 },
]

async function bytesOf(packets: readonly Packet[], compressed: boolean): Promise<Buffer> {
  const data = compressed ? await deflated(packets) : packets.map(({ pages }) => Buffer.concat(pages))
  return Buffer.concat(
    packets.map((packet, index) => packetBytes(packet, data[index] ?? new Uint8Array(0), PAGE)),
  )
}

async function write(peer: Socket, bytes: Uint8Array): Promise<void> {
  if (!peer.write(bytes)) await once(peer, 'drain')
}

class Reader {
  readonly #engine: IoEngine
  readonly #scanner: ChannelScanner
  readonly #memory: Memory
  /** Pages are gathered there when they are copied. */
  readonly #aside: number
  readonly stops: string[] = []
  inPlace = 0

  constructor(engine: IoEngine, scanner: ChannelScanner, memory: Memory) {
    this.#engine = engine
    this.#scanner = scanner
    this.#memory = memory
    this.#aside = takeSlot(engine)
  }

  take({ length, heads }: ReceivedPackets, slot: number): void {
    const scanner = this.#scanner
    const kept = scanner.inPlace()
    if (kept) this.inPlace++
    const into = kept ? slot : this.#aside
    scanner.gatherInto(into)
    for (let at = 0, from = 0; at < length || from < heads.length; ) {
      const { taken, headsTaken, stop } = scanner.scanApart(slot, at, length - at, heads, from)
      at += taken
      from += headsTaken
      if (stop !== 'input') this.stops.push(stop)
      if (stop === 'bad') return
      if (stop !== 'full') continue
      this.#write(into)
      scanner.gatherInto(into)
    }
    this.#write(into)
  }

  #write(slot: number): void {
    const { pieces, length } = this.#scanner.take()
    const bytes = this.#engine.slotBytes(slot)
    let at = 0
    for (const piece of pieces) {
      this.#memory.image.set(bytes.subarray(at, at + piece.length), piece.offset)
      at += piece.length
    }
    if (at !== length) throw new Error(`${length} bytes in pieces of ${at}`)
  }
}

/** Up to the end. @param size  of the next request, bytes */
async function receiveAll(engine: IoEngine, file: FileId, reader: Reader, size: () => number): Promise<void> {
  const slot = takeSlot(engine)
  for (;;) {
    const came = await engine.receivePackets(file, size(), slot, 0, 1, PAGE)
    if (typeof came === 'number') {
      if (came < 0) throw new Error(`receivePackets: ${came}`)
      return
    }
    reader.take(came, slot)
  }
}

async function connected(t: Parameters<typeof socketPair>[0], engine: IoEngine) {
  const { mine, peer, fd } = await socketPair(t, 'unix')
  const file = await engine.adopt(fd)
  mine.destroy()
  return { peer, file }
}

for (const { aio, absent } of kinds)
  for (const compressed of [false, true])
    t.test(
      `${aio}: random packets leave what the model leaves${compressed ? ', compressed' : ''}`,
      { skip: absent },
      async (t) => {
        t.comment(`TEST_SEED=${seed}`)
        const below = random(seed)
        let inPlace = 0
        for (let round = 0; round < 12; round++) {
          const engine = engineFor(t, { aio })
          const packets = randomPackets(below, specs, PAGE, compressed ? PacketFlag.zlib : 0)
          const wanted = makeMemory(specs, PAGE)
          const model = new Model(wanted, PAGE, true)
          replayPackets(packets, wanted, model)
          const bytes = await bytesOf(packets, compressed)
          const { peer, file } = await connected(t, engine)
          const found = makeMemory(specs, PAGE)
          const scanner = createChannelScanner(engine, PAGE, found.blocks, 'gather')
          const reader = new Reader(engine, scanner, found)
          const whole = below(2) === 0
          const all = receiveAll(engine, file, reader, () => (whole ? MIB : 1 + below(100 * KIB)))
          for (let at = 0; at < bytes.length; ) {
            const length = 1 + below(below(2) === 0 ? 3000 : 400_000)
            await write(peer, bytes.subarray(at, at + length))
            at += length
          }
          peer.end()
          await all
          t.equal(scanner.problem(), '', `round ${round}`)
          t.same(
            reader.stops.filter((stop) => stop !== 'full'),
            model.seen,
          )
          t.same(scanner.counts(), model.counts)
          t.equal(difference(found.image, wanted.image), undefined)
          for (const [index, { bitmap, digests }] of found.blocks.entries()) {
            t.same(bitmap, wanted.blocks[index]?.bitmap)
            t.same(digests, wanted.blocks[index]?.digests)
          }
          t.notOk(scanner.within())
          inPlace += reader.inPlace
        }
        t.equal(inPlace > 0, !compressed, `${inPlace} times in place`)
      },
    )

const full = (number: number, flags = 0): Packet => ({
  flags,
  name: 'pc.ram',
  normal: Array.from({ length: 128 }, (_, index) => ((number % 2) * 128 + index) * PAGE),
  pages: [pattern(512 * KIB, number)],
  zero: [],
  number,
})
const sync: Packet = {
  flags: PacketFlag.sync,
  name: '',
  normal: [],
  pages: [],
  zero: [],
  number: 9,
  staleSize: 77,
}

t.test('a request has whole packets, and nothing from behind a sync point', async (t) => {
  const engine = engineFor(t, { aio: 'threads' })
  const { peer, file } = await connected(t, engine)
  const small: Packet = { ...full(4), normal: [0], pages: [pattern(PAGE, 3)] }
  const packets = [full(0), full(1), small, full(2), full(3), sync, full(4, PacketFlag.sync), small]
  peer.end(await bytesOf(packets, false))
  const lengths: number[] = []
  const heads: Uint8Array[] = []
  const parts: Uint8Array[] = []
  const slot = takeSlot(engine)
  for (;;) {
    const came = await engine.receivePackets(file, MIB, slot, 0, LONG, PAGE)
    if (typeof came === 'number') break
    lengths.push(came.length / PAGE)
    heads.push(came.heads)
    parts.push(engine.slotBytes(slot).slice(0, came.length))
  }
  t.same(lengths, [256, 129, 128, 128, 1])
  t.equal(Buffer.concat(heads).length, packets.length * HEAD_BYTES(PAGE))
  t.equal(difference(Buffer.concat(parts), Buffer.concat(packets.flatMap(({ pages }) => pages))), undefined)
})

t.test('a stream that ends within a packet is told from one that ends behind it', async (t) => {
  const whole = await bytesOf([full(0), full(1)], false)
  for (const [cut, within] of [
    [0, false],
    [1, true],
    [PAGE, true],
    [512 * KIB, true],
    [512 * KIB + 1, true],
    [512 * KIB + HEAD_BYTES(PAGE) - 1, true],
    [512 * KIB + HEAD_BYTES(PAGE), false],
  ] as const) {
    const engine = engineFor(t, { aio: 'threads' })
    const { peer, file } = await connected(t, engine)
    const memory = makeMemory(specs, PAGE)
    const scanner = createChannelScanner(engine, PAGE, memory.blocks, 'gather')
    peer.end(whole.subarray(0, whole.length - cut))
    await receiveAll(engine, file, new Reader(engine, scanner, memory), () => MIB)
    t.equal(scanner.within(), within, `${cut} bytes less`)
  }
})

t.test('what a head claims moves nothing past the slot', async (t) => {
  const engine = engineFor(t, { aio: 'threads' })
  const { peer, file } = await connected(t, engine)
  const bytes = await bytesOf([full(0), full(1)], false)
  bytes.writeUInt32BE(2 ** 32 - 1, 20)
  peer.end(bytes)
  const memory = makeMemory(specs, PAGE)
  const scanner = createChannelScanner(engine, PAGE, memory.blocks, 'gather')
  const reader = new Reader(engine, scanner, memory)
  const slot = takeSlot(engine)
  const came = await engine.receivePackets(file, 64 * KIB, slot, 0, LONG, PAGE)
  if (typeof came === 'number') throw new Error(`${came}`)
  t.equal(came.length, 64 * KIB)
  reader.take(came, slot)
  t.same(reader.stops, ['bad'])
  t.equal(scanner.problem(), 'packet 0 has 4294967295 bytes for 128 pages')
})

t.test('packets without data end a request too', async (t) => {
  const engine = engineFor(t, { aio: 'threads' })
  const { peer, file } = await connected(t, engine)
  const zeroes: Packet = { ...full(0), normal: [], pages: [], zero: [PAGE] }
  peer.write(
    await bytesOf(
      Array.from({ length: 257 }, () => zeroes),
      false,
    ),
  )
  const came = await engine.receivePackets(file, MIB, takeSlot(engine), 0, LONG, PAGE)
  if (typeof came === 'number') throw new Error(`${came}`)
  t.same([came.length, came.heads.length], [0, 256 * HEAD_BYTES(PAGE)])
  peer.destroy()
})

t.test('what is no channel is refused', async (t) => {
  const engine = engineFor(t, { aio: 'threads' })
  const { peer, file } = await connected(t, engine)
  const slot = takeSlot(engine)
  for (const pageSize of [512, 4095, 2 * MIB])
    t.equal(await engine.receivePackets(file, MIB, slot, 0, LONG, pageSize), EINVAL, `pages of ${pageSize}`)
  const folder = await engine.open(t.testdir(), { write: false, directory: true })
  t.equal(await engine.receivePackets(folder, MIB, slot, 0, LONG, PAGE), EOPNOTSUPP)
  peer.destroy()
})
