// SPDX-License-Identifier: Apache-2.0
// Damaged handshakes: recorded ones of other programs with bytes changed, cut anywhere. The server goes on for others and
// nothing stays open. FUZZ_SECONDS says how long (default 3, 20 where CI is set), SEED repeats a run.

import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import t from 'tap'
import { NbdServer } from '../../../daemon/nbd/nbd-server.js'
import { closeDescriptor } from '../../../native/descriptors.js'
import { newSeed, random } from '../../helpers/graph.js'
import { mutate } from '../../helpers/mutate.js'
import { negotiate } from '../../helpers/nbd/client.js'
import { disk, plain } from '../../helpers/nbd/negotiation.js'
import { recordings } from '../../helpers/nbd/recordings.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { leftOver, openDescriptors, socketPair } from '../../native/descriptors.js'

const seconds = Number(process.env.FUZZ_SECONDS ?? (process.env.CI === undefined ? 3 : 20))
t.setTimeout(seconds * 1000 + 60_000)

/** What clients sent, from their flags to their last request. */
const streams = recordings.map(({ messages }) =>
  Buffer.from(messages.map(([from, hex]) => (from === 'client' ? hex : '')).join(''), 'hex'),
)

// With the first server of a process libuv opens /dev/null, for when it runs out of descriptors.
t.before(async () => void (await socketPair(t)))

t.test('damaged handshakes hurt nobody else', async (t) => {
  const seed = newSeed()
  t.comment(`seed ${seed}`)
  const pick = random(seed)
  const before = openDescriptors()
  await t.test('served', async (t) => {
    const path = `${shortFolder(t)}/n`
    const listener = createServer({ pauseOnConnect: true, allowHalfOpen: true }).listen(path)
    await once(listener, 'listening')
    t.teardown(() => listener.close())
    const lost: string[] = []
    const server = new NbdServer(
      listener,
      { handshakeMs: 0, maxConnections: 10, firstConnection: 0, tls: undefined },
      {
        chosen: (connection, fd) => {
          closeDescriptor(fd)
          server.left(connection)
        },
        lost: (_, why) => lost.push(why),
      },
    )
    server.offer([disk, plain])
    const fine = async () => {
      const client = await negotiate(connect(path), { exportName: 'disk' })
      client.socket.destroy()
    }
    const end = performance.now() + seconds * 1000
    for (let round = 0; performance.now() < end; round++) {
      const bytes = Buffer.from(streams[pick(streams.length)] ?? [])
      mutate(bytes, bytes.length & ~7, pick)
      const socket = connect(path)
      socket.on('error', () => undefined).resume()
      socket.write(bytes.subarray(0, 1 + pick(bytes.length)))
      if (pick(3) > 0) socket.end()
      else socket.destroy()
      if (round % 20 === 0) await fine()
    }
    await fine()
    t.ok(lost.length > 0, `${lost.length} were lost in their handshake`)
    server.close()
  })
  t.strictSame(await leftOver(before), [], `seed ${seed}`)
})
