// SPDX-License-Identifier: Apache-2.0
// Copies from storage that does not answer hold their buffers without end: however many they may have, other disks of the
// same thread are copied.

import t, { type Test } from 'tap'
import { Bench } from '../../../helpers/iothread.js'
import { pace } from '../../../helpers/waiting.js'

const MiB = 2 ** 20
const SIZE = 400 * MiB

/** @param stalls  its reads do not end */
function source(number: number, stalls: boolean) {
  const rules = stalls ? [{ op: 'read', count: 0, stall: true }] : []
  return { driver: 'x-inject', 'node-name': `bad${number}`, file: `none${number}`, rules }
}

async function disks(t: Test): Promise<Bench> {
  const bench = new Bench()
  t.teardown(async () => {
    for (const number of [0, 1]) {
      await bench.request('job-cancel', { id: `stuck${number}` })
      await bench.request('node-reopen', { specs: [source(number, false)] })
    }
    await bench.end()
  })
  for (const number of [0, 1]) {
    await bench.add({ driver: 'null-co', 'node-name': `none${number}`, size: SIZE })
    await bench.add(source(number, true))
    await bench.add({ driver: 'null-co', 'node-name': `to${number}`, size: SIZE })
  }
  await bench.add({ driver: 'null-co', 'node-name': 'good', size: 8 * MiB })
  await bench.add({ driver: 'x-memory', 'node-name': 'to', size: 8 * MiB })
  return bench
}

t.test('copies that may have all buffers leave some to others', async (t) => {
  const bench = await disks(t)
  for (const number of [0, 1]) {
    const ends = { source: `bad${number}`, target: `to${number}`, filter: `#f${number}` }
    await bench.mirror(`stuck${number}`, { ...ends, bufSize: 2 ** 30 })
  }
  // They take one after the other until there is none that they may have.
  for (let before = -1, now = 0; now !== before || now < 100; await pace(50)) {
    before = now
    now = bench.engine.stats().slotsInUse
  }
  await bench.mirror('j', { source: 'good', target: 'to', autoComplete: true })
  t.same((await bench.report('job-ended', 'j')).outcome, { kind: 'success' })
})
