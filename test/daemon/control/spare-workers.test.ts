// SPDX-License-Identifier: Apache-2.0
// Spare worker threads over real threads and files: who is kept, for how long, and that nothing of one user reaches the next.

import { writeFileSync } from 'node:fs'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { Descriptors } from '../../../daemon/control/descriptors.js'
import { createHandlers } from '../../../daemon/control/handlers/index.js'
import type { SpareOptions } from '../../../daemon/control/spare-workers.js'
import { startImagesWorker } from '../../../daemon/images/handle.js'
import { begunAhead, type WorkerHandle, workerStarter } from '../../../daemon/iothread/handle.js'
import type { Report } from '../../../daemon/iothread/messages.js'
import { memoryWorkerStarter } from '../../../daemon/memory/handle.js'
import { startNbdWorker } from '../../../daemon/nbd/handle.js'
import type { Arguments, CommandName, Returns } from '../../../protocol/schema/index.js'

const LONG = { limit: 2, ahead: 0, afterMs: 600_000, fromStart: 0 }

/** Handlers, and what became of every thread: how many were made, which ended, who rests. */
function setUp(t: Test, spares: SpareOptions) {
  const start = workerStarter({ aio: 'threads' })
  const threads = { made: 0, ended: 0, resting: 0 }
  const waiting = new Set<() => void>()
  const told = () => {
    for (const look of waiting) look()
  }
  /** Watches one user's time with a thread, and the next one's. */
  const watch = (handle: WorkerHandle): WorkerHandle => {
    const { request, terminate, passOn } = handle
    handle.request = async (name, args) => {
      const reply = await request.call(handle, name, args)
      // What waits for the reply goes on first.
      if (name === 'rest' && (reply as { clean: boolean }).clean)
        setImmediate(() => {
          threads.resting++
          told()
        })
      return reply as never
    }
    handle.terminate = async () => {
      await terminate.call(handle)
      threads.ended++
      told()
    }
    handle.passOn = (name) => watch(passOn.call(handle, name))
    return handle
  }
  let concluded = false
  const { handlers, shutdown } = createHandlers({
    log: pino({ level: 'silent' }),
    startWorker: (name) => {
      threads.made++
      told()
      return watch(start(name))
    },
    startMemory: memoryWorkerStarter({ aio: 'threads' }),
    startNbd: startNbdWorker,
    startImages: startImagesWorker,
    spares,
    events: {
      emit: (_, data) => {
        if ((data as { status?: string }).status === 'concluded') concluded = true
        told()
      },
    },
    descriptors: new Descriptors(),
  })
  t.teardown(() => shutdown(2000))
  const until = (reached: () => boolean) =>
    new Promise<void>((resolve) => {
      const look = () => {
        if (reached()) resolve(void waiting.delete(look))
      }
      waiting.add(look)
      look()
    })
  const run = async <N extends CommandName>(name: N, args: Arguments<N>): Promise<Returns<N>> =>
    (await (handlers[name] as (args: unknown) => unknown)(args)) as never
  const remove = (name: string) => run('blockdev-del', { 'node-name': name })
  return { run, remove, until, threads, shutdown, concluded: () => concluded }
}

function disk(t: Test, name: string) {
  const filename = `${t.testdirName}-${name}`
  writeFileSync(filename, Buffer.alloc(4096, 7))
  return { driver: 'raw', 'node-name': name, file: { driver: 'file', filename } } as const
}

t.test('a new disk gets the thread that the last one left', async (t) => {
  const { run, remove, until, threads } = setUp(t, LONG)
  t.testdir()
  for (let round = 1; round <= 5; round++) {
    await run('blockdev-add', disk(t, 'a'))
    await remove('a')
    await until(() => threads.resting === round)
  }
  t.same(threads, { made: 1, ended: 0, resting: 5 })
})

t.test('so it does from an image of a format, whose buffers are given back', async (t) => {
  const { run, remove, until, threads, concluded } = setUp(t, LONG)
  t.testdir()
  const filename = `${t.testdirName}-image`
  const create = { driver: 'qcow2', file: { driver: 'file', filename }, size: 65536 } as const
  writeFileSync(filename, '')
  const file = { driver: 'file', 'node-name': 'f', filename } as const
  await run('blockdev-add', file)
  await run('blockdev-create', {
    'job-id': 'c',
    options: { ...create, file: 'f' },
  } as Arguments<'blockdev-create'>)
  await until(concluded)
  await run('blockdev-add', { driver: 'qcow2', 'node-name': 'a', file: 'f' } as Arguments<'blockdev-add'>)
  await remove('a')
  await remove('f')
  await until(() => threads.resting === 1)
  await run('blockdev-add', disk(t, 'b'))
  t.equal(threads.made, 1)
})

t.test('two threads are kept and the third ends', async (t) => {
  const { run, remove, until, threads } = setUp(t, LONG)
  t.testdir()
  for (const name of ['a', 'b', 'c']) await run('blockdev-add', disk(t, name))
  for (const name of ['a', 'b', 'c']) await remove(name)
  await until(() => threads.ended === 1)
  for (const name of ['d', 'e']) await run('blockdev-add', disk(t, name))
  t.equal(threads.made, 3)
})

t.test('a thread with a failed flush is not kept', async (t) => {
  const { run, remove, until, threads } = setUp(t, LONG)
  t.testdir()
  const rule = { event: 'none', iotype: 'flush', errno: 5 } as const
  const image = disk(t, 'b').file
  await run('blockdev-add', { driver: 'blkdebug', 'node-name': 'a', image, 'inject-error': [rule] })
  await remove('a')
  await until(() => threads.ended === 1)
  t.same(threads, { made: 1, ended: 1, resting: 0 })
})

t.test('a spare thread ends by itself after its time', async (t) => {
  const { run, remove, until, threads } = setUp(t, { limit: 2, ahead: 0, afterMs: 1, fromStart: 0 })
  t.testdir()
  await run('blockdev-add', disk(t, 'a'))
  await remove('a')
  await until(() => threads.ended === 1)
  await run('blockdev-add', disk(t, 'b'))
  t.equal(threads.made, 2)
})

t.test('the end of everything ends spare threads too', async (t) => {
  const { run, remove, until, threads, shutdown } = setUp(t, LONG)
  t.testdir()
  for (const name of ['a', 'b']) await run('blockdev-add', disk(t, name))
  for (const name of ['a', 'b']) await remove(name)
  await until(() => threads.resting === 2)
  await shutdown(5000)
  t.equal(threads.ended, 2)
})

t.test('a thread that is to rest when everything ends is ended', async (t) => {
  const { run, remove, threads, shutdown } = setUp(t, LONG)
  t.testdir()
  await run('blockdev-add', disk(t, 'a'))
  await remove('a')
  await shutdown(5000)
  t.equal(threads.ended, 1)
})

t.test('limits of a throttle group do not follow a thread to its next user', async (t) => {
  const { run, remove, until, threads } = setUp(t, LONG)
  t.testdir()
  const group = async (total: number) => {
    await run('object-add', { 'qom-type': 'throttle-group', id: 'g', limits: { 'bps-total': total } })
    const definition = { driver: 'throttle', 'node-name': 't', 'throttle-group': 'g', file: disk(t, 'a') }
    await run('blockdev-add', definition as Arguments<'blockdev-add'>)
  }
  await group(1)
  await remove('t')
  await run('object-del', { id: 'g' })
  await until(() => threads.resting === 1)
  // With the old limit this would take hours: the group of that name is another one now.
  await group(0)
  await run('blockdev-add', disk(t, 'b'))
  const mirror = { 'job-id': 'j', device: 't', target: 'b', sync: 'full', 'x-auto-complete': true } as const
  await run('blockdev-mirror', mirror)
  while ((await run('query-jobs', {})).length > 0) await new Promise((resolve) => setImmediate(resolve))
  await remove('t')
  await remove('b')
  t.equal(threads.made, 2)
})

t.test('a worker does not rest while a node is open or being opened', async (t) => {
  const handle = workerStarter({ aio: 'threads' })('disk0')
  t.teardown(() => handle.terminate())
  t.testdir()
  const { file } = disk(t, 'a')
  const rests = async () => (await handle.request('rest', null)).clean
  const inner = { ...file, 'node-name': 'f' }
  await handle.request('node-add', { spec: inner })
  t.notOk(await rests(), 'a node is open')
  const rules = [{ op: 'flush', stall: true }]
  await handle.request('node-add', { spec: { driver: 'x-inject', 'node-name': 'i', file: 'f', rules } })
  await handle.request('node-del', { node: 'i' })
  await handle.request('node-del', { node: 'f' })
  t.ok(await rests())
  const stuck = { driver: 'x-inject', 'node-name': 'i', file: inner, rules: [{ op: 'open', stall: true }] }
  handle.request('node-add', { spec: stuck }).catch(() => {})
  t.notOk(await rests(), 'a node is being opened and that is stuck')
})

t.test('the former user of a thread hears nothing of the next and is refused', async (t) => {
  const former = workerStarter({ aio: 'threads' })('disk0')
  const seen: Report[] = []
  former.onReport((report) => seen.push(report))
  former.onExit(() => t.fail('it ended before'))
  t.same(await former.request('rest', null), { clean: true })
  const next = former.passOn('disk1')
  t.teardown(() => next.terminate())
  t.testdir()
  const { file } = disk(t, 'a')
  await next.request('node-add', { spec: { ...file, 'node-name': 'f' } })
  t.same(seen, [])
  await t.rejects(former.request('node-del', { node: 'f' }), { message: "iothread 'disk0' ended" })
  await former.terminate()
  t.same(await next.request('node-del', { node: 'f' }), null, 'and it cannot end the thread')
})

t.test('a thread is made ahead, and again when it was taken', async (t) => {
  const { run, remove, until, threads } = setUp(t, { limit: 2, ahead: 1, afterMs: 1, fromStart: 1 })
  t.testdir()
  t.equal(threads.made, 1)
  await run('blockdev-add', disk(t, 'a'))
  await until(() => threads.made === 2)
  await run('blockdev-add', disk(t, 'b'))
  await until(() => threads.made === 3)
  await remove('a')
  await remove('b')
  await until(() => threads.ended === 2)
  t.equal(threads.made, 3, 'one is left, and no other is made')
})

t.test('threads for the first disks are made at once, and end when nobody came for them', async (t) => {
  const { run, until, threads } = setUp(t, { limit: 2, ahead: 1, afterMs: 1, fromStart: 2 })
  t.testdir()
  t.equal(threads.made, 2)
  await until(() => threads.ended === 1)
  await run('blockdev-add', disk(t, 'a'))
  await until(() => threads.made === 3)
  t.equal(threads.ended, 1, 'the disk had the one that was left')
})

t.test('the first two disks take the threads made at once', async (t) => {
  const { run, threads } = setUp(t, { limit: 2, ahead: 0, afterMs: 600_000, fromStart: 2 })
  t.testdir()
  await run('blockdev-add', disk(t, 'a'))
  await run('blockdev-add', disk(t, 'b'))
  t.equal(threads.made, 2)
})

t.test('a thread that was begun ahead goes to who asks first', async (t) => {
  const started: string[] = []
  const start = workerStarter({ aio: 'threads' })
  const ahead = begunAhead((name) => {
    started.push(name)
    return start(name)
  }, 1)
  t.same(started, ['spare0'])
  const handles = [ahead('disk0'), ahead('disk1')] as const
  t.teardown(() => Promise.all(handles.map((handle) => handle.terminate())))
  t.same(started, ['spare0', 'disk1'])
  t.equal(handles[0].name, 'disk0')
  t.same(await handles[0].request('rest', null), { clean: true })
})
