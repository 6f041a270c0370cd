// SPDX-License-Identifier: Apache-2.0
// Transfers that are cancelled in every phase: they end, nothing of them is left, and whoever was at the other end of a
// connection hears of it.

import { once } from 'node:events'
import { existsSync, writeFileSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { SinkSpec, SourceSpec, TransferSpec } from '../../../daemon/memory/messages.js'
import { channelsOf, streamNamed, unpack } from '../../helpers/migration/fixtures.js'
import { shortFolder } from '../../helpers/short-folder.js'
import { within } from '../../helpers/waiting.js'
import { dial, HANG_MS, listening, traces } from './attempt.js'
import { cachedSource, fileSink, fileSource, spec, Worker } from './worker.js'

const STREAM = 'q10-pc-q35-10.0-live.stream'
const MULTIFD = 'q10-pc-q35-10.0-live-multifd2.main'
const whole = unpack(STREAM)
const { tail_offset: tailOffset } = streamNamed(STREAM)

/** Cancels, and looks at what is left. */
async function cancels(t: Test, worker: Worker, folder: string): Promise<void> {
  await worker.cancel()
  t.same((await within(worker.ended(), HANG_MS, 'the end')).outcome, { kind: 'cancelled' })
  t.equal(await worker.end(), 0, 'no request is left')
  t.same(traces(folder, 'target'), [], 'no target, and nothing beside it')
}

/** Everything that was sent has been received. */
async function received(worker: Worker, length: number): Promise<void> {
  await worker.until((report) => report.kind === 'memory-stats' && report.stats.transferred >= length)
}

async function closed(t: Test, ...sockets: readonly Socket[]): Promise<void> {
  for (const socket of sockets) {
    socket.resume()
    // A reset is an end too.
    const end = new Promise<void>((resolve) => socket.once('close', () => resolve()))
    if (!socket.closed) await within(end, HANG_MS, 'the end of a connection')
  }
  t.pass('the other side has heard of it')
}

function lab(t: Test) {
  const folder = t.testdir()
  const socket = join(shortFolder(t), 'in.sock')
  const start = async (sink: SinkSpec, source: SourceSpec, more: Partial<TransferSpec> = {}) => {
    const worker = new Worker(t)
    await worker.start(spec(source, sink, more))
    return worker
  }
  return { folder, socket, target: join(folder, 'target'), start }
}

for (const format of ['stream', 'mapped-ram'] as const) {
  t.test(`a transfer to ${format} is cancelled while it listens`, async (t) => {
    const { folder, socket, target, start } = lab(t)
    const worker = await start(fileSink(target, format), listening(socket))
    await cancels(t, worker, folder)
    t.notOk(existsSync(socket), 'no socket is left')
  })

  t.test(`a transfer to ${format} is cancelled while one of three connections is there`, async (t) => {
    const { folder, socket, target, start } = lab(t)
    const worker = await start(fileSink(target, format), listening(socket, 2))
    const first = await dial(socket)
    first.write(unpack(MULTIFD).subarray(0, 100))
    await cancels(t, worker, folder)
    await closed(t, first)
    t.notOk(existsSync(socket), 'no socket is left')
  })

  for (const [phase, length] of [
    ['the first byte is waited for', 0],
    ['its head comes', 50],
    ['pages come', Math.floor(tailOffset / 2)],
    ['the states of devices come', tailOffset + 1000],
    ['the end of the connection is waited for', whole.length],
  ] as const)
    t.test(`a transfer to ${format} is cancelled while ${phase}`, async (t) => {
      const { folder, socket, target, start } = lab(t)
      const worker = await start(fileSink(target, format), listening(socket))
      const source = await dial(socket)
      source.write(whole.subarray(0, length))
      await received(worker, length)
      await cancels(t, worker, folder)
      await closed(t, source)
    })

  t.test(`a transfer to ${format} is cancelled while multifd's channels wait for each other`, async (t) => {
    const { folder, socket, target, start } = lab(t)
    const worker = await start(fileSink(target, format), listening(socket, 2))
    const names = [MULTIFD, ...channelsOf(streamNamed(MULTIFD))]
    const sockets = await Promise.all(names.map(() => dial(socket)))
    // The last channel only says who it is.
    const parts = names.map((name, index) => (index === 2 ? unpack(name).subarray(0, 64) : unpack(name)))
    for (const [index, part] of parts.entries()) sockets[index]?.write(part)
    await received(worker, 64 + 100)
    await cancels(t, worker, folder)
    await closed(t, ...sockets)
  })

  t.test(`a paused transfer to ${format} is cancelled`, async (t) => {
    const { folder, socket, target, start } = lab(t)
    const worker = await start(fileSink(target, format), listening(socket))
    await worker.request('job-pause', { id: 'job' })
    const source = await dial(socket)
    source.write(whole)
    await worker.until((report) => report.kind === 'job-paused')
    await cancels(t, worker, folder)
    await closed(t, source)
  })

  t.test(`a transfer to ${format} is cancelled that its rate limit holds up`, async (t) => {
    const { folder, socket, target, start } = lab(t)
    const worker = await start(fileSink(target, format), listening(socket), { bandwidth: 1000 })
    const source = await dial(socket)
    source.write(whole)
    await received(worker, 1)
    await cancels(t, worker, folder)
    await closed(t, source)
  })
}

for (const recording of [STREAM, 'q10-pc-q35-10.0-stopped.mapped'])
  t.test(`a conversion of ${recording} is cancelled that its rate limit holds up`, async (t) => {
    const { folder, target, start } = lab(t)
    const path = join(folder, 'source')
    writeFileSync(path, unpack(recording))
    const worker = await start(fileSink(target, 'mapped-ram'), fileSource(path), { bandwidth: 100_000 })
    await received(worker, 1)
    await cancels(t, worker, folder)
  })

t.test('a transfer whose source was told that its memory is safe is not cancelled any more', async (t) => {
  const { socket, target, start } = lab(t)
  const worker = await start(fileSink(target, 'mapped-ram'), listening(socket))
  const source = await dial(socket)
  source.write(unpack('q10-pc-q35-10.0-stopped-bitmaps-returnpath-uuid.stream'))
  // It does not close, although it is told.
  while (!existsSync(target)) await within(once(source, 'data'), HANG_MS, 'an answer')
  await worker.cancel()
  const { outcome } = await within(worker.ended(), HANG_MS, 'the end')
  t.match(outcome, { kind: 'success' })
  t.ok(existsSync(target))
  source.destroy()
})

for (const channels of [0, 2])
  t.test(`a restore over ${1 + channels} connections is cancelled while it listens`, async (t) => {
    const { folder, socket, start } = lab(t)
    const path = join(folder, 'source')
    writeFileSync(path, whole)
    const address = { kind: 'unix', path: socket } as const
    const sink = { kind: 'stream', channels, zeroPages: false, to: { kind: 'listen', address } } as const
    const worker = await start(sink, fileSource(path))
    const sockets = channels === 0 ? [] : [await dial(socket)]
    await cancels(t, worker, folder)
    await closed(t, ...sockets)
    t.notOk(existsSync(socket), 'no socket is left')
  })

for (const [channels, sourceOf, from] of [
  [0, fileSource, 'storage'],
  [2, fileSource, 'storage'],
  [2, cachedSource, 'the page cache'],
] as const)
  t.test(
    `a restore from ${from} over ${1 + channels} connections is cancelled while the other side does not read`,
    async (t) => {
      const { folder, socket, start } = lab(t)
      const path = join(folder, 'source')
      writeFileSync(path, unpack('q10-pc-q35-10.0-stopped.mapped'))
      const sockets: Socket[] = []
      const server = createServer({ pauseOnConnect: true }, (peer) => {
        peer.on('error', () => undefined)
        sockets.push(peer)
      })
      server.listen(socket)
      await once(server, 'listening')
      t.teardown(() => server.close())
      const address = { kind: 'unix', path: socket } as const
      const sink = { kind: 'stream', channels, zeroPages: true, to: { kind: 'connect', address } } as const
      const worker = await start(sink, sourceOf(path))
      await worker.until((report) => report.kind === 'memory-stats' && report.stats.transferred > 0)
      await cancels(t, worker, folder)
      await closed(t, ...sockets)
    },
  )
