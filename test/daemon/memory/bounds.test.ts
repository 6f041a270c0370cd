// SPDX-License-Identifier: Apache-2.0
// What a source sends, and how often, bounds neither files nor memory: the size of the guest does.

import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { concat, Writer } from '../../../protocol/migration/bytes.js'
import { Replay } from '../../helpers/migration/replay.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { attempt, dial, listening, send, traces } from './attempt.js'
import { channelOf, headOf, PAGE, partOf, type SentPage, syncPart, tailBytes } from './synthetic.js'
import { fileSink, fileSource, spec, type Worker } from './worker.js'

const MiB = 2 ** 20
const PAGES = 1024
const blocks = [{ name: 'pc.ram', usedLength: PAGES * PAGE }]

/** One walk over memory; every page tells the walk. Odd pages are left out, every eighth is zero. */
function walk(number: number): SentPage[] {
  return Array.from({ length: PAGES / 2 }, (_, index) => ({
    offset: 2 * index * PAGE,
    data: index % 8 === 0 ? undefined : new Uint8Array(PAGE).fill(1 + ((number + index) % 255)),
  }))
}

function streamOf(walks: readonly (readonly SentPage[])[]): Uint8Array {
  return concat([headOf(blocks), ...walks.map((pages) => partOf('pc.ram', pages)), tailBytes()])
}

/** Everything that was sent has come. */
async function received(worker: Worker, length: number): Promise<void> {
  await worker.until((report) => report.kind === 'memory-stats' && report.stats.transferred >= length)
}

/** Sends over connections that stay open until all of it has come, as a source does. */
async function sendTogether(worker: Worker, path: string, all: readonly Uint8Array[]): Promise<void> {
  const sockets = await Promise.all(
    all.map(async (bytes) => {
      const socket = await dial(path)
      socket.write(bytes)
      return socket
    }),
  )
  await received(
    worker,
    all.reduce((sum, { length }) => sum + length, 0),
  )
  for (const socket of sockets) socket.end()
}

t.test('a mapped-ram file is as long, however often its pages are sent', async (t) => {
  const folder = t.testdir()
  const socket = join(shortFolder(t), 'in.sock')
  const results = []
  for (const count of [1, 25]) {
    const target = join(folder, `target${count}`)
    // The last walk is the same.
    const walks = Array.from({ length: count }, (_, index) => walk(count - index))
    const error = await attempt(spec(listening(socket), fileSink(target, 'mapped-ram')), () =>
      send(socket, streamOf(walks)),
    )
    t.equal(error, undefined)
    results.push({ bytes: readFileSync(target), allocated: statSync(target).blocks * 512 })
  }
  const [once, often] = results
  t.ok(once !== undefined && often?.bytes.equals(once.bytes), 'byte for byte the same')
  t.ok(often !== undefined && often.allocated <= 4 * MiB, `${often?.allocated} bytes are allocated`)
})

t.test(
  'pages that became zero are clear in the bitmap, and pages that were never sent are holes',
  async (t) => {
    const folder = t.testdir()
    const [source, target] = [join(folder, 'source'), join(folder, 'target')]
    const zeroes = walk(1).map(({ offset }, index) => ({
      offset,
      data: index < PAGES / 4 ? undefined : new Uint8Array(PAGE).fill(7),
    }))
    writeFileSync(source, streamOf([walk(1), zeroes]))
    t.equal(await attempt(spec(fileSource(source), fileSink(target, 'mapped-ram'))), undefined)
    const { memory, mapped } = new Replay(readFileSync(target)).block('pc.ram')
    t.equal(mapped?.bits, PAGES / 4)
    t.ok(memory.subarray(0, (PAGES / 2) * PAGE).every((byte) => byte === 0))
    t.equal(memory[(PAGES / 2) * PAGE], 7)
    t.ok(statSync(target).blocks * 512 < (PAGES / 2 + 128) * PAGE, 'half of the pages have no storage')
  },
)

for (const channels of [2, 40, 100, 255])
  t.test(`${channels} channels of multifd do not wait for each other's buffers`, async (t) => {
    const folder = t.testdir()
    const socket = join(shortFolder(t), 'in.sock')
    const target = join(folder, 'target')
    const pageOf = (index: number) => new Uint8Array(PAGE).fill(1 + (index % 255))
    const share = (channel: number) =>
      Array.from({ length: PAGES }, (_, index) => index)
        .filter((index) => index % channels === channel)
        .map((index) => ({ offset: index * PAGE, data: pageOf(index) }))
    const main = concat([headOf(blocks, true), syncPart(), tailBytes()])
    const others = Array.from({ length: channels }, (_, id) => channelOf(id, 'pc.ram', share(id)))
    const error = await attempt(spec(listening(socket, channels), fileSink(target, 'mapped-ram')), (worker) =>
      sendTogether(worker, socket, [main, ...others]),
    )
    t.equal(error, undefined)
    const { memory } = new Replay(readFileSync(target)).block('pc.ram')
    t.ok(memory.equals(concat(Array.from({ length: PAGES }, (_, index) => pageOf(index)))))
  })

t.test('a channel that is far ahead does not keep another from its next sync point', async (t) => {
  const folder = t.testdir()
  const socket = join(shortFolder(t), 'in.sock')
  const pages = Array.from({ length: 24 * 256 }, (_, index) => ({
    offset: (index % PAGES) * PAGE,
    data: new Uint8Array(PAGE).fill(1),
  }))
  const main = concat([headOf(blocks, true), syncPart(), tailBytes()])
  // Ahead: everything lies behind its first sync point. Behind: in front of it.
  const ahead = channelOf(0, 'pc.ram', [...pages, ...pages, ...pages])
  const behind = channelOf(1, 'pc.ram', [], pages)
  const error = await attempt(
    spec(listening(socket, 2), fileSink(join(folder, 'target'), 'mapped-ram')),
    async (worker) => {
      const first = await dial(socket)
      first.write(main)
      const second = await dial(socket)
      second.write(ahead)
      const third = await dial(socket)
      third.write(behind.subarray(0, 64))
      await received(worker, 15 * MiB)
      third.write(behind.subarray(64))
      await received(worker, main.length + ahead.length + behind.length)
      for (const each of [first, second, third]) each.end()
    },
  )
  t.equal(error, undefined)
})

const hostile = [
  { name: 'a total of 8 PiB', list: [{ name: 'pc.ram', usedLength: 2 ** 53 - PAGE }] },
  { name: 'a total of 1 PiB', list: [{ name: 'pc.ram', usedLength: 2 ** 50 }] },
  {
    name: 'many blocks of 1 TiB',
    list: Array.from({ length: 1000 }, (_, index) => ({ name: `m${index}`, usedLength: 2 ** 40 })),
  },
] as const

for (const { name, list } of hostile)
  t.test(`a guest that claims ${name} is refused by what it claims`, async (t) => {
    const folder = t.testdir()
    const [source, target] = [join(folder, 'source'), join(folder, 'target')]
    writeFileSync(source, concat([headOf(list), tailBytes()]))
    const before = process.memoryUsage().rss
    for (const format of ['stream', 'mapped-ram'] as const) {
      const error = await attempt(spec(fileSource(source), fileSink(target, format)))
      t.match(error, /source is of a guest with \d+ bytes of RAM: \d+ are possible/)
      t.same(traces(folder, 'target'), [])
    }
    t.ok(process.memoryUsage().rss - before < 128 * MiB)
  })

t.test('lengths that are hostile cost no memory', async (t) => {
  const folder = t.testdir()
  const [source, target] = [join(folder, 'source'), join(folder, 'target')]
  const before = process.memoryUsage().rss
  const head = Buffer.from(headOf(blocks))
  const configuration = new Writer().raw(head.subarray(0, 9)).u32(0xffffffff).finish()
  const description = Buffer.from(tailBytes())
  description.writeUInt32BE(0xffffffff, description.lastIndexOf(6) + 1)
  for (const bytes of [
    concat([configuration, head.subarray(13)]),
    concat([head, partOf('pc.ram', walk(1)), description]),
  ]) {
    writeFileSync(source, bytes)
    t.match(await attempt(spec(fileSource(source), fileSink(target, 'mapped-ram'))), /source/)
    t.same(traces(folder, 'target'), [])
  }
  t.ok(process.memoryUsage().rss - before < 128 * MiB)
})
