// SPDX-License-Identifier: Apache-2.0
// Backups by dirty bitmaps: what they copy, and what the bitmap says afterwards, for each mode and each end of the job.

import t, { type Test } from 'tap'
import type { BackupSpec } from '../../../../daemon/iothread/messages-backup.js'
import { testGraph } from '../../../helpers/graph.js'
import { GraphJobs } from '../../../helpers/graph-jobs.js'
import { backupSpec, mirrorSpec } from '../../../helpers/iothread.js'

const MIB = 2 ** 20
const CHUNK = 65536
const EIO = 5

/** A disk of 4 MiB whose bitmap says that chunks 1, 5 and 6 changed. */
async function disks(t: Test, rules: object[] = []) {
  const g = testGraph(t)
  await g.add({ driver: 'x-memory', 'node-name': 'src', size: 4 * MIB })
  const memory = { driver: 'x-memory', 'node-name': 'dst-memory', size: 4 * MIB }
  await g.add({ driver: 'x-inject', 'node-name': 'dst', file: memory, rules })
  const [src, dst] = [g.graph.node('src'), g.graph.node('dst-memory')]
  const write = (chunk: number, byte: number) => g.write(src, chunk * CHUNK, Buffer.alloc(CHUNK, byte))
  for (let chunk = 0; chunk < 64; chunk++) await write(chunk, 1)
  await g.graph.bitmaps.change([
    {
      ...{ kind: 'add', node: 'src', name: 'b', granularity: CHUNK },
      ...{ persistent: false, recording: true },
    },
  ])
  for (const chunk of [1, 5, 6]) await write(chunk, 2)
  const jobs = new GraphJobs(g)
  const start = (more: Partial<BackupSpec>) => jobs.start('j', backupSpec(more))
  const dirty = () => {
    const { bits } = src.bitmaps.get('b')
    const chunks: number[] = []
    for (let at = 0; ; ) {
      const area = bits.nextDirty(at, CHUNK)
      if (area === undefined) return chunks
      chunks.push(area.offset / CHUNK)
      at = area.offset + area.length
    }
  }
  const copied = async () => {
    const chunks: number[] = []
    for (let chunk = 0; chunk < 64; chunk++)
      if ((await g.read(dst, chunk * CHUNK, 1))[0] !== 0) chunks.push(chunk)
    return chunks
  }
  const ended = async (commit = true) => {
    const { outcome, progress } = await jobs.report('job-ended', 'j')
    if (outcome.kind === 'success') await jobs.verbs['job-finalize']({ id: 'j', commit })
    return { kind: outcome.kind, len: progress.len }
  }
  return { g, src, jobs, start, write, dirty, copied, ended }
}

const modes = [
  { mode: 'on-success', after: [9] },
  { mode: 'never', after: [1, 5, 6, 9] },
  { mode: 'always', after: [9] },
] as const
for (const { mode, after } of modes)
  t.test(`sync bitmap copies what is dirty; after success ${mode} leaves ${after}`, async (t) => {
    const { jobs, start, write, dirty, copied, ended } = await disks(t)
    await start({ sync: 'bitmap', bitmap: { name: 'b', mode }, speed: 1 })
    await write(9, 3)
    await jobs.verbs['job-set-speed']({ id: 'j', speed: 0 })
    t.same(await ended(), { kind: 'success', len: 3 * CHUNK })
    t.same(await copied(), [1, 5, 6])
    t.same(dirty(), after)
  })

const failures = [
  { mode: 'on-success', after: [1, 5, 6, 9] },
  { mode: 'never', after: [1, 5, 6, 9] },
  { mode: 'always', after: [5, 6, 9] },
] as const
for (const { mode, after } of failures)
  t.test(`after a failure ${mode} leaves ${after}`, async (t) => {
    const { jobs, start, write, dirty, ended } = await disks(t, [
      { op: 'write', nth: 2, count: 0, errno: EIO },
    ])
    await start({ sync: 'bitmap', bitmap: { name: 'b', mode }, speed: 1, workers: 1, maxChunk: CHUNK })
    await write(9, 3)
    await jobs.verbs['job-set-speed']({ id: 'j', speed: 0 })
    t.equal((await ended()).kind, 'failed')
    t.same(dirty(), after)
  })

for (const { name, rule } of [
  { name: 'fails', rule: { op: 'flush', count: 0, errno: EIO } },
  { name: 'does not end', rule: { op: 'flush', count: 0, stall: true } },
])
  t.test(`after a failure with a flush that ${name}, always leaves everything`, async (t) => {
    const { g, jobs, start, write, dirty, ended } = await disks(t, [
      { op: 'write', nth: 2, count: 0, errno: EIO },
      rule,
    ])
    const bitmap = { name: 'b', mode: 'always' } as const
    await start({ sync: 'bitmap', bitmap, speed: 1, workers: 1, maxChunk: CHUNK })
    await write(9, 3)
    await jobs.verbs['job-set-speed']({ id: 'j', speed: 0 })
    t.equal((await ended()).kind, 'failed')
    t.same(dirty(), [1, 5, 6, 9])
    g.graph.node('dst').driver.release?.()
  })

for (const kind of ['backup', 'mirror'] as const)
  t.test(`after a ${kind} whose flush failed once, always leaves everything`, async (t) => {
    const { jobs, start, dirty, ended } = await disks(t, [{ op: 'flush', errno: EIO }])
    const spec = { sync: 'bitmap', bitmap: { name: 'b', mode: 'always' } } as const
    if (kind === 'backup') await start(spec)
    else await jobs.start('j', mirrorSpec(spec))
    t.equal((await ended()).kind, 'failed')
    t.same(dirty(), [1, 5, 6])
  })

for (const { flush, after } of [
  { flush: [], after: [5, 6, 9] },
  { flush: [{ op: 'flush', count: 0, errno: EIO }], after: [1, 5, 6, 9] },
])
  t.test(`after a mirror that failed, always leaves ${after}`, async (t) => {
    const rules = [{ op: 'write', nth: 2, count: 0, errno: EIO }, ...flush]
    const { jobs, write, dirty, ended } = await disks(t, rules)
    const bitmap = { name: 'b', mode: 'always' } as const
    const spec = { sync: 'bitmap', bitmap, speed: 1, granularity: CHUNK, bufSize: CHUNK } as const
    await jobs.start('j', mirrorSpec(spec))
    await write(9, 3)
    await jobs.verbs['job-set-speed']({ id: 'j', speed: 0 })
    t.equal((await ended()).kind, 'failed')
    t.same(dirty(), after)
  })

t.test('a mirror that fails before it knows what to copy leaves its bitmap as it was', async (t) => {
  const { g, jobs, dirty, ended } = await disks(t)
  // What is too long of it cannot be zeroed.
  const file = { driver: 'x-memory', 'node-name': 'long-memory', size: 5 * MIB }
  const rules = [{ op: 'zero', count: 0, errno: EIO }]
  await g.add({ driver: 'x-inject', 'node-name': 'long', file, rules })
  const bitmap = { name: 'b', mode: 'always' } as const
  await jobs.start('j', mirrorSpec({ target: 'long', sync: 'bitmap', bitmap }))
  t.equal((await ended()).kind, 'failed')
  t.same(dirty(), [1, 5, 6])
})

t.test('a backup that is cancelled when it is done leaves the bitmap as a failed one does', async (t) => {
  const { start, dirty, ended } = await disks(t)
  await start({ sync: 'bitmap', bitmap: { name: 'b', mode: 'on-success' } })
  t.equal((await ended(false)).kind, 'success')
  t.same(dirty(), [1, 5, 6])
})

t.test('a full backup makes its bitmap start anew', async (t) => {
  const { jobs, start, write, dirty, copied, ended } = await disks(t)
  await start({ bitmap: { name: 'b', mode: 'on-success' }, speed: 1 })
  await write(9, 3)
  await jobs.verbs['job-set-speed']({ id: 'j', speed: 0 })
  t.same(await ended(), { kind: 'success', len: 4 * MIB })
  t.equal((await copied()).length, 64)
  t.same(dirty(), [9])
})

t.test('a bitmap in use is refused, and one that is not there', async (t) => {
  const { g, jobs, start, src, ended } = await disks(t)
  await start({ sync: 'bitmap', bitmap: { name: 'b', mode: 'never' }, speed: 1 })
  t.equal(src.bitmaps.get('b').busy, true)
  await t.rejects(g.graph.bitmaps.change([{ kind: 'clear', node: 'src', name: 'b' }]), {
    message: "Bitmap 'b' is currently in use by another operation and cannot be used",
  })
  await jobs.verbs['job-cancel']({ id: 'j' })
  await ended()
  t.equal(src.bitmaps.get('b').busy, false)
  const missing = start({ sync: 'bitmap', bitmap: { name: 'zz', mode: 'never' } })
  await t.rejects(missing, { message: "Bitmap 'zz' could not be found" })
})
