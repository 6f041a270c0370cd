// SPDX-License-Identifier: Apache-2.0
// The thread that is made ahead for the next transfer of memory: when it is made, who gets it, that it ends with the daemon.

import { pino } from 'pino'
import t, { type Test } from 'tap'
import { MemoryWorkers } from '../../../daemon/control/memory-workers.js'
import { type MemoryHandle, memoryWorkerStarter } from '../../../daemon/memory/handle.js'

const SPARE = { limit: 1, ahead: 1, afterMs: 1, fromStart: 0 }

/** Workers, and the names of the threads that were made and ended. */
function setUp(t: Test, spares = SPARE) {
  const start = memoryWorkerStarter({ aio: 'threads' })
  const made: string[] = []
  const ended: string[] = []
  let told = () => {}
  const watch = (handle: MemoryHandle, thread: string): MemoryHandle => {
    const { terminate, passOn } = handle
    handle.terminate = async () => {
      await terminate.call(handle)
      ended.push(thread)
    }
    handle.passOn = (name) => watch(passOn.call(handle, name), thread)
    return handle
  }
  const workers = new MemoryWorkers(
    (name) => {
      made.push(name)
      told()
      return watch(start(name), name)
    },
    pino({ level: 'silent' }),
    { job: () => {}, stats: () => {}, lost: () => {} },
    spares,
  )
  t.teardown(() => workers.endAll(2000))
  const untilMade = async (count: number) => {
    // The timer that is waited for lets the process end.
    const awake = setInterval(() => {}, 60_000)
    while (made.length < count)
      await new Promise<void>((resolve) => {
        told = resolve
      })
    clearInterval(awake)
  }
  return { workers, made, ended, untilMade }
}

t.test('a transfer gets the thread that was made ahead, and another is made', async (t) => {
  const { workers, made, ended, untilMade } = setUp(t)
  t.same(made, [], 'none is made at once')
  await untilMade(1)
  const worker = workers.start([])
  t.equal(worker.name, 'memory0')
  await untilMade(2)
  t.same(made, ['spare0', 'spare1'])
  t.same(await worker.request('shutdown', { deadlineMs: 1000 }), { left: 0 }, 'it answers under its new name')
  await workers.end(worker)
  t.same(ended, ['spare0'], 'what served one guest serves no other')
})

t.test('one that comes before it is made, or while it is in use, gets a thread of its own', async (t) => {
  const { workers, made } = setUp(t, { ...SPARE, afterMs: 600_000 })
  const one = workers.start([])
  const other = workers.start([])
  t.same(made, ['memory0', 'memory1'])
  await Promise.all([workers.end(one), workers.end(other)])
})

t.test('the end of all ends it too', async (t) => {
  const { workers, made, ended, untilMade } = setUp(t)
  await untilMade(1)
  const worker = workers.start([])
  await untilMade(2)
  await workers.endAll(2000)
  t.same(ended.toSorted(), made.toSorted())
  await t.rejects(worker.request('shutdown', { deadlineMs: 0 }), { message: "iothread 'memory0' ended" })
})
