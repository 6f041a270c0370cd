// SPDX-License-Identifier: Apache-2.0
// The bench job over real files: which requests it makes, and how it ends.

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { BenchSpec } from '../../../../daemon/iothread/messages.js'
import { Bench } from '../../../helpers/iothread.js'

const KiB = 1024

const usual: BenchSpec = {
  kind: 'bench',
  node: 'n',
  write: false,
  count: 16,
  depth: 4,
  size: 4 * KiB,
  step: 4 * KiB,
  offset: 0,
  pattern: 0,
  flushInterval: 0,
  drain: true,
}

async function ran(t: Test, length: number, spec: Partial<BenchSpec>) {
  const path = join(t.testdir({}), 'image')
  writeFileSync(path, Buffer.alloc(length, 1))
  const bench = new Bench()
  await bench.addFile('n', path)
  await bench.request('job-start', { id: 'j', spec: { ...usual, ...spec } })
  const { outcome, result } = await bench.report('job-ended', 'j')
  if (outcome.kind === 'success') await bench.request('job-finalize', { id: 'j', commit: true })
  const last = bench.reports.filter((report) => report.kind === 'nodes').at(-1)
  t.equal(await bench.end(), 0)
  return { outcome, result, last, bytes: readFileSync(path) }
}

t.test('every request is made, and counted', async (t) => {
  const { outcome, result } = await ran(t, 64 * KiB, { count: 100, depth: 7 })
  t.same(outcome, { kind: 'success' })
  t.match(result, { requests: 100, bytes: 400 * KiB })
})

t.test('writes have the pattern and the step, and nothing else is written', async (t) => {
  const { bytes } = await ran(t, 64 * KiB, {
    write: true,
    count: 4,
    step: 16 * KiB,
    offset: 4 * KiB,
    pattern: 9,
  })
  const expected = Buffer.alloc(64 * KiB, 1)
  for (const at of [4, 20, 36, 52]) expected.fill(9, at * KiB, (at + 4) * KiB)
  t.ok(bytes.equals(expected))
})

t.test('offsets go on from the beginning behind the end', async (t) => {
  const { bytes } = await ran(t, 16 * KiB, { write: true, count: 5, step: 12 * KiB, pattern: 9, depth: 1 })
  t.ok(bytes.equals(Buffer.alloc(16 * KiB, 9)), '0, 12, 8, 4, 0')
})

t.test('a request beyond the end fails the job, and the image stays open', async (t) => {
  const { outcome } = await ran(t, 16 * KiB, { offset: 15 * KiB })
  t.match(outcome, { kind: 'failed', error: /Input\/output error/ })
})

for (const drain of [true, false]) {
  t.test(`writes are flushed in between, ${drain ? 'after' : 'without'} a drain`, async (t) => {
    const spec = { write: true, count: 20, depth: 5, flushInterval: 5, drain }
    t.match((await ran(t, 64 * KiB, spec)).outcome, { kind: 'success' })
  })
}

t.test('a request longer than a slot is one request', async (t) => {
  const size = 2.5 * 1024 * KiB
  const { result, bytes } = await ran(t, 2 * size, {
    write: true,
    count: 2,
    depth: 2,
    size,
    step: size,
    pattern: 5,
  })
  t.match(result, { requests: 2, bytes: 2 * size })
  t.ok(bytes.equals(Buffer.alloc(2 * size, 5)))
})

t.test('more lanes than buffers share them', async (t) => {
  const size = 1024 * KiB
  const { result } = await ran(t, 4 * size, { count: 200, depth: 100, size, step: size })
  t.match(result, { requests: 200 })
})
