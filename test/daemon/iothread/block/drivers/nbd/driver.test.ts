// SPDX-License-Identifier: Apache-2.0
// The nbd driver against a server in this process: what it asks, and what becomes of a server that does not behave.
import { createServer } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { IoError } from '../../../../../../daemon/errors.js'
import { commands, transmissionFlags } from '../../../../../../protocol/nbd/constants.js'
import {
  dataHead,
  doneChunk,
  doneReply,
  errorReply,
  holeChunk,
  statusChunk,
} from '../../../../../../protocol/nbd/reply.js'
import { newSeed, random, testGraph } from '../../../../../helpers/graph.js'
import { type Call, names, ScriptedServer } from '../../../../../helpers/nbd/scripted-server.js'
import { shortFolder } from '../../../../../helpers/short-folder.js'

const KiB = 1024
const pattern = (length: number) => Uint8Array.from({ length }, (_, index) => 1 + (index % 251))

async function opened(t: Test, more: Parameters<typeof ScriptedServer.start>[1] = {}, options = {}) {
  const server = await ScriptedServer.start(t, more)
  const g = testGraph(t)
  const node = await g.add(server.node(options))
  return { server, g, node }
}

t.test('what is written is read back, and the server is asked for nothing else', async (t) => {
  const { server, g, node } = await opened(t)
  const bytes = pattern(10_000)
  await g.write(node, 777, bytes)
  t.same(await g.read(node, 777, bytes.length), bytes)
  t.same(names(server.requests), ['WRITE', 'READ'])
  t.equal(g.reports.get('n')?.filename, `nbd+unix:///disk?socket=${server.path}`)
})

t.test('FUA, flush, zero and discard become what the server knows', async (t) => {
  const { server, g, node } = await opened(t)
  const slot = g.engine.takeSlots(1)[0]!
  await node.write(0, { slot, offset: 0, length: 512 }, { fua: true })
  await node.zero(0, 4096, { unmap: true, fast: false })
  await node.zero(0, 4096, { unmap: false, fast: false })
  await t.rejects(node.zero(0, 4096, { unmap: false, fast: true }), { code: 'EOPNOTSUPP' })
  await node.discard(4096, 4096)
  await node.flush()
  t.same(names(server.requests), ['WRITE+FUA', 'WRITE_ZEROES', 'WRITE_ZEROES+NO_HOLE', 'TRIM', 'FLUSH'])
  g.engine.giveSlots([slot])
})

t.test('a server that knows none of them is written zeroes, and FUA is a flush', async (t) => {
  const { HAS_FLAGS, SEND_FLUSH } = transmissionFlags
  const { server, g, node } = await opened(t, { flags: HAS_FLAGS | SEND_FLUSH, contexts: [] })
  server.disk.fill(7)
  const slot = g.engine.takeSlots(1)[0]!
  await node.write(0, { slot, offset: 0, length: 512 }, { fua: true })
  await node.zero(4096, 8192, { unmap: true, fast: false })
  await node.discard(0, 4096)
  t.same(names(server.requests), ['WRITE', 'FLUSH', 'WRITE'])
  t.same([server.disk[4095], server.disk[4096], server.disk[12287], server.disk[12288]], [7, 0, 0, 7])
  t.equal((await node.status(4096, 4096)).kind, 'data', 'nobody told that it is zero')
  g.engine.giveSlots([slot])
})

t.test('block status is asked once, and again after a change', async (t) => {
  const { server, g, node } = await opened(t)
  server.disk.fill(1, 64 * KiB, 128 * KiB)
  const kinds = async () => {
    const found: string[] = []
    for (let at = 0; at < node.length(); ) {
      const { kind, length } = await node.status(at, node.length() - at)
      found.push(`${kind} ${length / KiB}`)
      at += length
    }
    return found
  }
  t.same(await kinds(), ['zero 64', 'data 64', 'zero 896'])
  t.same(await kinds(), ['zero 64', 'data 64', 'zero 896'])
  t.same(names(server.requests), ['BLOCK_STATUS'])
  await g.write(node, 0, pattern(4096))
  t.same(await kinds(), ['data 4', 'zero 60', 'data 64', 'zero 896'])
})

t.test('requests are cut to the longest payload and rounded to the smallest block', async (t) => {
  const { server, g, node } = await opened(t, {
    blockSizes: { minimum: 4096, preferred: 4096, maximumPayload: 8192 },
  })
  const bytes = pattern(40_000)
  await g.write(node, 100, bytes)
  t.same(await g.read(node, 100, bytes.length), bytes)
  t.ok(
    server.requests.every(
      ({ offset, length }) => offset % 4096 === 0 && length % 4096 === 0 && length <= 8192,
    ),
  )
  await node.zero(50, 10_000, { unmap: false, fast: false })
  t.same([...server.disk.subarray(98, 102)], [0, 0, 0, 0])
  t.same(await g.read(node, 10_050, 100), bytes.subarray(9950, 10_050))
})

t.test('the end of a disk that is no whole sector reads as zero and is not written', async (t) => {
  const { server, g, node } = await opened(t, { size: 1000 })
  await g.write(node, 512, pattern(512))
  t.same(await g.read(node, 512, 512), Uint8Array.from([...pattern(488), ...new Uint8Array(24)]))
  t.same(
    server.requests.map(({ length }) => length),
    [488, 488],
  )
})

t.test('many requests are under way at once, and answered in any order', async (t) => {
  const { server, g, node } = await opened(t)
  server.disk.set(pattern(64 * KiB))
  const waiting: (() => void)[] = []
  server.script = ({ honest, socket }) => {
    waiting.push(() => socket.write(honest()))
    return undefined
  }
  const slot = g.engine.takeSlots(1)[0]!
  const reads = [0, 1, 2, 3].map((index) =>
    node.read(index * 4096, { slot, offset: index * 4096, length: 4096 }),
  )
  await server.came(4)
  for (const answer of waiting.reverse()) answer()
  await Promise.all(reads)
  t.same(g.engine.slotBytes(slot).subarray(0, 4 * 4096), pattern(64 * KiB).subarray(0, 4 * 4096))
  server.script = ({ honest }) => honest()
  g.engine.giveSlots([slot])
})

t.test('what the server refuses is the error of the request alone', async (t) => {
  const { server, g, node } = await opened(t)
  server.script = ({ request, agreed, honest }) =>
    request.command === commands.WRITE ? errorReply(agreed.replies, request, 'ENOSPC', 'full') : honest()
  await t.rejects(g.write(node, 0, pattern(512)), { code: 'ENOSPC', op: 'write', node: 'n' })
  t.same(await g.read(node, 0, 512), new Uint8Array(512))
  t.equal(server.connections, 1)
})

const lies: Readonly<Record<string, (call: Call) => Uint8Array | undefined>> = {
  'a reply with another magic number': () => new Uint8Array(64).fill(0x55),
  'a reply to a cookie of no request': ({ request, agreed }) =>
    doneReply(agreed.replies, { ...request, cookie: 0xdeadn }),
  'an end without the data': ({ request }) => doneChunk('extended', request),
  'data beyond the request': ({ request }) =>
    Buffer.concat([
      dataHead('extended', request, request.offset + 512, request.length, true),
      new Uint8Array(4096),
    ]),
  'data before the request': ({ request }) =>
    Buffer.concat([dataHead('extended', request, 0, request.length, true), new Uint8Array(4096)]),
  'more data than anybody asked for': ({ request }) =>
    Buffer.concat([dataHead('extended', request, request.offset, 2 ** 40, true), new Uint8Array(4096)]),
  'the same data twice': ({ request }) =>
    Buffer.concat([
      holeChunk('extended', request, request.offset, request.length, false),
      holeChunk('extended', request, request.offset, request.length, true),
    ]),
  'half of the data': ({ request }) =>
    Buffer.concat([dataHead('extended', request, request.offset, 512, true), new Uint8Array(512)]),
  'block status': ({ request }) => statusChunk('extended', request, 0, [{ length: 4096, status: 0 }], true),
  'a reply for another offset': ({ request }) =>
    holeChunk('extended', { ...request, wireOffset: 0n }, request.offset, request.length, true),
  'a connection that ends': ({ socket }) => void socket.destroy(),
  'a connection that ends after half a header': ({ request, socket }) =>
    void socket.end(doneChunk('extended', request).subarray(0, 10)),
  'a connection that ends in the data': ({ request, socket }) =>
    void socket.end(
      Buffer.concat([
        dataHead('extended', request, request.offset, request.length, true),
        new Uint8Array(100),
      ]),
    ),
}

for (const [what, lie] of Object.entries(lies))
  t.test(`${what} instead of data costs the request, and the next but one is served`, async (t) => {
    const { server, g, node } = await opened(t)
    server.disk.fill(9)
    server.script = (call) => (call.connection === 1 ? lie(call) : call.honest())
    await t.rejects(g.read(node, 8192, 4096), { code: 'EIO', op: 'read', node: 'n' })
    await node.driver.freshen?.()
    t.same(await g.read(node, 8192, 4096), new Uint8Array(4096).fill(9))
    t.equal(server.connections, 2)
  })

t.test('replies with a bit turned over are errors of requests at most', async (t) => {
  const seed = newSeed()
  t.comment(`seed ${seed}`)
  const pick = random(seed)
  const { server, g, node } = await opened(t)
  server.disk.fill(9, 4096, 20_000)
  server.script = ({ honest, socket }) => {
    const reply = Buffer.from(honest())
    const at = pick(Math.min(reply.length, 48))
    reply[at] = (reply[at] ?? 0) ^ (1 << pick(8))
    // A length that is too long would be waited for.
    socket.end(reply)
    return undefined
  }
  const outcomes = new Set<string>()
  const count = (work: Promise<unknown>) =>
    work.then(
      () => outcomes.add('done'),
      (error: Error) => outcomes.add(error instanceof IoError ? 'refused' : String(error)),
    )
  for (let round = 0; round < 150; round++) {
    await node.driver.freshen?.()
    await Promise.all([
      count(g.read(node, pick(10) * 512, 4096)),
      count(node.status(0, 65_536)),
      count(node.zero(0, 512, { unmap: true, fast: false })),
      count(node.flush()),
    ])
  }
  t.notOk(
    [...outcomes].some((one) => one !== 'done' && one !== 'refused'),
    [...outcomes].join(', '),
  )
})

t.test('a connection over TCP that is reset costs the request, and the next but one is served', async (t) => {
  const server = await ScriptedServer.start(t, {}, 'tcp')
  const g = testGraph(t)
  const node = await g.add(server.node())
  t.match(g.reports.get('n')?.filename, /^nbd:\/\/127\.0\.0\.1:\d+\/disk$/)
  server.script = ({ connection, socket, honest }) =>
    connection === 1 ? void socket.resetAndDestroy() : honest()
  await t.rejects(g.read(node, 0, 512), { code: 'EIO' })
  await node.driver.freshen?.()
  t.same(await g.read(node, 0, 512), new Uint8Array(512))
})

t.test('success of a write before its data came is a lie', async (t) => {
  const { server, g, node } = await opened(t)
  const slot = g.engine.takeSlots(1)[0]!
  server.script = ({ request, agreed, socket, connection, honest }) => {
    if (connection > 1) return honest()
    // Reads no more, so that what comes next stays in the client.
    socket.pause()
    for (let ahead = 1n; ahead < 40n; ahead++)
      socket.write(doneReply(agreed.replies, { cookie: request.cookie + ahead, wireOffset: 0n }))
    return undefined
  }
  const writes = Array.from({ length: 40 }, () =>
    node.write(0, { slot, offset: 0, length: 1 << 20 }).then(
      () => 'written',
      (error: { code: string }) => error.code,
    ),
  )
  t.notOk((await Promise.all(writes)).includes('written'))
  g.engine.giveSlots([slot])
})

t.test('without reconnect-delay requests fail at once while the server is away', async (t) => {
  const { server, g, node } = await opened(t)
  await server.stop()
  await t.rejects(g.read(node, 0, 512), { code: 'EIO' })
  await t.rejects(g.read(node, 0, 512), { code: 'EIO' })
  const again = await ScriptedServer.start(t, {}, server.path)
  again.disk.fill(3)
  await node.driver.freshen?.()
  t.same(await g.read(node, 0, 512), new Uint8Array(512).fill(3))
})

t.test('with reconnect-delay a request is done again when the server is back', async (t) => {
  const { server, g, node } = await opened(t, {}, { 'reconnect-delay': 2 ** 32 - 1 })
  server.script = () => undefined
  const read = g.read(node, 0, 512)
  await server.came(1)
  await server.stop()
  const again = await ScriptedServer.start(t, {}, server.path)
  again.disk.fill(4)
  t.same(await read, new Uint8Array(512).fill(4))
})

t.test('a server that comes back with another size is not used', async (t) => {
  const { server, g, node } = await opened(t)
  await server.stop()
  await ScriptedServer.start(t, { size: 2 << 20 }, server.path)
  await node.driver.freshen?.()
  await t.rejects(g.read(node, 0, 512), { code: 'EIO' })
})

t.test('a flush after a lost connection with unflushed writes fails once', async (t) => {
  const { server, g, node } = await opened(t)
  await g.write(node, 0, pattern(512))
  await node.flush()
  server.hangUp()
  await t.rejects(g.read(node, 0, 512), { code: 'EIO' })
  await node.driver.freshen?.()
  await node.flush()
  await g.write(node, 0, pattern(512))
  server.hangUp()
  await t.rejects(g.read(node, 0, 512), { code: 'EIO' })
  await node.driver.freshen?.()
  await t.rejects(node.flush(), { code: 'EIO', op: 'flush' })
  await node.flush()
})

t.test('a node whose server stalls is closed, and what was asked fails', async (t) => {
  const { server, g, node } = await opened(t)
  server.script = () => undefined
  const read = t.rejects(g.read(node, 0, 512), { code: 'EIO' })
  await server.came(1)
  t.match(g.graph.oldest(), { op: 'read', node: 'n' })
  await g.graph.remove('n')
  await read
  t.equal(g.graph.oldest(), undefined)
})

t.test('a hurried node leaves a stalled server, and no other', async (t) => {
  const { server, g, node } = await opened(t)
  node.driver.hurry?.()
  await g.read(node, 0, 512)
  t.equal(server.connections, 1)
  server.script = ({ connection, honest }) => (connection === 1 ? undefined : honest())
  const read = t.rejects(g.read(node, 0, 512), { code: 'EIO' })
  await server.came(2)
  node.driver.hurry?.()
  await read
  await node.driver.freshen?.()
  await g.read(node, 0, 512)
  t.equal(server.connections, 2)
})

t.test('a hurried node does not wait for a server to come back', async (t) => {
  const { server, g, node } = await opened(t, {}, { 'reconnect-delay': 2 ** 32 - 1 })
  server.script = () => undefined
  const read = t.rejects(g.read(node, 0, 512), { code: 'EIO' })
  await server.came(1)
  node.driver.hurry?.()
  await read
  server.script = ({ honest }) => honest()
  await node.driver.freshen?.()
  await g.read(node, 0, 512)
})

t.test('what a connection was lost for is logged', async (t) => {
  const { server, g, node } = await opened(t)
  server.script = () => new Uint8Array(32)
  await t.rejects(g.read(node, 0, 512), { code: 'EIO' })
  t.match(g.log, [/^warn n: connection to the NBD server lost: magic number of a reply/])
})

t.test(
  'a server that lets several see the same gets more connections while it is busy, and one flush',
  async (t) => {
    const { CAN_MULTI_CONN, HAS_FLAGS, SEND_FLUSH } = transmissionFlags
    const { server, g, node } = await opened(t, { flags: HAS_FLAGS | SEND_FLUSH | CAN_MULTI_CONN })
    const waiting: (() => void)[] = []
    server.script = ({ honest, socket }) => {
      waiting.push(() => socket.write(honest()))
      return undefined
    }
    const slot = g.engine.takeSlots(1)[0]!
    const reads: Promise<unknown>[] = []
    // Each request finds every connection busier, until there are as many as there may be.
    while (server.connections < 4) {
      reads.push(node.read(0, { slot, offset: 0, length: 512 }))
      await server.came(reads.length)
    }
    for (const answer of waiting) answer()
    await Promise.all(reads)
    server.script = ({ honest }) => honest()
    const before = server.requests.length
    await node.flush()
    t.equal(server.requests.length, before + 1)
    g.engine.giveSlots([slot])
  },
)

t.test('a node is reopened on the connection it has', async (t) => {
  const { server, g } = await opened(t)
  await g.graph.reopen([server.node({ 'read-only': true })])
  t.equal(g.graph.node('n').readOnly, true)
  t.same(await g.read(g.graph.node('n'), 0, 512), new Uint8Array(512))
  t.equal(server.connections, 1)
  await t.rejects(g.graph.reopen([server.node({ server: { type: 'unix', path: '/elsewhere' } })]), {
    message: "Cannot change the option 'server'",
  })
})

t.test('what cannot be opened is said as the reference daemon says it', async (t) => {
  const server = await ScriptedServer.start(t)
  const g = testGraph(t)
  const folder = shortFolder(t)
  const missing = join(folder, 'missing')
  const readOnly = await ScriptedServer.start(t, {
    flags: transmissionFlags.HAS_FLAGS | transmissionFlags.READ_ONLY,
  })
  const cases: [Record<string, unknown>, string][] = [
    [{ export: 'other' }, 'Requested export not available'],
    [
      { server: { type: 'unix', path: missing } },
      `Failed to connect to '${missing}': No such file or directory`,
    ],
    [
      { server: { type: 'inet', host: '127.0.0.1', port: '1' } },
      "Failed to connect to '127.0.0.1:1': Connection refused",
    ],
    [{ 'x-dirty-bitmap': 'qemu:dirty-bitmap:b' }, 'requested x-dirty-bitmap qemu:dirty-bitmap:b not found'],
    [{ server: { type: 'unix', path: readOnly.path } }, 'request on write denied without write permission'],
  ]
  for (const [options, message] of cases) await t.rejects(g.graph.add(server.node(options)), { message })
  await g.graph.add(readOnly.node({ 'auto-read-only': true }))
  t.equal(g.reports.get('n')?.readOnly, true)
})

t.test('open-timeout waits for a server that is not there yet', async (t) => {
  const path = join(shortFolder(t), 'late.sock')
  const g = testGraph(t)
  const adding = g.graph.add({
    driver: 'nbd',
    'node-name': 'n',
    server: { type: 'unix', path },
    export: 'disk',
    'open-timeout': 60,
  })
  await ScriptedServer.start(t, {}, path)
  await adding
  t.equal(g.graph.node('n').length(), 1 << 20)
})

t.test('a server that says nothing is given up after open-timeout', async (t) => {
  const server = await ScriptedServer.start(t)
  server.mute = true
  const g = testGraph(t)
  await t.rejects(g.graph.add(server.node({ 'open-timeout': 1 })), {
    message: /^Failed to connect to '.*': the server did not answer within /,
  })
})

t.test('a peer that is no NBD server, or ends too soon, is refused', async (t) => {
  const path = join(shortFolder(t), 'other.sock')
  let greeting = 'HTTP/1.1 400 Bad Request\r\n\r\n'
  const other = createServer((socket) => socket.on('error', () => undefined).end(greeting)).listen(path)
  t.teardown(() => other.close())
  const g = testGraph(t)
  const spec = { driver: 'nbd', 'node-name': 'n', server: { type: 'unix', path } }
  await t.rejects(g.graph.add(spec), { message: /first bytes of an NBD server/ })
  greeting = ''
  await t.rejects(g.graph.add(spec), {
    message: 'Failed to read initial magic: Unexpected end-of-file before all data were read',
  })
})
