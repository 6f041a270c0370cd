// SPDX-License-Identifier: Apache-2.0
// Create jobs in a real worker object: nodes that are open for the job alone, what the job tells when it fails, and
// the image a drive-mirror is to write.

import { spawnSync } from 'node:child_process'
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { NodeSpec, Qcow2CreateSpec } from '../../../../daemon/iothread/messages.js'
import { usualImage } from '../../../../daemon/iothread/messages-create.js'
import { isQcow2 } from '../../../../protocol/qcow2/header.js'
import { Bench } from '../../../helpers/iothread.js'
import { installed } from '../../../helpers/program.js'

const MiB = 2 ** 20
const skip = installed('qemu-img') ? false : 'qemu-img is not installed'

function spec(file: string | NodeSpec, more: Partial<Qcow2CreateSpec['options']> = {}): Qcow2CreateSpec {
  return {
    ...{ kind: 'create', driver: 'qcow2', file, dataFile: undefined },
    options: {
      ...usualImage(MiB),
      preallocation: 'metadata',
      ...more,
    },
  }
}

function bench(t: Test): { bench: Bench; image: string; file: NodeSpec } {
  const bench = new Bench()
  t.teardown(() => bench.end())
  const image = join(t.testdir({ 'a.qcow2': '' }), 'a.qcow2')
  return { bench, image, file: { driver: 'file', 'node-name': 'own', filename: image } }
}

function check(image: string): number | null {
  return spawnSync('qemu-img', ['check', '-f', 'qcow2', image]).status
}

t.test('a node defined for the job is closed when the job is over', { skip }, async (t) => {
  const { bench: worker, image, file } = bench(t)
  await worker.request('job-start', { id: 'c', spec: spec(file) })
  t.match(await worker.report('job-ended', 'c'), { outcome: { kind: 'success' }, receipt: { flush: 'ok' } })
  t.equal(check(image), 0)
  await worker.add(file)
})

t.test('what is wrong shows in the job', async (t) => {
  const { bench: worker, file } = bench(t)
  const wrong = [
    [spec('nonode'), "Cannot find device='nonode' nor node-name='nonode'"],
    [spec({ ...file, filename: '/none/x' }), "Could not open '/none/x': No such file or directory"],
    [spec(file, { clusterSize: 3000 }), 'Cluster size must be a power of two between 512 and 2048k'],
  ] as const
  for (const [index, [asked, error]] of wrong.entries()) {
    await worker.request('job-start', { id: `c${index}`, spec: asked })
    const { outcome, progress } = await worker.report('job-ended', `c${index}`)
    t.same(outcome, { kind: 'failed', error })
    t.match(progress, { offset: 1, len: 1 })
  }
})

t.test('a write that storage refuses fails the job, says where, and leaves no image', async (t) => {
  const { bench: worker, image, file } = bench(t)
  writeFileSync(image, Buffer.from('514649fb00000003', 'hex'))
  const rules = [{ op: 'write', nth: 2, errno: 28 }]
  await worker.request('job-start', {
    id: 'c',
    spec: spec({ driver: 'x-inject', 'node-name': 'i', file, rules }),
  })
  const { outcome } = await worker.report('job-ended', 'c')
  t.same(outcome, { kind: 'failed', error: 'Could not write qcow2 tables: No space left on device' })
  t.notOk(isQcow2(readFileSync(image)))
})

t.test('a node in use by another job is left as it is', async (t) => {
  const { bench: worker, image } = bench(t)
  writeFileSync(image, Buffer.alloc(4096, 1))
  await worker.add({ driver: 'x-memory', 'node-name': 'src', size: 4096 })
  await worker.addFile('dst', image)
  await worker.mirror('j')
  await worker.report('job-ready', 'j')
  const before = readFileSync(image)
  await worker.request('job-start', { id: 'c', spec: spec('dst') })
  const { outcome } = await worker.report('job-ended', 'c')
  t.match(outcome, { kind: 'failed', error: /^Permission conflict on node 'dst'/ })
  t.ok(readFileSync(image).equals(before))
})

t.test('a file that an open image holds is not opened for the job', async (t) => {
  const { bench: worker, image, file } = bench(t)
  writeFileSync(image, 'precious')
  const { dev, ino } = statSync(image)
  await worker.request('job-start', { id: 'c', spec: { ...spec(file), refuse: [`${dev}:${ino}`] } })
  const { outcome } = await worker.report('job-ended', 'c')
  t.match(outcome, { kind: 'failed', error: 'Failed to get "resize" lock' })
  t.equal(readFileSync(image, 'utf8'), 'precious')
})

t.test('the target of a mirror is an image in a file that is closed again', { skip }, async (t) => {
  const { bench: worker, image, file } = bench(t)
  await worker.add({ driver: 'x-memory', 'node-name': 'src', size: MiB })
  await worker.request('target-create', {
    spec: { kind: 'create', driver: 'file', filename: image, size: 0, preallocation: 'off' },
    ...{ image: spec(file, { preallocation: 'off' }), refuse: [], source: 'src', job: 'one-shot' },
  })
  t.equal(check(image), 0)
  t.equal(await worker.request('target-probe', { filename: image }), 'qcow2')
  await worker.add(file)
})

t.test('a target that cannot become the image asked for is left as it is', async (t) => {
  const { bench: worker, image, file } = bench(t)
  writeFileSync(image, 'precious')
  await worker.add({ driver: 'x-memory', 'node-name': 'src', size: MiB })
  const made = worker.request('target-create', {
    spec: { kind: 'create', driver: 'file', filename: image, size: 0, preallocation: 'off' },
    image: spec(file, { preallocation: 'off', backingFile: 'b'.repeat(1024), backingFormat: 'raw' }),
    ...{ refuse: [], source: 'src', job: 'one-shot' },
  })
  await t.rejects(made, /Could not assign backing file/)
  t.equal(readFileSync(image, 'utf8'), 'precious')
})

t.test('a file that is short, or not there, is no image', async (t) => {
  const { bench: worker, image } = bench(t)
  writeFileSync(image, 'QFI')
  t.equal(await worker.request('target-probe', { filename: image }), 'raw')
  t.equal(await worker.request('target-probe', { filename: `${image}.none` }), 'raw')
})
