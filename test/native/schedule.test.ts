// SPDX-License-Identifier: Apache-2.0
// What threads ask of the scheduler, read back from /proc.

import { readFileSync } from 'node:fs'
import t from 'tap'
import { createEngine } from '../../native/engine.js'
import { scheduleFor } from '../../native/process.js'

const SCHED_BATCH = '3'

/** Policy of a thread: field 41 of its stat. */
function policy(stat: string): string | undefined {
  const text = readFileSync(stat, 'utf8')
  return text.slice(text.lastIndexOf(')') + 2).split(' ')[41 - 3]
}

t.test('a thread that moves data is scheduled in bulk, one that answers is not', async (t) => {
  t.equal(scheduleFor('latency'), 0)
  t.not(policy('/proc/thread-self/stat'), SCHED_BATCH)
})

t.test('an engine leaves the policy of the thread that made it alone', async (t) => {
  const engine = createEngine({ aio: 'threads' })
  const file = await engine.open('/proc/self/stat', { write: false })
  await engine.close(file)
  t.not(policy('/proc/thread-self/stat'), SCHED_BATCH)
  t.equal(await engine.shutdown(1000), 0)
})

t.test('throughput is asked for the calling thread', async (t) => {
  t.equal(scheduleFor('throughput'), 0)
  t.equal(policy('/proc/thread-self/stat'), SCHED_BATCH)
})
