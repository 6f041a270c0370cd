// SPDX-License-Identifier: Apache-2.0
// What a mirror must not take for granted: that a target it did not write is durable, that a file stayed as it was
// while nobody used it, that bytes after the source's end are zero.

import { randomBytes } from 'node:crypto'
import { closeSync, openSync, readFileSync, truncateSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { MirrorSpec, NodeSpec } from '../../../../daemon/iothread/messages.js'
import { Bench } from '../../../helpers/iothread.js'

const MIB = 2 ** 20
const EIO = 5

function place(t: Test) {
  const dir = t.testdir({})
  const bench = new Bench()
  t.teardown(() => bench.end())
  const [src, dst] = [join(dir, 'src'), join(dir, 'dst')]
  return { bench, src, dst, equal: () => readFileSync(src).equals(readFileSync(dst)) }
}

function hole(path: string, length: number): void {
  writeFileSync(path, '')
  truncateSync(path, length)
}

function patch(path: string, offset: number, bytes: Buffer): void {
  const fd = openSync(path, 'r+')
  writeSync(fd, bytes, 0, bytes.length, offset)
  closeSync(fd)
}

function failing(filename: string, rules: object[]): NodeSpec {
  const file = { driver: 'file', 'node-name': 'dst-file', filename }
  return { driver: 'x-inject', 'node-name': 'dst', file, rules }
}

/** Runs a mirror to its end and finalizes it. @returns how it ended */
async function mirror(bench: Bench, id: string, more: Partial<MirrorSpec> = {}) {
  await bench.mirror(id, { autoComplete: true, ...more })
  const { outcome, receipt } = await bench.report('job-ended', id)
  if (outcome.kind === 'success') await bench.request('job-finalize', { id, commit: true })
  return { outcome, receipt }
}

t.test('a target on which nothing had to be changed is flushed all the same', async (t) => {
  const { bench, src, dst } = place(t)
  hole(src, MIB)
  hole(dst, MIB)
  await bench.addFile('src', src)
  await bench.add(failing(dst, [{ op: 'flush', errno: EIO }]))
  const { outcome } = await mirror(bench, 'j')
  t.same(outcome, { kind: 'failed', error: 'Input/output error' })
})

t.test('a file that was written while no job used it is looked at anew', async (t) => {
  for (const changed of ['src', 'dst'] as const) {
    await t.test(changed === 'src' ? 'the source' : 'the target', async (t) => {
      const files = place(t)
      const { bench, src, dst, equal } = files
      hole(src, 4 * MIB)
      hole(dst, 4 * MIB)
      await bench.addFile('src', src)
      await bench.addFile('dst', dst)
      await mirror(bench, 'first')
      patch(files[changed], 2 * MIB, randomBytes(65536))
      const { outcome } = await mirror(bench, 'second')
      t.same(outcome, { kind: 'success' })
      t.ok(equal())
    })
  }
})

t.test('a source that grew while no job used it is not taken for its old self', async (t) => {
  const { bench, src, dst, equal } = place(t)
  for (const path of [src, dst]) writeFileSync(path, randomBytes(MIB))
  await bench.addFile('src', src)
  await bench.addFile('dst', dst)
  await mirror(bench, 'first')
  for (const path of [src, dst]) writeFileSync(path, randomBytes(2 * MIB))
  const { outcome } = await mirror(bench, 'second')
  t.ok(outcome.kind === 'failed' || equal(), JSON.stringify(outcome))
})

t.test('old bytes of the target after the end of the source, in its last sector, are zeroed', async (t) => {
  const { bench, src, dst } = place(t)
  const content = randomBytes(MIB + 700)
  writeFileSync(src, content)
  writeFileSync(dst, Buffer.alloc(MIB + 1024, 0x55))
  await bench.addFile('src', src)
  await bench.addFile('dst', dst)
  t.same((await mirror(bench, 'j')).outcome, { kind: 'success' })
  t.ok(readFileSync(dst).equals(Buffer.concat([content, Buffer.alloc(324)])))
})

t.test('a job that waits for buffers can be paused and cancelled', async (t) => {
  const { bench, src, dst } = place(t)
  writeFileSync(src, randomBytes(MIB))
  hole(dst, MIB)
  await bench.addFile('src', src)
  await bench.addFile('dst', dst)
  const spec = { size: 128 * MIB, 'read-zeroes': false }
  await bench.add({ driver: 'null-co', 'node-name': 'zero', ...spec })
  await bench.add({ driver: 'null-co', 'node-name': 'sink', ...spec })
  const names = { source: 'zero', target: 'sink', filter: '#other' }
  await bench.mirror('greedy', { ...names, bufSize: 64 * MIB, speed: 1 })
  await bench.request('job-pause', { id: 'greedy' })
  await bench.report('job-paused', 'greedy')
  await bench.mirror('j')
  await bench.request('job-pause', { id: 'j' })
  await bench.request('job-cancel', { id: 'j' })
  t.same((await bench.report('job-ended', 'j')).outcome, { kind: 'cancelled' })
  await bench.request('job-cancel', { id: 'greedy' })
  await bench.report('job-ended', 'greedy')
})

t.test('a paused job leaves its buffers to others', async (t) => {
  const { bench, src, dst, equal } = place(t)
  writeFileSync(src, randomBytes(MIB))
  hole(dst, MIB)
  await bench.addFile('src', src)
  await bench.addFile('dst', dst)
  const spec = { size: 128 * MIB, 'read-zeroes': false }
  await bench.add({ driver: 'null-co', 'node-name': 'zero', ...spec })
  await bench.add({ driver: 'null-co', 'node-name': 'sink', ...spec })
  const names = { source: 'zero', target: 'sink', filter: '#other' }
  await bench.mirror('greedy', { ...names, bufSize: 64 * MIB, speed: 1 })
  await bench.request('job-pause', { id: 'greedy' })
  await bench.report('job-paused', 'greedy')
  await mirror(bench, 'j')
  t.ok(equal())
  await bench.request('job-cancel', { id: 'greedy' })
  await bench.report('job-ended', 'greedy')
})

t.test('who vouches that the target is zero spares the job the zeroing', async (t) => {
  const { bench, src } = place(t)
  hole(src, MIB)
  await bench.addFile('src', src)
  // It cannot tell that it is zero.
  await bench.add({ driver: 'null-co', 'node-name': 'dst', size: MIB })
  t.match((await mirror(bench, 'asked')).receipt, { zeroed: MIB, skipped: 0 })
  t.match((await mirror(bench, 'vouched', { targetIsZero: true })).receipt, { zeroed: 0, skipped: MIB })
})
