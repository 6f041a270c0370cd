// SPDX-License-Identifier: Apache-2.0
import t from 'tap'
import { TaskPool } from '../../../../daemon/iothread/copy/task-pool.js'

/** A task that ends when told to. */
function held(): { task: () => Promise<void>; end: (error?: Error) => void } {
  let end: (error?: Error) => void = () => {}
  const ended = new Promise<void>((resolve, reject) => {
    end = (error) => (error === undefined ? resolve() : reject(error))
  })
  return { task: () => ended, end: (error) => end(error) }
}

t.test('never runs more tasks than its limit', async (t) => {
  const pool = new TaskPool(3)
  let running = 0
  let most = 0
  for (let i = 0; i < 50; i++)
    await pool.start(async () => {
      most = Math.max(most, ++running)
      await new Promise((resolve) => setImmediate(resolve))
      running--
    })
  await pool.idle()
  t.equal(most, 3)
  t.equal(pool.running, 0)
})

t.test('a start waits until there is room', async (t) => {
  const pool = new TaskPool(1)
  const first = held()
  await pool.start(first.task)
  let started = false
  const second = pool.start(async () => {
    started = true
  })
  await new Promise((resolve) => setImmediate(resolve))
  t.equal(started, false)
  first.end()
  await second
  t.equal(started, true)
})

t.test('the first error is thrown by start and idle, and others still end', async (t) => {
  const pool = new TaskPool(2)
  const [bad, slow] = [held(), held()]
  await pool.start(bad.task)
  await pool.start(slow.task)
  bad.end(new Error('no'))
  await t.rejects(
    pool.start(async () => {}),
    { message: 'no' },
  )
  t.equal(pool.running, 1)
  const idle = pool.idle()
  slow.end()
  await t.rejects(idle, { message: 'no' })
})

t.test('settle waits for everybody and does not throw', async (t) => {
  const pool = new TaskPool(2)
  const bad = held()
  await pool.start(bad.task)
  bad.end(new Error('no'))
  await pool.settle()
  t.equal(pool.running, 0)
})
