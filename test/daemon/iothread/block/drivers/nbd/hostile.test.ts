// SPDX-License-Identifier: Apache-2.0
// Servers that break the protocol in every way that chance finds: damaged handshakes, and replies that lie, repeat, stop in
// the middle or come in crumbs. Whatever they send, every request of the node ends with an error of the disk or with what
// is true, the node can be closed, and no descriptor stays. FUZZ_SECONDS says how long for each (default 3, 20 where CI is
// set), SEED repeats a run.

import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { CommandError, IoError } from '../../../../../../daemon/errors.js'
import { commands } from '../../../../../../protocol/nbd/constants.js'
import {
  dataHead,
  doneChunk,
  errorReply,
  holeChunk,
  statusChunk,
} from '../../../../../../protocol/nbd/reply.js'
import { newSeed, random, type TestGraph, testGraph } from '../../../../../helpers/graph.js'
import { mutate } from '../../../../../helpers/mutate.js'
import { recordings } from '../../../../../helpers/nbd/recordings.js'
import { type Call, ScriptedServer } from '../../../../../helpers/nbd/scripted-server.js'
import { shortFolder } from '../../../../../helpers/short-folder.js'
import { leftOver, openDescriptors, socketPair } from '../../../../../native/descriptors.js'

const seconds = Number(process.env.FUZZ_SECONDS ?? (process.env.CI === undefined ? 3 : 20))
t.setTimeout(3 * (seconds * 1000 + 60_000))

type Draw = ReturnType<typeof random>

const KiB = 1024
const SIZE = 1 << 20
/** What the disk holds where it is not zero. */
const FILL = 9

// With the first server of a process libuv opens /dev/null, for when it runs out of descriptors.
t.before(async () => void (await socketPair(t)))

/** Runs it with a seed that is told, and looks that nothing stays open. */
function fuzz(name: string, body: (t: Test, draw: Draw) => Promise<void>): void {
  t.test(name, async (t) => {
    const seed = newSeed()
    t.comment(`seed ${seed}`)
    const before = openDescriptors()
    await t.test('served', (t) => body(t, random(seed)))
    t.strictSame(await leftOver(before), [], `seed ${seed}`)
  })
}

/** What the servers of recordings sent, in the order they sent it. */
const streams = recordings.map(({ messages }) =>
  messages.flatMap(([from, hex]) => (from === 'server' ? [Buffer.from(hex, 'hex')] : [])),
)

fuzz('damaged handshakes are refused, or the node fails later', async (t, draw) => {
  const g = testGraph(t)
  const path = join(shortFolder(t), 's')
  const sockets = new Set<Socket>()
  const listener = createServer((socket) => {
    sockets.add(socket.on('error', () => undefined))
    socket.on('close', () => sockets.delete(socket))
    const parts = (streams[draw(streams.length)] ?? []).map((part) => Buffer.from(part))
    const damaged = parts[draw(parts.length)]
    if (damaged !== undefined && damaged.length >= 8) mutate(damaged, damaged.length & ~7, draw)
    const crumbs = draw(4) === 0
    const put = (part: Buffer) => {
      if (crumbs) for (const byte of part) socket.write(Uint8Array.of(byte))
      else socket.write(part)
    }
    const say = () => {
      const part = parts.shift()
      if (part !== undefined) put(part)
      if (part !== undefined && part !== damaged) return
      // Who was told of a longer message would wait for its end.
      for (const rest of parts.splice(0)) put(rest)
      if (draw(4) === 0) socket.destroy()
      else socket.end()
    }
    say()
    socket.on('data', say)
  }).listen(path)
  await once(listener, 'listening')
  t.teardown(() => listener.close())
  const seen = new Map<string, number>()
  const end = performance.now() + seconds * 1000
  while (performance.now() < end) {
    const server = { type: 'unix', path }
    try {
      const node = await g.add({ driver: 'nbd', 'node-name': 'n', server, export: 'disk', 'read-only': true })
      await ending(t, node.length() >= 512 ? g.read(node, 0, 512) : Promise.resolve())
      await g.graph.remove('n')
      count(seen, 'opened')
    } catch (error) {
      if (!(error instanceof CommandError)) throw error
      count(seen, 'refused')
    }
    for (const socket of sockets) socket.destroy()
  }
  t.comment([...seen].join(' '))
  t.ok((seen.get('refused') ?? 0) > 0)
})

/** Replies that no server should send. */
const wrongs: readonly ((call: Call, draw: Draw) => Uint8Array)[] = [
  // Bytes changed anywhere, with what follows in place.
  ({ honest }, draw) => {
    const reply = Buffer.from(honest())
    mutate(reply, Math.max(8, Math.min(reply.length & ~7, 64)), draw)
    return reply
  },
  ({ honest }, draw) => honest().subarray(0, draw(64)),
  ({ honest }) => Buffer.concat([honest(), honest()]),
  ({ request }) => doneChunk('extended', { ...request, cookie: request.cookie + 1n }),
  ({ request }, draw) => doneChunk('extended', { ...request, cookie: BigInt(draw(1000)) }),
  ({ request }) => doneChunk('extended', request),
  ({ request }) => holeChunk('extended', request, request.offset, Math.max(1, request.length), true),
  ({ request }, draw) => holeChunk('extended', request, draw(SIZE), 1 + draw(SIZE), draw(2) === 0),
  ({ request }, draw) => {
    const length = 1 + draw(64 * KiB)
    const head = dataHead('extended', request, draw(SIZE), length, draw(2) === 0)
    return Buffer.concat([head, Buffer.alloc(length, 1)])
  },
  ({ request }, draw) =>
    statusChunk(
      'extended',
      request,
      draw(3),
      Array.from({ length: draw(50) }, () => ({ length: draw(2 ** 31), status: draw(8) })),
      true,
    ),
  ({ request }) => errorReply('extended', request, 'EIO', 'x'.repeat(4000)),
  (_, draw) => Buffer.from(Array.from({ length: draw(200) }, () => draw(256))),
]

/** Sends it as a bad network does. */
function send(socket: Socket, reply: Uint8Array, draw: Draw): void {
  if (draw(6) !== 0 || reply.length > 4096) {
    socket.write(reply)
    return
  }
  for (let at = 0; at < reply.length; ) {
    const length = 1 + draw(16)
    socket.write(reply.subarray(at, at + length))
    at += length
  }
}

fuzz('replies that lie cost requests at most', async (t, draw) => {
  const server = await ScriptedServer.start(t, { size: SIZE })
  const g = testGraph(t)
  const node = await g.add(server.node())
  server.disk.fill(FILL, 0, SIZE / 2)
  const seen = new Map<string, number>()
  server.script = (call) => {
    if (draw(3) !== 0) {
      send(call.socket, call.honest(), draw)
      return undefined
    }
    const wrong = wrongs[draw(wrongs.length)]
    if (wrong !== undefined) send(call.socket, wrong(call, draw), draw)
    // A lie may leave the node waiting for the rest: it ends at last.
    call.socket.end()
    if (draw(4) === 0) call.socket.destroy()
    return undefined
  }
  const end = performance.now() + seconds * 1000
  while (performance.now() < end) {
    await node.driver.freshen?.()
    const at = draw(SIZE / 512 - 8) * 512
    const results = await Promise.all([
      ending(t, g.read(node, at, 4096)),
      ending(t, node.status(draw(SIZE / 512) * 512, 512)),
      ending(t, node.zero((SIZE / 2 / 512 + draw(100)) * 512, 512, { unmap: true, fast: false })),
      ending(t, node.discard((SIZE / 2 / 512 + draw(100)) * 512, 8192)),
      ending(t, node.flush()),
    ])
    for (const result of results) count(seen, result)
  }
  t.comment([...seen].join(' '))
  t.ok((seen.get('done') ?? 0) > 0 && (seen.get('refused') ?? 0) > 0, 'both were seen')
  await honestAgain(t, g, server)
  await g.graph.remove('n')
})

fuzz('an honest server that crumbles its replies, and loses connections, is believed', async (t, draw) => {
  const server = await ScriptedServer.start(t, { size: SIZE })
  const g = testGraph(t)
  const node = await g.add(server.node({ 'reconnect-delay': 60 }))
  const model = Buffer.alloc(SIZE)
  let lost = 0
  server.script = ({ request, honest, socket }) => {
    const reply = honest()
    // Reads and status may be asked again; of a write nobody would know whether it was done.
    const repeatable = request.command === commands.READ || request.command === commands.BLOCK_STATUS
    if (repeatable && draw(12) === 0) {
      lost++
      socket.write(reply.subarray(0, draw(Math.min(64, reply.length))))
      socket.destroy()
    } else send(socket, reply, draw)
    return undefined
  }
  const end = performance.now() + seconds * 1000
  while (performance.now() < end) {
    const offset = draw(SIZE)
    const length = 1 + draw(Math.min(SIZE - offset, 40 * KiB))
    if (draw(2) === 0) {
      const bytes = Buffer.alloc(length, draw(256))
      await g.write(node, offset, bytes)
      bytes.copy(model, offset)
    } else if (
      Buffer.compare(await g.read(node, offset, length), model.subarray(offset, offset + length)) !== 0
    )
      t.fail(`read of ${length} bytes at ${offset}`)
  }
  t.ok(lost > 0, `${lost} connections were lost`)
  t.equal(Buffer.compare(server.disk, model), 0)
})

/** Once the server is honest the node is as good as ever. */
async function honestAgain(t: Test, g: TestGraph, server: ScriptedServer): Promise<void> {
  server.script = ({ honest }) => honest()
  server.hangUp()
  const node = g.graph.node('n')
  await node.flush().catch(() => undefined)
  await node.driver.freshen?.()
  const bytes = Buffer.alloc(4096, 3)
  await g.write(node, 8192, bytes)
  t.same(await g.read(node, 8192, 4096), new Uint8Array(bytes), 'it works on')
  await node.flush()
}

/** @returns how it ended; anything but success and an error of the disk is a failure */
async function ending(t: Test, work: Promise<unknown>): Promise<'done' | 'refused'> {
  try {
    await work
    return 'done'
  } catch (error) {
    if (!(error instanceof IoError)) t.error(error)
    return 'refused'
  }
}

function count(seen: Map<string, number>, what: string): void {
  seen.set(what, (seen.get(what) ?? 0) + 1)
}
