// SPDX-License-Identifier: Apache-2.0
// Engines in worker threads that end while requests are in flight.

import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import t from 'tap'
import { pace } from '../helpers/waiting.js'
import { kinds } from './kinds.js'

const ROUNDS = 50

/** The worker: starts reads without end and says so once. */
const script = `
  import { createEngine } from ${JSON.stringify(new URL('../../native/engine.js', import.meta.url).href)}
  import { parentPort, workerData } from 'node:worker_threads'
  const engine = createEngine({ aio: workerData.aio, slotSize: 65536 })
  const file = await engine.open(workerData.path, { write: true, direct: true })
  const slots = engine.takeSlots(16)
  engine.slotBytes(slots[0]).fill(1)
  const again = async (slot) => {
    for (;;) {
      await engine.read(file, slot * 65536, 65536, slot, 0)
      await engine.write(file, slot * 65536, 65536, slot, 0)
    }
  }
  for (const slot of slots) void again(slot)
  await engine.flush(file, true)
  parentPort.postMessage('busy')
`
const module = new URL(`data:text/javascript,${encodeURIComponent(script)}`)

function counts(): { descriptors: number; threads: number } {
  return { descriptors: readdirSync('/proc/self/fd').length, threads: readdirSync('/proc/self/task').length }
}

for (const { aio, absent } of kinds) {
  t.test(
    `${aio}: terminating a worker with requests in flight leaves nothing`,
    { skip: absent },
    async (t) => {
      const path = join(t.testdir(), 'disk.img')
      writeFileSync(path, Buffer.alloc(1 << 20))
      const round = async () => {
        const worker = new Worker(module, { workerData: { aio, path }, execArgv: [] })
        await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
        await worker.terminate()
      }
      for (let warm = 0; warm < 3; warm++) await round()
      await settled(counts())
      const before = counts()
      for (let number = 0; number < ROUNDS; number++) await round()
      const after = await settled(before)
      t.ok(
        after.descriptors <= before.descriptors,
        `${before.descriptors} → ${after.descriptors} descriptors`,
      )
      t.ok(after.threads <= before.threads, `${before.threads} → ${after.threads} threads`)
    },
  )

  t.test(`${aio}: an idle engine does not keep a worker alive`, { skip: absent }, async (t) => {
    const idle = `
      import { createEngine } from ${JSON.stringify(new URL('../../native/engine.js', import.meta.url).href)}
      const engine = createEngine({ aio: ${JSON.stringify(aio)} })
      await engine.open('/', { write: false, directory: true })
      engine.takeSlots(1)
    `
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(idle)}`), { execArgv: [] })
    t.equal(await new Promise((resolve) => worker.once('exit', resolve)), 0)
  })
}

/** The last tasks end a moment after their worker; polled, because they give no event. */
async function settled(wanted: { descriptors: number; threads: number }) {
  for (let tries = 0; tries < 500; tries++) {
    const now = counts()
    if (now.descriptors <= wanted.descriptors && now.threads <= wanted.threads) return now
    await pace(10)
  }
  return counts()
}
