// SPDX-License-Identifier: Apache-2.0
// The job around a check: what it claims, what it tells, and that it can be cancelled.

import { writeFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { Bench } from '../../../helpers/iothread.js'
import { smallImage } from '../../../helpers/qcow2-image.js'

async function bench(t: Test, more: Record<string, unknown> = {}): Promise<Bench> {
  const file = path.join(t.testdir({}), 'a.qcow2')
  writeFileSync(file, smallImage())
  const bench = new Bench()
  t.teardown(() => bench.end())
  await bench.addFile('img', file, more)
  return bench
}

t.test('a check tells what it found as its result', async (t) => {
  const b = await bench(t)
  await b.request('job-start', { id: 'c', spec: { kind: 'check', node: 'img', repair: 'none' } })
  const { outcome, result } = await b.report('job-ended', 'c')
  t.same(outcome, { kind: 'success' })
  t.match(result, { corruptions: 0, leaks: 0, 'total-clusters': 256, 'allocated-clusters': 1 })
})

t.test('a repair of a node that is read-only is refused before there is a job', async (t) => {
  const b = await bench(t, { 'read-only': true })
  const spec = { kind: 'check', node: 'img', repair: 'all' } as const
  await t.rejects(b.request('job-start', { id: 'c', spec }), { message: 'Block node is read-only' })
  t.same(b.story('c'), [])
})

t.test('two repairs of one image at once are refused', async (t) => {
  const b = await bench(t)
  const spec = { kind: 'check', node: 'img', repair: 'all' } as const
  await b.request('job-start', { id: 'one', spec })
  await t.rejects(b.request('job-start', { id: 'two', spec }), { message: /Permission conflict/ })
  t.same((await b.report('job-ended', 'one')).outcome, { kind: 'success' })
})

t.test('a check on a slow disk is cancelled when the request in flight has ended', async (t) => {
  const b = await bench(t)
  const rules = [{ op: 'read', count: 0, 'delay-ms': 300 }]
  await b.add({ driver: 'x-inject', 'node-name': 'slow', file: 'img', rules })
  await b.request('job-start', { id: 'c', spec: { kind: 'check', node: 'slow', repair: 'none' } })
  await b.request('job-cancel', { id: 'c' })
  t.same((await b.report('job-ended', 'c')).outcome, { kind: 'cancelled' })
})

t.test('an image that cannot be read fails the check with the error of the disk', async (t) => {
  const b = await bench(t)
  const rules = [{ op: 'read', nth: 4, count: 0, errno: 5 }]
  await b.add({ driver: 'x-inject', 'node-name': 'bad', file: 'img', rules })
  await b.request('job-start', { id: 'c', spec: { kind: 'check', node: 'bad', repair: 'all' } })
  const { outcome, result } = await b.report('job-ended', 'c')
  t.same(outcome, { kind: 'failed', error: 'Input/output error' })
  t.equal(result, undefined)
})
