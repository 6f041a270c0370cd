// SPDX-License-Identifier: Apache-2.0
import t, { type Test } from 'tap'
import { IoError } from '../../../../daemon/errors.js'
import type { BackupSpec } from '../../../../daemon/iothread/messages-backup.js'
import { type TestGraph, testGraph } from '../../../helpers/graph.js'
import { GraphJobs, turn } from '../../../helpers/graph-jobs.js'
import { backupSpec } from '../../../helpers/iothread.js'

const MIB = 2 ** 20
const CHUNK = 65536
const EIO = 5

interface Rule {
  readonly op: string
  readonly nth?: number
  readonly count?: number
  readonly errno?: number
  readonly 'delay-ms'?: number
  readonly stall?: boolean
}

/** Two disks in memory, each through an inject node. */
async function disks(t: Test, rules: { src?: Rule[]; dst?: Rule[] } = {}, size = 4 * MIB) {
  const g = testGraph(t)
  for (const name of ['src', 'dst'] as const) {
    const file = { driver: 'x-memory', 'node-name': `${name}-memory`, size }
    const more = { rules: rules[name] ?? [], discard: 'unmap' }
    await g.add({ driver: 'x-inject', 'node-name': name, file: { ...file, discard: 'unmap' }, ...more })
  }
  const jobs = new GraphJobs(g)
  const start = (more: Partial<BackupSpec> = {}) => jobs.start('j', backupSpec(more))
  return { g, jobs, start, src: g.graph.node('src'), dst: g.graph.node('dst') }
}

const all = async (g: TestGraph, name: string) => {
  const node = g.graph.node(name)
  const parts: Uint8Array[] = []
  for (let at = 0; at < node.length(); at += MIB) parts.push(await g.read(node, at, MIB))
  return Buffer.concat(parts)
}

async function fill(g: TestGraph, from: number, to: number, byte: number): Promise<void> {
  for (let at = from; at < to; at += CHUNK) await g.write(g.graph.node('src'), at, Buffer.alloc(CHUNK, byte))
}

async function finished(jobs: GraphJobs) {
  const ended = await jobs.report('job-ended', 'j')
  if (ended.outcome.kind === 'success') await jobs.verbs['job-finalize']({ id: 'j', commit: true })
  return ended
}

function code(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => 'done',
    (error: unknown) => (error instanceof IoError ? error.code : String(error)),
  )
}

t.test('a backup is equal, and its receipt accounts for every byte', async (t) => {
  const { g, jobs, start } = await disks(t)
  await fill(g, 0, MIB, 7)
  await start()
  const { outcome, receipt, progress } = await finished(jobs)
  t.same(outcome, { kind: 'success' })
  t.match(receipt, { copied: MIB, zeroed: 0, skipped: 3 * MIB, flush: 'ok' })
  t.match(progress, { offset: 4 * MIB, len: 4 * MIB })
  t.ok((await all(g, 'src')).equals(await all(g, 'dst')))
})

t.test('old data of the target is gone where the source has holes', async (t) => {
  const { g, jobs, start, dst } = await disks(t)
  await g.write(dst, 2 * MIB, Buffer.alloc(MIB, 0x55))
  await start()
  t.match((await finished(jobs)).receipt, { copied: 0, zeroed: MIB, skipped: 3 * MIB })
  t.ok((await all(g, 'dst')).every((byte) => byte === 0))
})

t.test('what is written, zeroed or discarded after the start is not in the backup', async (t) => {
  const { g, jobs, start, src } = await disks(t)
  await fill(g, 0, 4 * MIB, 7)
  await start({ speed: 1 })
  await g.write(src, 2 * MIB + 100, Buffer.alloc(CHUNK, 8))
  await src.zero(3 * MIB, CHUNK, { unmap: false, fast: false })
  await src.discard(3 * MIB + CHUNK, MIB - CHUNK)
  t.equal((await g.read(src, 2 * MIB + 100, 1))[0], 8)
  await jobs.verbs['job-set-speed']({ id: 'j', speed: 0 })
  t.same((await finished(jobs)).outcome, { kind: 'success' })
  t.ok((await all(g, 'dst')).every((byte) => byte === 7))
})

t.test('sync none copies what is about to be replaced, and nothing else', async (t) => {
  const { g, jobs, start, src, dst } = await disks(t)
  await fill(g, 0, 4 * MIB, 7)
  await start({ sync: 'none' })
  await g.write(src, MIB, Buffer.alloc(10, 8))
  t.equal((await dst.status(0, MIB)).kind, 'zero')
  t.ok((await g.read(dst, MIB, CHUNK)).every((byte) => byte === 7))
  await jobs.verbs['job-cancel']({ id: 'j' })
  const { outcome, progress } = await finished(jobs)
  t.same(outcome, { kind: 'cancelled' })
  t.match(progress, { offset: CHUNK, len: 4 * MIB })
})

t.test('a copy that fails fails the write, and the backup goes on', async (t) => {
  const { g, jobs, start, src } = await disks(t, { dst: [{ op: 'write', errno: EIO }] })
  await fill(g, 0, 4 * MIB, 7)
  await start({ sync: 'none' })
  t.equal(await code(g.write(src, 0, Buffer.alloc(10, 8))), 'EIO')
  t.equal((await g.read(src, 0, 1))[0], 7)
  t.equal(await code(g.write(src, 0, Buffer.alloc(10, 8))), 'done')
  await jobs.verbs['job-cancel']({ id: 'j' })
  await finished(jobs)
})

t.test('with break-snapshot a copy that fails fails the backup, and the write succeeds', async (t) => {
  const { g, jobs, start, src } = await disks(t, { dst: [{ op: 'write', errno: EIO }] })
  await fill(g, 0, 4 * MIB, 7)
  await start({ sync: 'none', onCbwError: 'break-snapshot' })
  t.equal(await code(g.write(src, 0, Buffer.alloc(10, 8))), 'done')
  t.same((await finished(jobs)).outcome, { kind: 'failed', error: 'Input/output error' })
})

t.test('a write waits for a silent target no longer than it is told to', async (t) => {
  const { g, jobs, start, src, dst } = await disks(t, { dst: [{ op: 'write', stall: true }] })
  await fill(g, 0, 4 * MIB, 7)
  await start({ sync: 'none', onCbwError: 'break-snapshot', cbwTimeoutMs: 50 })
  t.equal(await code(g.write(src, 0, Buffer.alloc(10, 8))), 'done')
  const over = finished(jobs)
  dst.driver.release?.()
  t.match((await over).outcome, { kind: 'failed', error: 'Connection timed out' })
})

t.test('who waits for a silent target goes on when the job is cancelled', async (t) => {
  const { g, jobs, start, src, dst } = await disks(t, { dst: [{ op: 'write', stall: true }] })
  await fill(g, 0, 4 * MIB, 7)
  await start({ sync: 'none' })
  const write = code(g.write(src, 0, Buffer.alloc(10, 8)))
  while (dst.stats.writes === 0) await turn()
  await jobs.verbs['job-cancel']({ id: 'j' })
  t.equal(await write, 'done')
  dst.driver.release?.()
  t.same((await finished(jobs)).outcome, { kind: 'cancelled' })
})

t.test('who waits for a silent target goes on when the backup has failed', async (t) => {
  const rules = [
    { op: 'write', nth: 1, stall: true },
    { op: 'write', nth: 2, errno: EIO },
  ]
  const { g, jobs, start, src, dst } = await disks(t, { dst: rules })
  await fill(g, 0, 4 * MIB, 7)
  await start({ workers: 2, maxChunk: CHUNK })
  t.equal(await code(g.write(src, 0, Buffer.alloc(10, 8))), 'done')
  dst.driver.release?.()
  t.same((await finished(jobs)).outcome, { kind: 'failed', error: 'Input/output error' })
})

t.test('who waits for its copy holds up nobody who drains the source', async (t) => {
  const { g, jobs, start, src, dst } = await disks(t, { dst: [{ op: 'write', stall: true }] })
  await fill(g, 0, 4 * MIB, 7)
  await start({ sync: 'none' })
  const write = code(g.write(src, 0, Buffer.alloc(10, 8)))
  while (dst.stats.writes === 0) await turn()
  const drained = await src.drain()
  drained[Symbol.dispose]()
  dst.driver.release?.()
  t.equal(await write, 'done')
  await jobs.verbs['job-cancel']({ id: 'j' })
  await finished(jobs)
})

t.test('discard-source gives back what was copied', async (t) => {
  const { g, jobs, start, src } = await disks(t)
  await fill(g, 0, 4 * MIB, 7)
  await start({ discardSource: true })
  t.same((await finished(jobs)).outcome, { kind: 'success' })
  t.ok((await all(g, 'dst')).every((byte) => byte === 7))
  t.equal((await src.status(0, 4 * MIB)).kind, 'zero')
})

t.test('a failed flush fails the backup whatever the policy', async (t) => {
  const { g, jobs, start } = await disks(t, { dst: [{ op: 'flush', errno: EIO }] })
  await fill(g, 0, MIB, 7)
  await start({ onTargetError: 'ignore' })
  const { outcome, receipt } = await finished(jobs)
  t.same(outcome, { kind: 'failed', error: 'Input/output error' })
  t.equal(receipt.flush, 'failed')
})

t.test('different sizes are refused, and nothing is left', async (t) => {
  const { g, jobs } = await disks(t)
  await g.add({ driver: 'x-memory', 'node-name': 'small', size: MIB })
  const message = 'Source and target image have different sizes'
  await t.rejects(jobs.start('j', backupSpec({ target: 'small' })), { message })
  t.notOk(g.graph.nodes().some(({ name }) => name === '#filter'))
  t.equal(g.engine.stats().slotsInUse, 1, "the test's own")
})

/** Everything is copied but what a write waits for: its copy stays with the target until that is released. */
async function lastIsBeforeWrite(t: Test, errno = 0) {
  const rules = { src: [{ op: 'status', stall: true }], dst: [{ op: 'write', stall: true, errno }] }
  const { g, jobs, start, src, dst } = await disks(t, rules)
  await fill(g, 0, 4 * MIB, 7)
  await start()
  const write = code(g.write(src, MIB, Buffer.alloc(10, 8)))
  while (dst.stats.writes === 0) await turn()
  src.driver.release?.()
  while (dst.stats.writeBytes < 4 * MIB) await turn()
  for (let turns = 0; turns < 20; turns++) await turn()
  return { g, jobs, write, dst }
}

t.test('what is being copied before a write is part of the backup', async (t) => {
  const { g, jobs, write, dst } = await lastIsBeforeWrite(t)
  t.equal(jobs.find('job-ended', 'j'), undefined)
  dst.driver.release?.()
  t.equal(await write, 'done')
  t.same((await finished(jobs)).outcome, { kind: 'success' })
  t.ok((await all(g, 'dst')).every((byte) => byte === 7))
})

t.test('what could not be copied before a write is copied after all', async (t) => {
  const { g, jobs, write, dst } = await lastIsBeforeWrite(t, EIO)
  dst.driver.release?.()
  t.equal(await write, 'EIO')
  t.same((await finished(jobs)).outcome, { kind: 'success' })
  t.ok((await all(g, 'dst')).every((byte) => byte === 7))
})

t.test('a backup that only waits for a copy before a write can be cancelled', async (t) => {
  const { jobs, write, dst } = await lastIsBeforeWrite(t)
  await jobs.verbs['job-pause']({ id: 'j' })
  await jobs.report('job-paused', 'j')
  await jobs.verbs['job-cancel']({ id: 'j' })
  t.equal(await write, 'done')
  const ended = jobs.report('job-ended', 'j')
  dst.driver.release?.()
  t.same((await ended).outcome, { kind: 'cancelled' })
})

t.test('a paused backup still copies before writes', async (t) => {
  const { g, jobs, start, src, dst } = await disks(t)
  await fill(g, 0, 4 * MIB, 7)
  await start({ speed: 1 })
  await jobs.verbs['job-pause']({ id: 'j' })
  await jobs.report('job-paused', 'j')
  await g.write(src, 3 * MIB, Buffer.alloc(10, 8))
  t.ok((await g.read(dst, 3 * MIB, CHUNK)).every((byte) => byte === 7))
  await jobs.verbs['job-set-speed']({ id: 'j', speed: 0 })
  await jobs.verbs['job-resume']({ id: 'j' })
  t.same((await finished(jobs)).outcome, { kind: 'success' })
  t.ok((await all(g, 'dst')).every((byte) => byte === 7))
})
