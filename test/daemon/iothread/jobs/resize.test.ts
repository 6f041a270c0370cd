// SPDX-License-Identifier: Apache-2.0
// The job around a resize: whatever fails, and whenever it is cancelled, the disk is as long as before, and whole.

import { copyFileSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { JobSpec } from '../../../../daemon/iothread/messages.js'
import { mustQemuImg, oracle, qemuIo } from '../../../helpers/check-image.js'
import { Bench } from '../../../helpers/iothread.js'
import { installed } from '../../../helpers/program.js'

const MiB = 2 ** 20
const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'

function bench(t: Test): Bench {
  const bench = new Bench()
  t.teardown(() => bench.end())
  return bench
}

function resize(node: string, size: number, preallocation: 'off' | 'metadata' | 'falloc' | 'full'): JobSpec {
  return { kind: 'resize', node, size, preallocation }
}

/** A disk of 1 MiB with data, over a longer backing file. */
function made(folder: string, options: string): string {
  writeFileSync(join(folder, 'base'), Buffer.alloc(2 * MiB, 7))
  const path = join(folder, 'original')
  const more = ['-o', options, '-b', join(folder, 'base'), '-F', 'raw']
  mustQemuImg('create', '-q', '-f', 'qcow2', ...more, path, '1M')
  qemuIo(path, 'write -P 1 0 100k')
  return path
}

const faults = [
  { mode: 'metadata', op: 'write', options: 'cluster_size=4k' },
  { mode: 'falloc', op: 'zero', options: 'cluster_size=1k' },
  { mode: 'falloc', op: 'write', options: 'cluster_size=4k' },
  { mode: 'full', op: 'write', options: 'cluster_size=4k' },
  { mode: 'full', op: 'write', options: 'cluster_size=16k,extended_l2=on' },
  { mode: 'full', op: 'flush', options: 'cluster_size=64k' },
] as const

for (const { mode, op, options } of faults)
  t.test(`when any ${op} fails the disk is as it was: ${mode}, ${options}`, { skip }, async (t) => {
    const folder = t.testdir({})
    const original = made(folder, options)
    const path = join(folder, 'image')
    const b = bench(t)
    let ended = 'failed'
    let nth = 1
    for (; ended === 'failed'; nth++) {
      copyFileSync(original, path)
      await b.addFile('file', path)
      const rules = [{ op, nth, count: 1, errno: 28 }]
      await b.add({ driver: 'x-inject', 'node-name': 'weak', file: 'file', rules })
      await b.addFile('base', join(folder, 'base'), { 'read-only': true })
      await b.add({ driver: 'qcow2', 'node-name': 'disk', file: 'weak', backing: 'base' })
      await b.request('job-start', { id: `j${nth}`, spec: resize('disk', 3 * MiB, mode) })
      const { outcome } = await b.report('job-ended', `j${nth}`)
      if (outcome.kind === 'success') await b.request('job-finalize', { id: `j${nth}`, commit: true })
      for (const node of ['disk', 'base', 'weak', 'file'])
        await b.request('node-del', { node }).catch(() => undefined)
      ended = outcome.kind
      const size = sizeOf(path)
      // Who cannot write or flush its last change of the header, does not know which one is there.
      const applied = ended === 'success' || (op === 'flush' && size === 3 * MiB)
      t.equal(size, applied ? 3 * MiB : MiB, `${op} ${nth}`)
      t.match(oracle(path), { corruptions: 0, checkErrors: 0 }, `${op} ${nth}`)
      qemuIo(path, 'read -P 1 0 100k', 'read -P 7 100k 924k')
      if (applied) qemuIo(path, 'read -P 0 1M 2M')
      if (!applied && op !== 'flush') t.equal(oracle(path).leaks, 0, `${op} ${nth}`)
      // What a later owner makes of the end of the disk is not what was left there.
      mustQemuImg('resize', '-q', '-f', 'qcow2', path, '4M')
      qemuIo(path, 'read -P 0 1M 3M')
    }
    t.equal(ended, 'success')
    t.ok(nth > 3, `${nth - 2} failures`)
  })

function sizeOf(path: string): number {
  return JSON.parse(mustQemuImg('info', '-f', 'qcow2', '--output=json', path))['virtual-size']
}

for (const { name, driver } of [
  { name: 'raw', driver: undefined },
  { name: 'qcow2', driver: 'qcow2' },
])
  t.test(`cancelled while zeroes are written, ${name} is as long as before`, { skip }, async (t) => {
    const path = join(t.testdir({}), 'image')
    mustQemuImg('create', '-q', '-f', name, path, '1M')
    const length = statSync(path).size
    const b = bench(t)
    await b.addFile('file', path)
    const rules = [{ op: 'write', nth: 2, count: 0, 'delay-ms': 20 }]
    await b.add({ driver: 'x-inject', 'node-name': 'slow', file: 'file', rules })
    if (driver !== undefined) await b.add({ driver, 'node-name': 'disk', file: 'slow' })
    const node = driver === undefined ? 'file' : 'disk'
    await b.request('job-start', { id: 'j', spec: resize(node, 2 ** 30, 'full') })
    await b.report('job-progress', 'j')
    await b.request('job-cancel', { id: 'j' })
    t.same((await b.report('job-ended', 'j')).outcome, { kind: 'cancelled' })
    t.ok(statSync(path).size <= length + MiB)
    if (driver !== undefined) t.equal(sizeOf(path), MiB)
    if (driver !== undefined) t.match(oracle(path), { corruptions: 0, leaks: 0, checkErrors: 0 })
  })

t.test('a job that gets no preallocation makes a disk shorter too', { skip }, async (t) => {
  const path = join(t.testdir({}), 'image')
  writeFileSync(path, Buffer.alloc(MiB, 5))
  const b = bench(t)
  await b.addFile('file', path)
  await b.request('job-start', { id: 'j', spec: resize('file', 4096, 'off') })
  t.same((await b.report('job-ended', 'j')).outcome.kind, 'success')
  t.ok(readFileSync(path).equals(Buffer.alloc(4096, 5)))
})

t.test('a size that the clusters are too small for is refused at once', { skip }, async (t) => {
  const path = join(t.testdir({}), 'image')
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', path, '1M')
  const b = bench(t)
  await b.addFile('file', path)
  await b.add({ driver: 'qcow2', 'node-name': 'disk', file: 'file' })
  const message = 'The image size is too large for its cluster size (512 bytes)'
  await t.rejects(b.request('node-resize', { node: 'disk', size: 2 ** 52 }), { message })
  await b.request('job-start', { id: 'j', spec: resize('disk', 2 ** 52, 'metadata') })
  t.match((await b.report('job-ended', 'j')).outcome, { kind: 'failed' })
  t.match(oracle(path), { corruptions: 0, leaks: 0, checkErrors: 0 })
})

t.test('a node that is read-only is refused before there is a job', async (t) => {
  const path = join(t.testdir({ image: 'x' }), 'image')
  const b = bench(t)
  await b.addFile('file', path, { 'read-only': true })
  await t.rejects(b.request('job-start', { id: 'j', spec: resize('file', MiB, 'full') }), {
    message: 'Block node is read-only',
  })
  t.same(b.story('j'), [])
})
