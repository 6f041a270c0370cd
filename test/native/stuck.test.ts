// SPDX-License-Identifier: Apache-2.0
// Calls that do not return: what goes on meanwhile, what is said about them, and how a process ends in spite of them.
// A file system over FUSE makes calls take longer than any test does; they end when it is unmounted.

import { spawn } from 'node:child_process'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { addon } from '../../native/binding.js'
import { childrenOf } from '../helpers/processes.js'
import { SlowFs, slowfsAbsent } from '../helpers/slowfs.js'
import { pace } from '../helpers/waiting.js'
import { engineFor, factsOf, kinds, MIB } from './kinds.js'

const EIO = -5
const ECANCELED = -125
const STUCK_MS = 10_000
const skip = slowfsAbsent()
const plainTasks = addon.ownGroups ? false : 'a sanitizer build runs tasks as ordinary threads'
const engineUrl = JSON.stringify(new URL('../../native/engine.js', import.meta.url).href)
const processUrl = JSON.stringify(new URL('../../native/process.js', import.meta.url).href)

t.test('stuck calls', { skip }, async (t) => {
  const slow = await SlowFs.mount(t.testdir())
  const fresh = (name: string) => {
    writeFileSync(join(slow.files, name), Buffer.alloc(MIB))
    return join(slow.mount, name)
  }

  for (const { aio, absent } of kinds) {
    await t.test(`${aio}: a failed flush is never followed by a good one`, { skip: absent }, async (t) => {
      const engine = engineFor(t, { aio })
      const path = fresh('poison.img')
      const file = await engine.open(path, { write: true })
      slow.rules({ op: 'fsync', delayMs: 0, error: 'EIO' })
      t.equal(await engine.flush(file, true), EIO)
      slow.rules()
      t.equal(await engine.flush(file, true), EIO, 'on this handle')
      t.equal(await engine.flush(file, false), EIO)
      const other = await engine.open(path, { write: true })
      t.equal(await engine.flush(other, true), 0, 'another handle stands for itself')
    })

    await t.test(`${aio}: a hundred stuck calls hold up no other`, { skip: absent }, async (t) => {
      const engine = engineFor(t, { aio })
      const stuck = await engine.open(fresh('stuck.img'), { write: true })
      const elsewhere = await engine.open(join(t.testdir(), 'fine.img'), {
        write: true,
        create: true,
        direct: true,
      })
      slow.rules({ op: 'fsync', delayMs: 3000 })
      const flushes = Array.from({ length: 100 }, () => engine.flush(stuck, true))
      let stuckEnded = false
      void Promise.race(flushes).then(() => {
        stuckEnded = true
      })
      t.equal(await engine.truncate(elsewhere, MIB), 0)
      t.equal((await factsOf(engine, elsewhere)).size, MIB)
      const slot = engine.takeSlots(1)[0] ?? 0
      t.equal(await engine.read(elsewhere, 0, MIB, slot, 0), MIB)
      t.equal(await engine.flush(elsewhere, true), 0)
      t.match(engine.oldest(), { op: 'flush', file: stuck })
      t.equal(engine.stats().requests, 100)
      t.notOk(stuckEnded, 'and the stuck ones are stuck')
      slow.rules()
      t.ok((await Promise.all(flushes)).every((result) => result === 0))
      t.equal(engine.oldest(), undefined)
    })
  }

  await t.test('shutdown leaves stuck calls to themselves after its deadline', async (t) => {
    const engine = engineFor(t, { aio: 'auto' })
    const file = await engine.open(fresh('late.img'), { write: true })
    slow.rules({ op: 'fsync', delayMs: 2000 })
    const flush = engine.flush(file, true)
    t.ok((await engine.shutdown(50)) >= 1)
    t.equal(await flush, ECANCELED)
    slow.rules()
  })

  await slow.unmount()
})

t.test('a process ends while its calls are stuck', { skip: skip || plainTasks }, async (t) => {
  const folder = t.testdir()
  const mounts: SlowFs[] = []
  const leftBehind: number[] = []
  for (const { aio, absent } of kinds) {
    for (const how of ['process.exit', 'exitNow', 'SIGKILL'] as const) {
      await t.test(`${aio}: ${how} waits for none of them`, { skip: absent }, async (t) => {
        const slow = await SlowFs.mount(join(folder, `${aio}-${how}`))
        mounts.push(slow)
        writeFileSync(join(slow.files, 'disk.img'), Buffer.alloc(MIB))
        slow.rules({ op: 'fsync', delayMs: STUCK_MS }, { op: 'read', delayMs: STUCK_MS })
        const child = spawnStuck(aio, join(slow.mount, 'disk.img'), how)
        await new Promise((resolve) => child.stdout.once('data', resolve))
        const tasks = childrenOf(child.pid ?? 0)
        const exit = new Promise((resolve) => child.once('exit', (code, signal) => resolve(code ?? signal)))
        const streamsClosed = new Promise((resolve) => child.once('close', resolve))
        if (how === 'SIGKILL') child.kill('SIGKILL')
        else child.stdin.write('now\n')
        t.equal(await exit, how === 'SIGKILL' ? 'SIGKILL' : 3)
        await streamsClosed
        t.ok(tasks.some(isAlive), 'the calls are still stuck, and keep no stream of the process open')
        leftBehind.push(...tasks)
      })
    }
  }
  await Promise.all(mounts.map((slow) => slow.unmount()))
  for (let tries = 0; tries < 1000 && leftBehind.some(isAlive); tries++) await pace(10)
  t.notOk(leftBehind.some(isAlive), 'what was left behind ends with its calls')
})

function spawnStuck(aio: string, path: string, how: 'process.exit' | 'exitNow' | 'SIGKILL') {
  const script = `
    import { createEngine } from ${engineUrl}
    import { exitNow } from ${processUrl}
    const engine = createEngine({ aio: ${JSON.stringify(aio)} })
    const file = await engine.open(${JSON.stringify(path)}, { write: true })
    for (const slot of engine.takeSlots(3)) {
      void engine.flush(file, true)
      void engine.read(file, 0, 4096, slot, 0)
    }
    while (engine.oldest() === undefined) await new Promise((resolve) => setImmediate(resolve))
    process.stdout.write('stuck\\n')
    process.stdin.once('data', () => ${how === 'exitNow' ? 'exitNow(3)' : 'process.exit(3)'})
  `
  return spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
}

t.test('SIGKILL takes idle tasks with it', { skip: plainTasks }, async (t) => {
  const script = `
    import { createEngine } from ${engineUrl}
    const engine = createEngine({ aio: 'auto' })
    await engine.open('/', { write: false, directory: true })
    process.stdout.write('idle\\n')
    process.stdin.resume()
  `
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  await new Promise((resolve) => child.stdout.once('data', resolve))
  const tasks = childrenOf(child.pid ?? 0)
  child.kill('SIGKILL')
  await new Promise((resolve) => child.once('exit', resolve))
  for (let tries = 0; tries < 500 && tasks.some(isAlive); tries++) await pace(10)
  t.notOk(tasks.some(isAlive), tasks.join())
})

/** A zombie whose threads have all ended waits only for its new parent: it counts as gone. */
function isAlive(pid: number): boolean {
  try {
    return readdirSync(`/proc/${pid}/task`).some(
      (task) => !/^State:\s*[ZX]/m.test(readFileSync(`/proc/${pid}/task/${task}/status`, 'utf8')),
    )
  } catch {
    return false
  }
}
