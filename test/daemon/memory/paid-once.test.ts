// SPDX-License-Identifier: Apache-2.0
// A speed limit counts what a source reads, and not once more what a sink sends of it.

import { once } from 'node:events'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import type { ImageHead } from '../../../daemon/memory/image.js'
import { prepareSink } from '../../../daemon/memory/open-sink.js'
import { Pace } from '../../../daemon/memory/pace.js'
import { Slots } from '../../../daemon/memory/slots.js'
import { Stats } from '../../../daemon/memory/stats.js'
import { WaitMeter } from '../../../daemon/memory/wait-meter.js'
import { createEngine } from '../../../native/engine.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { within } from '../../helpers/waiting.js'
import { HANG_MS } from './attempt.js'
import { PAGE } from './synthetic.js'

const PAGES = 4

for (const channels of [0, 2])
  t.test(`pages go out over ${1 + channels} connections although the limit is used up`, async (t) => {
    const path = join(shortFolder(t), 'qemu.sock')
    const server = createServer((socket) => void socket.resume()).listen(path)
    await once(server, 'listening')
    t.teardown(() => server.close())
    const engine = createEngine({ aio: 'threads', maxSlots: 64 })
    const slots = new Slots(engine, 64)
    const { signal } = new AbortController()
    const pace = new Pace(1, signal)
    const meter = new WaitMeter()
    const context = {
      ...{ slots, pace, meter, signal, tally: new Stats(meter), inFiles: new Set<string>() },
      pausePoint: async () => {},
      fdTaken: () => {},
      warn: () => {},
    }
    const to = { kind: 'connect', address: { kind: 'unix', path } } as const
    const questions = { copies: false, image: undefined, identity: undefined }
    const prepared = await prepareSink({ kind: 'stream', to, channels, zeroPages: false }, questions, context)
    const { sink } = await prepared.open()
    const head: ImageHead = {
      configuration: {
        machine: 'pc-q35-10.0',
        pageBits: undefined,
        capabilities: undefined,
        uuid: undefined,
      },
      ...{ pageSize: PAGE, section: 2, syncPerWalk: true },
      blocks: [{ name: 'pc.ram', length: PAGES * PAGE }],
    }
    const [place] = await sink.begin(head)
    pace.charge(2 ** 20)
    for (let page = 0; page < PAGES; page++) {
      const pieces = [{ offset: (place?.place ?? 0) + page * PAGE, length: PAGE }]
      await sink.pages({ slot: await slots.take('gather'), pieces, length: PAGE })
    }
    await within(sink.pagesDone(), HANG_MS, 'the end of the pages')
    await sink.finish()
    t.equal(await engine.shutdown(5000), 0)
  })
