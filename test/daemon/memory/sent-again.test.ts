// SPDX-License-Identifier: Apache-2.0
// Pages that go out more than once, or were data before they became zero: who loads them has what they were last, in whatever
// order his connections are read between two sync points.

import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { ImageHead } from '../../../daemon/memory/image.js'
import type { SinkSpec } from '../../../daemon/memory/messages.js'
import { MultifdSink } from '../../../daemon/memory/multifd-sink.js'
import { Slots } from '../../../daemon/memory/slots.js'
import { ConnectionWriter } from '../../../daemon/memory/stream-writer.js'
import { createEngine } from '../../../native/engine.js'
import { concat } from '../../../protocol/migration/bytes.js'
import { Replay } from '../../helpers/migration/replay.js'
import { replayMultifd } from '../../helpers/migration/replay-sets.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { attempt } from './attempt.js'
import { headOf, PAGE, partOf, statesBytes, tailBytes } from './synthetic.js'
import { fileSource, spec } from './worker.js'

const PAGES = 16
const blocks = [{ name: 'pc.ram', usedLength: PAGES * PAGE }]
const filled = (value: number) => new Uint8Array(PAGE).fill(value)
const all = (value: number) =>
  Array.from({ length: PAGES }, (_, page) => ({ offset: page * PAGE, data: filled(value) }))

/** Listens as a QEMU that comes in. @returns what came over each connection, once all were closed */
async function peer(t: Test): Promise<{ path: string; received: Promise<Buffer>[] }> {
  const path = join(shortFolder(t), 'qemu.sock')
  const received: Promise<Buffer>[] = []
  const server = createServer((socket) => {
    const parts: Buffer[] = []
    socket.on('data', (bytes) => parts.push(bytes))
    received.push(once(socket, 'close').then(() => Buffer.concat(parts)))
  })
  server.listen(path)
  await once(server, 'listening')
  t.teardown(() => server.close())
  return { path, received }
}

/** What memory is when the connections are read in the order they came, and the other way round. */
function loaded(connections: readonly Buffer[]): Buffer[] {
  const main = connections.find((bytes) => bytes.toString('latin1', 0, 4) === 'QEVM') ?? Buffer.alloc(0)
  const others = connections.filter((bytes) => bytes !== main)
  const replays =
    others.length === 0
      ? [new Replay(main)]
      : [others, [...others].reverse()].map((order) => replayMultifd(main, order).replay)
  return replays.map((replay) => replay.block('pc.ram').memory)
}

for (const channels of [0, 2])
  t.test(`a page that became zero is zero behind ${1 + channels} connections`, async (t) => {
    const source = join(t.testdir(), 'source')
    const last = [
      { offset: 3 * PAGE, data: undefined },
      { offset: 4 * PAGE, data: filled(2) },
      { offset: 9 * PAGE, data: new Uint8Array(PAGE) },
      { offset: 15 * PAGE, data: undefined },
    ]
    const bytes = concat([headOf(blocks), partOf('pc.ram', all(1)), partOf('pc.ram', last), tailBytes()])
    writeFileSync(source, bytes)
    const { path, received } = await peer(t)
    const to = { kind: 'connect', address: { kind: 'unix', path } } as const
    const sink: SinkSpec = { kind: 'stream', channels, zeroPages: false, to }
    t.equal(await attempt(spec(fileSource(source), sink)), undefined)
    const wanted = new Replay(Buffer.from(bytes)).block('pc.ram').memory
    for (const memory of loaded(await Promise.all(received))) t.ok(memory.equals(wanted))
  })

t.test('pages behind a barrier come after those before it, over whatever channel', async (t) => {
  const { path, received } = await peer(t)
  const engine = createEngine({ aio: 'threads', maxSlots: 64 })
  const slots = new Slots(engine, 64)
  const connect = () => engine.connect({ kind: 'unix', path })
  const main = await connect()
  const channels = [await connect(), await connect()]
  const writer = new ConnectionWriter(slots, main, path)
  const sink = new MultifdSink({ slots, writer, channels, name: path, zeroPages: false, local: true })
  const head: ImageHead = {
    configuration: { machine: 'pc-q35-10.0', pageBits: undefined, capabilities: undefined, uuid: undefined },
    ...{ pageSize: PAGE, section: 2, blocks: [{ name: 'pc.ram', length: PAGES * PAGE }], syncPerWalk: true },
  }
  const [place] = await sink.begin(head)
  const give = async (page: number, value: number) => {
    const slot = await slots.take('gather')
    slots.bytes(slot).set(filled(value))
    place?.bitmap.fill(0xff)
    await sink.pages({
      slot,
      pieces: [{ offset: (place?.place ?? 0) + page * PAGE, length: PAGE }],
      length: PAGE,
    })
  }
  await Promise.all([give(0, 1), give(1, 1)])
  await sink.barrier()
  await Promise.all([give(1, 2), give(0, 2)])
  await sink.barrier()
  await sink.pagesDone()
  await sink.tail(statesBytes())
  await sink.finish()
  t.equal(await engine.shutdown(5000), 0)
  for (const memory of loaded(await Promise.all(received)))
    t.same([memory[0], memory[PAGE]], [2, 2], 'the last ones')
})
