// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto'
import { readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { MirrorSpec } from '../../../../daemon/iothread/messages.js'
import { Bench, mirrorSpec } from '../../../helpers/iothread.js'

const MIB = 2 ** 20

interface Rule {
  op: string
  nth?: number
  count?: number
  errno?: number
  tear?: number
}

/** Two files of 4 MiB and a worker that has them open, each through an inject node. */
async function disks(t: Test, rules: { src?: Rule[]; dst?: Rule[] } = {}, content = randomBytes(4 * MIB)) {
  const dir = t.testdir({})
  const [src, dst] = [join(dir, 'src'), join(dir, 'dst')]
  writeFileSync(src, content)
  writeFileSync(dst, '')
  truncateSync(dst, content.length)
  const bench = new Bench()
  t.teardown(() => bench.end())
  for (const name of ['src', 'dst'] as const)
    await bench.add({
      driver: 'x-inject',
      'node-name': name,
      file: { driver: 'file', 'node-name': `${name}-file`, filename: name === 'src' ? src : dst },
      rules: rules[name] ?? [],
    })
  const equal = () => readFileSync(src).equals(readFileSync(dst))
  return { bench, src, dst, equal }
}

async function complete(bench: Bench, id: string): Promise<void> {
  await bench.report('job-ready', id)
  await bench.request('job-complete', { id, pivot: true })
  await bench.report('job-ended', id)
  await bench.request('job-finalize', { id, commit: true })
}

t.test('a completed mirror is equal and its receipt accounts for every byte', async (t) => {
  const { bench, equal } = await disks(t)
  await bench.mirror('j')
  await complete(bench, 'j')
  t.ok(equal())
  const { receipt, outcome, progress } = await bench.report('job-ended', 'j')
  t.same(outcome, { kind: 'success' })
  t.match(receipt, { copied: 4 * MIB, zeroed: 0, skipped: 0, flush: 'ok' })
  t.match(progress, { offset: 4 * MIB, len: 4 * MIB })
  t.same(bench.story('j'), ['job-running', 'job-ready', 'job-ended'])
})

t.test('a target full of old data is equal afterwards, holes of the source included', async (t) => {
  const { bench, src, dst, equal } = await disks(t)
  writeFileSync(src, randomBytes(MIB))
  truncateSync(src, 4 * MIB)
  writeFileSync(dst, Buffer.alloc(4 * MIB, 0x55))
  await bench.request('node-del', { node: 'src' })
  await bench.request('node-del', { node: 'dst' })
  await bench.addFile('src', src)
  await bench.addFile('dst', dst, { discard: 'unmap' })
  await bench.mirror('j')
  await complete(bench, 'j')
  t.ok(equal())
  t.match((await bench.report('job-ended', 'j')).receipt, { copied: MIB, zeroed: 3 * MIB, skipped: 0 })
  t.ok(statSync(dst).blocks * 512 <= 2 * MIB, 'zeroes became holes')
})

t.test('zeroes stored as data are not written to a target that is empty', async (t) => {
  const { bench, dst, equal } = await disks(t, {}, Buffer.concat([randomBytes(MIB), Buffer.alloc(3 * MIB)]))
  await bench.mirror('j')
  await complete(bench, 'j')
  t.ok(equal())
  t.match((await bench.report('job-ended', 'j')).receipt, { copied: MIB, skipped: 3 * MIB })
  t.ok(statSync(dst).blocks * 512 <= MIB + 65536)
})

t.test('x-auto-complete ends by itself after it was ready', async (t) => {
  const { bench, equal } = await disks(t)
  await bench.mirror('j', { autoComplete: true })
  await bench.report('job-ended', 'j')
  t.same(bench.story('j'), ['job-running', 'job-ready', 'job-ended'])
  t.ok(equal())
})

t.test('sync none is ready at once and copies nothing', async (t) => {
  const { bench, equal } = await disks(t)
  await bench.mirror('j', { sync: 'none' })
  t.same(bench.story('j'), ['job-running', 'job-ready'], 'before the start was answered')
  await complete(bench, 'j')
  t.notOk(equal())
})

t.test('different sizes fail the job, not its start', async (t) => {
  const { bench, dst } = await disks(t)
  truncateSync(dst, 2 * MIB)
  await bench.request('node-del', { node: 'dst' })
  await bench.addFile('dst', dst)
  await bench.mirror('j')
  const { outcome, progress } = await bench.report('job-ended', 'j')
  t.same(outcome, { kind: 'failed', error: 'Source and target image have different sizes' })
  t.match(progress, { offset: 0, len: 0 })
})

t.test('a file that ends inside a sector is copied to its exact length', async (t) => {
  const { bench, src, dst, equal } = await disks(t)
  for (const [name, path] of [
    ['src', src],
    ['dst', dst],
  ] as const) {
    await bench.request('node-del', { node: name })
    writeFileSync(path, name === 'src' ? randomBytes(MIB + 777) : '')
  }
  truncateSync(dst, MIB + 1024)
  await bench.addFile('src', src)
  await bench.addFile('dst', dst)
  await bench.mirror('j')
  await complete(bench, 'j')
  t.ok(
    readFileSync(dst)
      .subarray(0, MIB + 777)
      .equals(readFileSync(src)),
  )
  t.ok(
    readFileSync(dst)
      .subarray(MIB + 777)
      .every((byte) => byte === 0),
  )
  t.notOk(equal(), 'the target keeps its longer tail')
})

const EIO = 5
const ENOSPC = 28
const policies: {
  name: string
  rules: { src?: Rule[]; dst?: Rule[] }
  spec: Partial<MirrorSpec>
  story: string[]
  error?: string
}[] = [
  {
    name: 'report fails the job with the text of the errno',
    rules: { dst: [{ op: 'write', errno: ENOSPC }] },
    spec: {},
    story: ['job-running', 'write-report', 'job-ended'],
    error: 'No space left on device',
  },
  {
    name: 'a read error under report',
    rules: { src: [{ op: 'read', nth: 2, errno: EIO }] },
    spec: {},
    story: ['job-running', 'read-report', 'job-ended'],
    error: 'Input/output error',
  },
  {
    name: 'ignore tries again',
    rules: { dst: [{ op: 'write', errno: EIO }] },
    spec: { onTargetError: 'ignore' },
    story: ['job-running', 'write-ignore', 'job-ready'],
  },
  {
    name: 'ignore of a read error tries again',
    rules: { src: [{ op: 'read', errno: EIO }] },
    spec: { onSourceError: 'ignore' },
    story: ['job-running', 'read-ignore', 'job-ready'],
  },
  {
    name: 'ignore of a failed status tries again',
    rules: { src: [{ op: 'status', errno: EIO }] },
    spec: { onSourceError: 'ignore' },
    story: ['job-running', 'read-ignore', 'job-ready'],
  },
  {
    name: 'enospc stops on ENOSPC',
    rules: { dst: [{ op: 'write', errno: ENOSPC }] },
    spec: { onTargetError: 'enospc' },
    story: ['job-running', 'write-stop', 'job-paused'],
  },
  {
    name: 'enospc reports other errors',
    rules: { dst: [{ op: 'write', errno: EIO }] },
    spec: { onTargetError: 'enospc' },
    story: ['job-running', 'write-report', 'job-ended'],
    error: 'Input/output error',
  },
  {
    name: 'stop stops on any error',
    rules: { src: [{ op: 'read', errno: EIO }] },
    spec: { onSourceError: 'stop' },
    story: ['job-running', 'read-stop', 'job-paused'],
  },
  {
    name: 'a failed flush ends the job whatever the policy',
    rules: { dst: [{ op: 'flush', errno: EIO }] },
    spec: { onTargetError: 'ignore' },
    story: ['job-running', 'write-report', 'job-ended'],
    error: 'Input/output error',
  },
]

for (const { name, rules, spec, story, error } of policies)
  t.test(name, async (t) => {
    const { bench, equal } = await disks(t, rules)
    await bench.mirror('j', spec)
    const last = story.at(-1)
    if (last === 'job-ended') {
      const { outcome, receipt } = await bench.report('job-ended', 'j')
      t.same(outcome, { kind: 'failed', error })
      t.equal(receipt.flush, rules.dst?.[0]?.op === 'flush' ? 'failed' : 'not-reached')
    } else if (last === 'job-paused') {
      const { progress } = await bench.report('job-paused', 'j')
      t.equal(progress.offset, 3 * MIB, 'all but the failed piece is done')
      t.equal(progress.busy, false)
      t.same(bench.story('j'), story)
      await bench.request('job-resume', { id: 'j' })
      await complete(bench, 'j')
      t.ok(equal())
      return
    } else {
      await complete(bench, 'j')
      t.ok(equal())
    }
    t.same(bench.story('j').slice(0, story.length), story)
  })

t.test('a torn write is repaired by the retry', async (t) => {
  const { bench, equal } = await disks(t, { dst: [{ op: 'write', nth: 2, errno: EIO, tear: 4096 }] })
  await bench.mirror('j', { onTargetError: 'ignore' })
  await complete(bench, 'j')
  t.ok(equal())
})

t.test('a pause of a job that waits for its speed is told before the verb is answered', async (t) => {
  const { bench } = await disks(t)
  await bench.mirror('j', { speed: 1, bufSize: MIB })
  await bench.request('job-set-speed', { id: 'j', speed: 65536 })
  let paused = bench.request('job-pause', { id: 'j' })
  await paused
  await bench.report('job-paused', 'j')
  t.equal(bench.story('j').at(-1), 'job-paused')
  paused = bench.request('job-resume', { id: 'j' })
  await paused
  await bench.request('job-set-speed', { id: 'j', speed: 0 })
  await complete(bench, 'j')
})

t.test('a cancelled job says so, lets go of its nodes and can be started anew', async (t) => {
  const { bench, equal } = await disks(t)
  await bench.mirror('j', { speed: 1, bufSize: 65536 })
  await bench.request('job-cancel', { id: 'j' })
  const { outcome, receipt } = await bench.report('job-ended', 'j')
  t.same(outcome, { kind: 'cancelled' })
  t.match(receipt, { copied: 65536, flush: 'not-reached' })
  await bench.mirror('k')
  await complete(bench, 'k')
  t.ok(equal())
})

t.test('a paused job can be cancelled', async (t) => {
  const { bench } = await disks(t)
  await bench.mirror('j', { speed: 1, bufSize: 65536 })
  await bench.request('job-pause', { id: 'j' })
  await bench.report('job-paused', 'j')
  await bench.request('job-cancel', { id: 'j' })
  t.same((await bench.report('job-ended', 'j')).outcome, { kind: 'cancelled' })
})

t.test('complete of a paused ready job acts after resume', async (t) => {
  const { bench } = await disks(t)
  await bench.mirror('j')
  await bench.report('job-ready', 'j')
  await bench.request('job-pause', { id: 'j' })
  await bench.report('job-paused', 'j')
  await bench.request('job-complete', { id: 'j', pivot: true })
  t.equal(bench.story('j').at(-1), 'job-paused')
  await bench.request('job-resume', { id: 'j' })
  t.same((await bench.report('job-ended', 'j')).outcome, { kind: 'success' })
  await bench.request('job-finalize', { id: 'j', commit: true })
})

t.test(
  'the bitmap of a huge disk stays within bounds, and the pass over its zeroes hears verbs',
  async (t) => {
    const bench = new Bench()
    t.teardown(() => bench.end())
    for (const name of ['src', 'dst'])
      await bench.add({ driver: 'null-co', 'node-name': name, size: 2 ** 45, 'read-zeroes': true })
    await t.rejects(bench.mirror('fine', { granularity: 512 }), {
      message: "Parameter 'granularity' expects at least 16384 for a disk of 35184372088832 bytes",
    })
    await bench.mirror('j')
    await bench.request('job-cancel', { id: 'j' })
    t.same((await bench.report('job-ended', 'j')).outcome, { kind: 'cancelled' })
  },
)

t.test('a target is not emptied for a mirror whose source is locked by another program', async (t) => {
  const { bench, src, dst } = await disks(t)
  const other = new Bench()
  t.teardown(() => other.end())
  writeFileSync(dst, 'precious')
  // A mirror elsewhere that writes to our source.
  await other.add({ driver: 'x-memory', 'node-name': 'src', size: 4 * MIB })
  await other.addFile('dst', src)
  await other.mirror('j')
  await other.report('job-ready', 'j')
  const spec = { kind: 'create', driver: 'file', filename: dst, size: 4 * MIB, preallocation: 'off' } as const
  const asked = bench.request('target-create', {
    spec,
    image: undefined,
    refuse: [],
    source: 'src',
    job: 'one-shot',
  })
  await t.rejects(asked, { message: /lock/ })
  t.equal(readFileSync(dst, 'utf8'), 'precious')
})

t.test('a share holds from the first piece on, and another one while it runs', async (t) => {
  const { bench, equal } = await disks(t)
  const spec = mirrorSpec()
  await bench.request('job-start', { id: 'j', spec, share: 1 })
  const { progress } = await bench.report('job-running', 'j')
  t.equal(progress.charged, 0)
  await bench.request('job-set-share', { id: 'j', share: 0 })
  await complete(bench, 'j')
  t.ok(equal())
  t.equal((await bench.report('job-ended', 'j')).progress.charged, 4 * MIB)
})

t.test(
  'a mirror is not synchronized before all was copied, also while nothing is marked dirty',
  async (t) => {
    const { bench } = await disks(t)
    // The first piece goes, the rest waits, taken out of the bitmap.
    await bench.mirror('j', { copyMode: 'write-blocking', speed: 1 })
    const { progress } = await bench.report('job-progress', 'j')
    t.match(progress, { phase: 'bulk', activelySynced: false })
    t.equal((await bench.report('job-running', 'j')).progress.activelySynced, false)
    await bench.request('job-set-speed', { id: 'j', speed: 0 })
    t.equal((await bench.report('job-ready', 'j')).progress.activelySynced, true)
    await complete(bench, 'j')
  },
)
