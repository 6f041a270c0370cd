// SPDX-License-Identifier: Apache-2.0
// The sink for a QEMU that comes in with multifd, by itself. What it sends is tested with peers that load it: sent-again.test.ts.

import { once } from 'node:events'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import type { ImageHead } from '../../../daemon/memory/image.js'
import { MultifdSink } from '../../../daemon/memory/multifd-sink.js'
import { Slots } from '../../../daemon/memory/slots.js'
import { ConnectionWriter } from '../../../daemon/memory/stream-writer.js'
import { createEngine } from '../../../native/engine.js'
import { shortFolder } from '../../helpers/short-folder.js'

const PAGE = 4096
const PAGES = 2048
/** More slots of pages than a socket takes that nobody reads. */
const BATCHES = 24

t.test('an abort gives no slot back from which something is being sent', async (t) => {
  const path = join(shortFolder(t), 'peer')
  // Nobody reads there.
  const server = createServer({ pauseOnConnect: true }).listen(path)
  await once(server, 'listening')
  server.on('connection', (socket) => {
    socket.on('error', () => undefined)
    t.teardown(() => socket.destroy())
  })
  t.teardown(() => server.close())
  const engine = createEngine({ aio: 'threads', maxSlots: 64 })
  const slots = new Slots(engine, 64)
  const connect = () => engine.connect({ kind: 'unix', path })
  const main = await connect()
  const channels = [await connect()]
  const writer = new ConnectionWriter(slots, main, path)
  const sink = new MultifdSink({ slots, writer, channels, name: path, zeroPages: false, local: true })
  const head: ImageHead = {
    configuration: { machine: 'pc-q35-10.0', pageBits: undefined, capabilities: undefined, uuid: undefined },
    ...{ pageSize: PAGE, section: 2, blocks: [{ name: 'pc.ram', length: PAGES * PAGE }], syncPerWalk: true },
  }
  const [place] = await sink.begin(head)
  place?.bitmap.fill(0xff)
  await writer.flush()
  const sent = new Map<number, number>()
  const count = (slot: number, by: number) => sent.set(slot, (sent.get(slot) ?? 0) + by)
  const send = engine.send.bind(engine)
  engine.send = async (stream, length, slot, slotOffset) => {
    count(slot, 1)
    try {
      return await send(stream, length, slot, slotOffset)
    } finally {
      count(slot, -1)
    }
  }
  const given: number[] = []
  const give = slots.give.bind(slots)
  slots.give = (slot) => {
    given.push(sent.get(slot) ?? 0)
    give(slot)
  }
  const length = slots.size
  const going: Promise<void>[] = []
  for (let batch = 0; batch < BATCHES; batch++) {
    const slot = await slots.take('gather')
    going.push(sink.pages({ slot, pieces: [{ offset: place?.place ?? 0, length }], length }))
  }
  const ends = Promise.allSettled(going)
  while (![...sent.values()].some((sends) => sends > 0)) await new Promise((resolve) => setImmediate(resolve))
  await sink.abort()
  t.match((await ends).at(-1), { status: 'rejected', reason: { name: 'IoError', op: 'write' } })
  t.same(given, new Array(BATCHES + 1).fill(0), 'the pages and the heads')
  t.equal(await engine.shutdown(5000), 0)
})
