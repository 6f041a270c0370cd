// SPDX-License-Identifier: Apache-2.0
// Images that go to a peer: who is called gets an image, or is not called; what becomes of a peer that closes early or does
// not read.

import { once } from 'node:events'
import { closeSync, openSync, truncateSync, writeFileSync, writeSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { SinkSpec } from '../../../daemon/memory/messages.js'
import { concat, Writer } from '../../../protocol/migration/bytes.js'
import { formatFooter, formatHead } from '../../../protocol/migration/section.js'
import { streamNamed, unpack } from '../../helpers/migration/fixtures.js'
import { Replay } from '../../helpers/migration/replay.js'
import { replayMultifd } from '../../helpers/migration/replay-sets.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { attempt } from './attempt.js'
import { cachedSource, fileSource, spec, Worker } from './worker.js'

const MAPPED = 'q10-pc-q35-10.0-stopped.mapped'
const expected = streamNamed(MAPPED)
const whole = unpack(MAPPED)

interface Peer {
  readonly path: string
  readonly received: Buffer[]
}

/**
 * Listens as a QEMU that comes in.
 * @param take   gets every connection; undefined: everything is read to its end
 * @param begun  told of those that are read
 */
async function peer(
  t: Test,
  take?: (socket: Socket) => void,
  begun?: (socket: Socket) => void,
): Promise<Peer> {
  const path = join(shortFolder(t), 'qemu.sock')
  const received: Buffer[] = []
  const server = createServer((socket) => {
    const index = received.push(Buffer.alloc(0)) - 1
    const parts: Buffer[] = []
    socket.on('error', () => undefined)
    if (take !== undefined) take(socket)
    else socket.on('data', (bytes) => parts.push(bytes))
    begun?.(socket)
    socket.on('close', () => {
      received[index] = Buffer.concat(parts)
    })
  })
  server.listen(path)
  await once(server, 'listening')
  t.teardown(() => server.close())
  return { path, received }
}

function sinkTo(path: string, channels: number): SinkSpec {
  const to = { kind: 'connect', address: { kind: 'unix', path } } as const
  return { kind: 'stream', channels, zeroPages: false, to }
}

interface Damage {
  readonly name: string
  readonly error: RegExp
  damage(bytes: Buffer): Buffer
}

const { blocks = [], tail_offset: tailOffset, eof_offset: eofOffset } = expected
const ram = blocks[0]
if (ram?.header_offset === undefined || ram.bitmap_offset === undefined)
  throw new Error('the recording has a block of RAM')
/** Of the header behind name and length. */
const header = ram.header_offset + 1 + ram.name.length + 8
const bitmaps = blocks.map(({ bitmap_offset = 0, used_length }) => ({
  offset: bitmap_offset,
  length: Math.ceil(used_length / 4096 / 64) * 8,
}))

const pagesEnd = (blocks.at(-1)?.pages_offset ?? 0) + (blocks.at(-1)?.used_length ?? 0)

/** The largest early section there can be, 16 MiB. */
function virtioMem(id: number): Uint8Array {
  const [bits, block] = [2 ** 27, 2 ** 21]
  const head = { kind: 'full', id, name: 'a/virtio-mem-device-early', instance: 0, version: 1 } as const
  const fields = new Writer()
    .u64(0)
    .u64(bits * block)
    .u64(block)
    .u32(0)
    .u64(0)
    .finish()
  return concat([formatHead(head), fields, new Uint8Array(bits / 8), formatFooter(id)])
}

const damages: readonly Damage[] = [
  {
    name: 'its end is missing',
    error: /is not complete/,
    damage: (bytes) => bytes.subarray(0, bytes.length - 1),
  },
  {
    name: 'its device states are missing',
    error: /source: end of the pages/,
    damage: (bytes) => bytes.subarray(0, pagesEnd),
  },
  {
    name: 'its description is damaged',
    error: /is not complete/,
    damage: (bytes) => bytes.fill(0, eofOffset + 100, eofOffset + 200),
  },
  {
    name: 'its bitmaps were never written',
    error: /has no page/,
    damage: (bytes) => {
      for (const { offset, length } of bitmaps) bytes.fill(0, offset, offset + length)
      return bytes
    },
  },
  {
    name: 'its page size is 0',
    error: /page size of RAM block "pc.ram": found 0/,
    damage: (bytes) => bytes.fill(0, header + 4, header + 12),
  },
  {
    name: 'its page size is not the guest’s',
    error: /page size of RAM block "pc.ram"/,
    damage: (bytes) => {
      bytes.writeBigUInt64BE(65536n, header + 4)
      return bytes
    },
  },
  {
    name: 'a bitmap lies behind its end',
    error: /bitmap of RAM block "pc.ram"/,
    damage: (bytes) => {
      bytes.writeBigUInt64BE(1n << 40n, header + 12)
      return bytes
    },
  },
  {
    name: 'pages lie on top of a bitmap',
    error: /bitmap|pages|entry/,
    damage: (bytes) => {
      bytes.writeBigUInt64BE(0n, header + 20)
      return bytes
    },
  },
  {
    name: 'RAM does not end',
    error: /section|record|RAM/,
    damage: (bytes) => bytes.fill(0xee, tailOffset - 20, tailOffset),
  },
  {
    // As background-snapshot leaves it: bitmaps are an older image's, if there are any.
    name: 'RAM has no end',
    error: /no END of RAM/,
    damage: (bytes) => Buffer.concat([bytes.subarray(0, pagesEnd + 13), bytes.subarray(tailOffset)]),
  },
  {
    name: 'what comes early has no bounds',
    error: /sections before the end of memory have more than 67108864 bytes/,
    damage: (bytes) =>
      Buffer.concat([
        bytes.subarray(0, pagesEnd + 13),
        ...Array.from({ length: 5 }, (_, index) => virtioMem(100 + index)),
        bytes.subarray(pagesEnd + 13),
      ]),
  },
  {
    name: 'its save did not come to its end',
    error: /its save did not come to an end/,
    damage: (bytes) => {
      bytes.write('BFerryPart')
      return bytes
    },
  },
]

const STREAM = 'q10-pc-q35-10.0-live.stream'

for (const [name, error, damage] of [
  ['its end is missing', /is not complete/, (bytes: Buffer) => bytes.subarray(0, -1)],
  ['it is cut in its pages', / ends at offset /, (bytes: Buffer) => bytes.subarray(0, bytes.length / 2)],
  [
    'a page is of no block',
    /block/,
    (bytes: Buffer) => bytes.fill(0xee, bytes.length / 4, bytes.length / 4 + 8192),
  ],
] as const)
  t.test(`nobody is called for a stream when ${name}`, async (t) => {
    const source = join(t.testdir(), 'source')
    writeFileSync(source, damage(Buffer.from(unpack(STREAM))))
    const { path, received } = await peer(t)
    t.match(await attempt(spec(fileSource(source), sinkTo(path, 0))), error)
    t.same(received, [], 'no connection came')
  })

for (const channels of [0, 2])
  for (const { name, error, damage } of damages)
    t.test(`nobody is called over ${1 + channels} connections for an image when ${name}`, async (t) => {
      const source = join(t.testdir(), 'source')
      writeFileSync(source, damage(Buffer.from(whole)))
      const { path, received } = await peer(t)
      const said = await attempt(spec(fileSource(source), sinkTo(path, channels)))
      t.match(said, error)
      t.match(said, /source/, 'names the image')
      t.same(received, [], 'no connection came')
    })

const readings = [
  { from: 'storage', sourceOf: fileSource },
  { from: 'the page cache', sourceOf: cachedSource },
] as const

/** Whether memory and states are those of the image. */
function arrived(t: Test, connections: readonly Buffer[]): void {
  const main = connections.find((bytes) => bytes.toString('latin1', 0, 4) === 'QEVM') ?? Buffer.alloc(0)
  const others = connections.filter((bytes) => bytes !== main)
  const { replay } = others.length === 0 ? { replay: new Replay(main) } : replayMultifd(main, others)
  const wanted = new Replay(whole)
  t.same(
    replay.blocks.map(({ name, memory }) => [name, memory.equals(wanted.block(name).memory)]),
    wanted.blocks.map(({ name }) => [name, true]),
  )
  t.ok(replay.tail.equals(wanted.tail))
}

/** All connections have come and closed. */
async function complete({ received }: Peer, count: number): Promise<readonly Buffer[]> {
  while (received.length < count || received.some(({ length }) => length === 0))
    await new Promise((resolve) => setImmediate(resolve))
  return received
}

for (const { from, sourceOf } of readings) {
  for (const channels of [0, 2, 100])
    t.test(`a sound image arrives from ${from} over ${1 + channels} connections`, async (t) => {
      const source = join(t.testdir(), 'source')
      writeFileSync(source, whole)
      const to = await peer(t)
      t.equal(await attempt(spec(sourceOf(source), sinkTo(to.path, channels))), undefined)
      arrived(t, await complete(to, 1 + channels))
    })

  for (const channels of [0, 2])
    for (const [when, after] of [
      ['at once', 0],
      ['after a few bytes', 100],
      ['amid the pages', 500_000],
    ] as const)
      t.test(
        `a peer with ${1 + channels} connections that closes ${when} is named, from ${from}`,
        async (t) => {
          const source = join(t.testdir(), 'source')
          writeFileSync(source, whole)
          let left = after
          const sockets: Socket[] = []
          const { path } = await peer(t, (socket) => {
            sockets.push(socket)
            if (after === 0) socket.destroy()
            socket.on('data', ({ length }) => {
              left -= length
              if (left <= 0) for (const each of sockets) each.destroy()
            })
          })
          const said = await attempt(spec(sourceOf(source), sinkTo(path, channels)))
          t.match(said, /qemu.sock: the other side has closed the connection$/)
        },
      )
}

t.test('an image in the page cache may change once its restore is over', async (t) => {
  const source = join(t.testdir(), 'source')
  writeFileSync(source, whole)
  const sockets: Socket[] = []
  const to = await peer(t, undefined, (socket) => void sockets.push(socket.pause()))
  const worker = new Worker(t)
  // Enough of them to hold everything.
  const channels = 16
  await worker.start(spec(cachedSource(source), sinkTo(to.path, channels)))
  await worker.until((report) => report.kind === 'memory-stats' && report.stats.flushing !== undefined)
  for (let turn = 0; turn < 1000; turn++) await new Promise((resolve) => setImmediate(resolve))
  t.notOk(
    worker.reports.some(({ kind }) => kind === 'job-ended'),
    'it is not over before everything was read',
  )
  for (const socket of sockets) socket.resume()
  t.match(await worker.ended(), { outcome: { kind: 'success' } })
  const fd = openSync(source, 'r+')
  writeSync(fd, Buffer.alloc(whole.length, 0xee))
  closeSync(fd)
  t.equal(await worker.end(), 0)
  arrived(t, await complete(to, 1 + channels))
})

t.test('an image in the page cache that is cut while it goes out is named in the error', async (t) => {
  const source = join(t.testdir(), 'source')
  writeFileSync(source, whole)
  const sockets: Socket[] = []
  const { path } = await peer(t, (socket) => void sockets.push(socket.pause()))
  // The hellos, the head of the stream and the first sync points go out, the pages do not.
  const worker = new Worker(t)
  await worker.start(spec(cachedSource(source), sinkTo(path, 2), { bandwidth: 100_000 }))
  await worker.until((report) => report.kind === 'memory-stats' && report.stats.transferred > 0)
  truncateSync(source, 0)
  await worker.request('job-set-speed', { id: 'job', speed: 0 })
  for (const socket of sockets) socket.resume()
  const { outcome } = await worker.ended()
  t.match(outcome, { kind: 'failed', error: /cannot read '.*source': Input\/output error/ })
})

t.test('a peer that is not there is named in the error', async (t) => {
  const folder = t.testdir()
  const source = join(folder, 'source')
  writeFileSync(source, whole)
  const path = join(shortFolder(t), 'qemu.sock')
  const said = await attempt(spec(fileSource(source), sinkTo(path, 0)))
  t.equal(said, `Failed to connect to '${path}': No such file or directory`)
})
