// SPDX-License-Identifier: Apache-2.0
// Streams whose peers do nothing: what goes on meanwhile, what is said about them, and what ends them.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import t from 'tap'
import { createEngine } from '../../native/engine.js'
import type { IoEngine } from '../../native/types.js'
import { SlowFs, slowfsAbsent } from '../helpers/slowfs.js'
import { within } from '../helpers/waiting.js'
import { leftOver, openDescriptors, type SocketPair, socketPair } from './descriptors.js'
import { engineFor, factsOf, KIB, kinds, MIB, takeSlot } from './kinds.js'

const ECANCELED = -125
/** Longer than a test takes: nothing below may depend on it. */
const LONG = 60_000
const engineUrl = JSON.stringify(new URL('../../native/engine.js', import.meta.url).href)

interface Folder {
  testdir(): string
}

async function silentPeers(t: Parameters<typeof socketPair>[0], engine: IoEngine, count: number) {
  const pairs: SocketPair[] = []
  for (let number = 0; number < count; number++) pairs.push(await socketPair(t))
  const files = await Promise.all(pairs.map(({ fd }) => engine.adopt(fd)))
  return { pairs, files }
}

/** Writes and reads a file, to see whether storage is served. */
async function useStorage(t: Folder, engine: IoEngine): Promise<number> {
  const file = await engine.open(join(t.testdir(), 'disk.img'), { write: true, create: true, direct: true })
  const slot = takeSlot(engine)
  const writes = Array.from({ length: 40 }, (_, index) =>
    engine.write(file, index * 64 * KIB, 64 * KIB, slot, 0),
  )
  const written = (await Promise.all(writes)).reduce((sum, bytes) => sum + bytes, 0)
  await engine.close(file)
  engine.giveSlots([slot])
  return written
}

for (const { aio, absent } of kinds) {
  t.test(aio, { skip: absent }, async (t) => {
    t.test('receives that wait take nothing from the limits of storage', async (t) => {
      const engine = engineFor(t, { aio, maxRequests: 2, maxBytes: 128 * KIB })
      const { files } = await silentPeers(t, engine, 1)
      const slot = takeSlot(engine)
      const received = Array.from({ length: 50 }, () => engine.receive(files[0] ?? 0, MIB, slot, 0, 0))
      t.equal(await within(useStorage(t, engine), LONG, 'the end of the writes'), 40 * 64 * KIB)
      t.equal(engine.stats().requests, 50)
      t.equal(engine.stats().bytes, 0)
      engine.shutdownStream(files[0] ?? 0, 'read')
      t.ok((await Promise.all(received)).every((result) => result === ECANCELED))
    })

    t.test('sends that wait take nothing from the limits of storage', async (t) => {
      const engine = engineFor(t, { aio, maxRequests: 2, maxBytes: 128 * KIB })
      const { files } = await silentPeers(t, engine, 1)
      const slot = takeSlot(engine)
      const sent = Array.from({ length: 50 }, () => engine.send(files[0] ?? 0, MIB, slot, 0))
      t.equal(await within(useStorage(t, engine), LONG, 'the end of the writes'), 40 * 64 * KIB)
      engine.shutdownStream(files[0] ?? 0, 'write')
      t.equal((await Promise.all(sent)).at(-1), ECANCELED)
    })

    t.test('two hundred directions that wait hold up neither storage nor each other', async (t) => {
      const engine = engineFor(t, { aio, maxRequests: 4 })
      const { pairs, files } = await silentPeers(t, engine, 100)
      const slot = takeSlot(engine)
      const sends = files.map((file) => engine.send(file, MIB, slot, 0))
      const receives = files.map((file) => engine.receive(file, 5, slot, 0, 0))
      t.equal(await within(useStorage(t, engine), LONG, 'the end of the writes'), 40 * 64 * KIB)
      pairs.at(-1)?.peer.write('hello')
      t.equal(await receives.at(-1), 5, 'the last one goes on')
      pairs[0]?.peer.resume()
      t.equal(await sends[0], MIB, 'and the first')
      t.ok(engine.stats().tasks <= 264, `${engine.stats().tasks} tasks`)
      for (const file of files) engine.shutdownStream(file, 'both')
      await Promise.all([...sends, ...receives])
    })

    t.test('who waits for a peer is not stuck', async (t) => {
      const engine = engineFor(t, { aio })
      const { files } = await silentPeers(t, engine, 1)
      const slot = takeSlot(engine)
      const received = engine.receive(files[0] ?? 0, 5, slot, 0, 0)
      const sent = engine.send(files[0] ?? 0, MIB, slot, 0)
      await factsOf(engine, files[0] ?? 0)
      t.equal(engine.oldest(), undefined)
      engine.shutdownStream(files[0] ?? 0, 'both')
      t.same(await Promise.all([received, sent]), [ECANCELED, ECANCELED])
    })

    t.test('an engine that ends waits for nobody who may not come, and leaves nothing', async (t) => {
      const before = openDescriptors()
      const engine = createEngine({ aio })
      const { pairs, files } = await silentPeers(t, engine, 20)
      const slot = takeSlot(engine)
      const received = files.flatMap((file) => [0, 1, 2].map(() => engine.receive(file, 5, slot, 0, 0)))
      const sent = engine.send(files[0] ?? 0, MIB, slot, 0)
      await factsOf(engine, files[0] ?? 0)
      const ended = engine.shutdown(LONG)
      t.ok((await Promise.all(received)).every((result) => result === ECANCELED))
      pairs[0]?.peer.resume()
      t.equal(await sent, MIB, 'what is being sent is sent')
      t.equal(await ended, 0)
      for (const { mine, peer } of pairs) for (const socket of [mine, peer]) socket.destroy()
      t.same(await leftOver(before), [])
    })

    t.test('an engine that ends at its deadline leaves what is being sent, and nothing open', async (t) => {
      const before = openDescriptors()
      const engine = createEngine({ aio })
      const { pairs, files } = await silentPeers(t, engine, 10)
      const slot = takeSlot(engine)
      const sent = files.map((file) => engine.send(file, MIB, slot, 0))
      t.ok((await engine.shutdown(20)) >= files.length)
      t.ok((await Promise.all(sent)).every((result) => result === ECANCELED))
      for (const { mine, peer } of pairs) for (const socket of [mine, peer]) socket.destroy()
      t.same(await leftOver(before), [])
    })

    t.test('a worker that is terminated while its streams wait leaves nothing', async (t) => {
      const script = `
        import { createEngine } from ${engineUrl}
        import { parentPort, workerData } from 'node:worker_threads'
        const engine = createEngine({ aio: ${JSON.stringify(aio)} })
        const files = await Promise.all(workerData.map((fd) => engine.adopt(fd)))
        const [slot] = engine.takeSlots(1)
        for (const file of files) {
          void engine.receive(file, 5, slot, 0, 0)
          void engine.receive(file, 5, slot, 0, 0)
          void engine.send(file, 1 << 20, slot, 0)
        }
        for (const fd of workerData) void engine.adopt(fd)
        const listener = await engine.listen({ kind: 'tcp', host: '127.0.0.1', port: 0 })
        void engine.accept(listener)
        parentPort.postMessage('waiting')
      `
      const module = new URL(`data:text/javascript,${encodeURIComponent(script)}`)
      const round = async (descriptors: number[]) => {
        const worker = new Worker(module, { workerData: descriptors, execArgv: [] })
        await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
        await worker.terminate()
      }
      const pairs = await Promise.all(Array.from({ length: 10 }, () => socketPair(t)))
      const descriptors = pairs.map(({ fd }) => fd)
      await round(descriptors)
      const before = openDescriptors()
      for (let number = 0; number < 20; number++) await round(descriptors)
      t.same(await leftOver(before), [])
    })

    t.test('a process whose streams wait ends at once', async (t) => {
      const script = `
        import { createEngine } from ${engineUrl}
        const engine = createEngine({ aio: ${JSON.stringify(aio)} })
        const file = await engine.adopt(0)
        const [slot] = engine.takeSlots(1)
        void engine.receive(file, 5, slot, 0, 0)
        await engine.stat(file)
        process.exit(7)
      `
      const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
        stdio: ['pipe', 'ignore', 'inherit'],
      })
      t.equal((await within(once(child, 'exit'), LONG, 'the end of the process'))[0], 7)
      child.stdin?.destroy()
    })
  })
}

t.test(
  'a file that storage does not give is stuck, read as a stream too',
  { skip: slowfsAbsent() },
  async (t) => {
    const slow = await SlowFs.mount(t.testdir())
    const engine = engineFor(t, { aio: 'threads' })
    writeFileSync(join(slow.files, 'state'), Buffer.alloc(MIB))
    const fd = openSync(join(slow.mount, 'state'), 'r')
    const file = await engine.adopt(fd)
    slow.rules({ op: 'read', delayMs: 2000 })
    const slot = takeSlot(engine)
    const received = engine.receive(file, MIB, slot, 0, 0)
    while (engine.oldest() === undefined) await new Promise((resolve) => setImmediate(resolve))
    t.match(engine.oldest(), { op: 'receive', file })
    slow.rules()
    t.equal(await received, MIB)
    await engine.close(file)
    closeSync(fd)
    await slow.unmount()
  },
)
