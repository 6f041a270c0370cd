// SPDX-License-Identifier: Apache-2.0
// Snapshots of a disk that goes on being written: copy-before-write keeps them, snapshot-access shows them.
// Prints its seed; SEED=n repeats it.

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { IoError } from '../../../../../daemon/errors.js'
import { PERMISSIONS } from '../../../../../daemon/iothread/block/driver.js'
import { newSeed, random, type TestGraph, testGraph } from '../../../../helpers/graph.js'
import { guestOf, turn } from '../../../../helpers/graph-jobs.js'
import { BLOCK, type GuestDisk, StampedDisk } from '../../../../helpers/stamped-disk.js'

const BLOCKS = 512
const SIZE = BLOCKS * BLOCK
const CHUNK = 65536
const MIB = 1 << 20
const ROUNDS = 10

interface Rule {
  readonly op: string
  readonly nth?: number
  readonly count?: number
  readonly errno?: number
  readonly 'delay-ms'?: number
  readonly stall?: boolean
}

async function addDisk(g: TestGraph, rules: readonly Rule[] = []): Promise<void> {
  await g.add({ driver: 'x-memory', 'node-name': 'disk', size: SIZE })
  await g.add({ driver: 'x-memory', 'node-name': 'target-memory', size: SIZE })
  const inject = { driver: 'x-inject', 'node-name': 'target', file: 'target-memory', discard: 'unmap' }
  await g.add({ ...inject, rules })
}

async function addSnapshot(g: TestGraph, more: object = {}): Promise<void> {
  await g.add({
    driver: 'copy-before-write',
    'node-name': 'cbw',
    file: 'disk',
    target: 'target',
    discard: 'unmap',
    ...more,
  })
  await g.add({ driver: 'snapshot-access', 'node-name': 'snap', file: 'cbw', discard: 'unmap' })
}

const readable = (g: TestGraph, name: string): Pick<GuestDisk, 'read'> => ({
  read: (offset, length) => g.read(g.graph.node(name), offset, length),
})

function code(error: unknown): string {
  return error instanceof IoError ? error.code : String(error)
}

async function failure(work: Promise<unknown>): Promise<string | undefined> {
  return work.then(
    () => undefined,
    (error: unknown) => code(error),
  )
}

t.test('a snapshot shows what was there, written over, zeroed and discarded or not', async (t) => {
  const g = testGraph(t)
  await addDisk(g)
  const disk = g.graph.node('disk')
  for (let at = 0; at < SIZE / 2; at += CHUNK) await g.write(disk, at, Buffer.alloc(CHUNK, 1 + at / CHUNK))
  const before = Buffer.from(await g.read(disk, 0, SIZE / 2))
  await addSnapshot(g)
  const cbw = g.graph.node('cbw')
  await g.write(cbw, 1000, Buffer.alloc(3 * CHUNK, 0xaa))
  await cbw.zero(5 * CHUNK, 2 * CHUNK, { unmap: true, fast: false })
  await cbw.discard(8 * CHUNK, CHUNK)
  const snap = g.graph.node('snap')
  t.ok(before.equals(await g.read(snap, 0, SIZE / 2)))
  t.equal((await g.read(disk, 1000, 1))[0], 0xaa)
  t.equal((await snap.status(SIZE / 2, SIZE / 2)).kind, 'zero', 'holes show')
  t.match(await snap.status(0, SIZE), { kind: 'data', offset: 0 })
  const target = g.graph.node('target-memory')
  t.equal(
    (await target.status(9 * CHUNK, SIZE - 9 * CHUNK)).kind,
    'zero',
    'only what was replaced was copied',
  )
})

t.test('writes to a snapshot are refused', async (t) => {
  const g = testGraph(t)
  await addDisk(g)
  await addSnapshot(g)
  t.equal(await failure(g.write(g.graph.node('snap'), 0, new Uint8Array(512))), 'EOPNOTSUPP')
})

t.test('what a reader discards is not kept, and cannot be read', async (t) => {
  const g = testGraph(t)
  await addDisk(g)
  await g.write(g.graph.node('disk'), 0, Buffer.alloc(4 * CHUNK, 7))
  await addSnapshot(g)
  const [snap, cbw] = [g.graph.node('snap'), g.graph.node('cbw')]
  await snap.discard(0, 2 * CHUNK + 5)
  await g.write(cbw, 0, Buffer.alloc(3 * CHUNK, 9))
  t.equal(await failure(g.read(snap, CHUNK, 512)), 'EACCES')
  t.ok(Buffer.alloc(CHUNK, 7).equals(await g.read(snap, 2 * CHUNK, CHUNK)))
  t.equal((await g.graph.node('target-memory').status(0, 2 * CHUNK)).kind, 'zero')
})

const refusals: { name: string; more: object; write: string | undefined; read: string | undefined }[] = [
  { name: 'break-guest-write: the write fails, the snapshot stays', more: {}, write: 'EIO', read: undefined },
  {
    name: 'break-snapshot: the write succeeds, the snapshot is lost',
    more: { 'on-cbw-error': 'break-snapshot' },
    write: undefined,
    read: 'EACCES',
  },
]
for (const { name, more, write, read } of refusals)
  t.test(name, async (t) => {
    const g = testGraph(t)
    await addDisk(g, [{ op: 'write', errno: 5 }])
    await g.write(g.graph.node('disk'), 0, Buffer.alloc(CHUNK, 7))
    await addSnapshot(g, more)
    t.equal(await failure(g.write(g.graph.node('cbw'), 0, Buffer.alloc(512, 9))), write)
    t.equal(await failure(g.read(g.graph.node('snap'), 0, 512)), read)
    t.equal((await g.read(g.graph.node('disk'), 0, 1))[0], write === undefined ? 9 : 7)
  })

t.test('a target that does not answer holds a write up no longer than cbw-timeout', async (t) => {
  const g = testGraph(t)
  await addDisk(g, [{ op: 'write', stall: true }])
  await g.write(g.graph.node('disk'), 0, Buffer.alloc(CHUNK, 7))
  await addSnapshot(g, { 'on-cbw-error': 'break-snapshot', 'cbw-timeout': 1 })
  await g.write(g.graph.node('cbw'), 0, Buffer.alloc(512, 9))
  t.equal((await g.read(g.graph.node('disk'), 0, 1))[0], 9)
})

t.test('a snapshot survives a reopen of its filter', async (t) => {
  const g = testGraph(t)
  await addDisk(g)
  await g.write(g.graph.node('disk'), 0, Buffer.alloc(CHUNK, 7))
  await addSnapshot(g)
  const cbw = g.graph.node('cbw')
  await g.write(cbw, 0, Buffer.alloc(512, 9))
  const spec = { driver: 'copy-before-write', 'node-name': 'cbw', file: 'disk', target: 'target' }
  await g.graph.reopen([{ ...spec, 'on-cbw-error': 'break-snapshot' }])
  await g.write(cbw, 512, Buffer.alloc(512, 10))
  t.ok(Buffer.alloc(CHUNK, 7).equals(await g.read(g.graph.node('snap'), 0, CHUNK)))
})

t.test('a reopen that fails with a later node of its list leaves the policy as it was', async (t) => {
  const g = testGraph(t)
  await addDisk(g, [{ op: 'write', errno: 5 }])
  await g.write(g.graph.node('disk'), 0, Buffer.alloc(CHUNK, 7))
  await addSnapshot(g)
  const filename = join(t.testdir(), 'other')
  writeFileSync(filename, Buffer.alloc(MIB))
  const other = { driver: 'file', 'node-name': 'other', filename, locking: 'on' }
  await g.add(other)
  const claim = await g.graph.claim('a job', g.graph.node('other'), { use: ['write'], share: [] })
  const { lock } = g.engine
  // Its new handle gets no locks: that is the last that can fail.
  g.engine.lock = async () => -5
  const spec = { driver: 'copy-before-write', 'node-name': 'cbw', file: 'disk', target: 'target' }
  const policy = { 'on-cbw-error': 'break-snapshot', 'cbw-timeout': 1 }
  await t.rejects(g.graph.reopen([{ ...spec, ...policy }, other]), { message: /^Failed to lock byte/ })
  g.engine.lock = lock
  t.equal(await failure(g.write(g.graph.node('cbw'), 0, Buffer.alloc(512, 9))), 'EIO')
  t.equal((await g.read(g.graph.node('snap'), 0, 1))[0], 7)
  await claim.release()
})

t.test('with a bitmap only what is dirty in it is kept, and can be read', async (t) => {
  const g = testGraph(t)
  await addDisk(g)
  const disk = g.graph.node('disk')
  await g.write(disk, 0, Buffer.alloc(4 * CHUNK, 7))
  const bitmap = { node: 'disk', name: 'b' }
  const add = { ...bitmap, kind: 'add', granularity: CHUNK, persistent: false, recording: true } as const
  await g.graph.bitmaps.change([add])
  await g.write(disk, CHUNK, Buffer.alloc(CHUNK, 8))
  await addSnapshot(g, { bitmap })
  const [snap, cbw] = [g.graph.node('snap'), g.graph.node('cbw')]
  await g.write(cbw, 0, Buffer.alloc(4 * CHUNK, 9))
  t.ok(Buffer.alloc(CHUNK, 8).equals(await g.read(snap, CHUNK, CHUNK)))
  t.equal(await failure(g.read(snap, CHUNK - 512, 1024)), 'EACCES')
  t.equal((await g.graph.node('target-memory').status(0, CHUNK)).kind, 'zero')
  const missing = { driver: 'copy-before-write', 'node-name': 'x', file: 'disk', target: 'target' }
  await t.rejects(g.add({ ...missing, bitmap: { node: 'disk', name: 'zz' } }), {
    message: "Dirty bitmap 'zz' not found",
  })
})

t.test('a node without a snapshot is refused', async (t) => {
  const g = testGraph(t)
  await addDisk(g)
  const message = "Node 'disk' keeps no snapshot: a 'copy-before-write' node is expected"
  await t.rejects(g.add({ driver: 'snapshot-access', 'node-name': 'snap', file: 'disk' }), { message })
})

t.test('who writes below the filter is waited for too, as long as the filter is there', async (t) => {
  const g = testGraph(t)
  await addDisk(g)
  const disk = g.graph.node('disk')
  await g.write(disk, 0, Buffer.alloc(CHUNK, 7))
  await addSnapshot(g)
  await g.write(disk, 512, Buffer.alloc(512, 9))
  await disk.zero(4096, 4096, { unmap: true, fast: false })
  t.ok(Buffer.alloc(CHUNK, 7).equals(await g.read(g.graph.node('snap'), 0, CHUNK)), 'nobody uses the filter')
  const claim = await g.graph.claim('a reader', g.graph.node('snap'), { use: ['consistent read'], share: [] })
  await t.rejects(
    g.graph.claim('a writer', disk, { use: ['write'], share: PERMISSIONS }),
    /Permission conflict/,
  )
  await claim.release()
  await g.graph.remove('snap')
  await g.graph.remove('cbw')
  await g.write(disk, 8 * CHUNK, Buffer.alloc(CHUNK, 9))
  t.equal(
    (await g.graph.node('target-memory').status(8 * CHUNK, CHUNK)).kind,
    'zero',
    'then nothing is copied',
  )
})

t.test('a write that is under way when the filter comes is before its moment', async (t) => {
  const g = testGraph(t)
  await addDisk(g)
  const rules = [{ op: 'write', 'delay-ms': 30 }]
  await g.add({ driver: 'x-inject', 'node-name': 'slow', file: 'disk', rules })
  const writing = g.write(g.graph.node('slow'), 0, Buffer.alloc(512, 7))
  await turn()
  await g.add({ driver: 'copy-before-write', 'node-name': 'cbw', file: 'slow', target: 'target' })
  await g.add({ driver: 'snapshot-access', 'node-name': 'snap', file: 'cbw' })
  t.equal((await g.read(g.graph.node('disk'), 0, 1))[0], 7, 'it has been waited for')
  await writing
  t.equal((await g.read(g.graph.node('snap'), 0, 1))[0], 7)
})

t.test('nobody hears of a snapshot, or can read it, before its moment', async (t) => {
  const g = testGraph(t)
  await addDisk(g)
  await g.write(g.graph.node('disk'), 0, Buffer.alloc(CHUNK, 7))
  const rules = [{ op: 'write', stall: true }]
  const slow = await g.add({ driver: 'x-inject', 'node-name': 'slow', file: 'disk', rules })
  const writing = g.write(slow, CHUNK, Buffer.alloc(512, 9))
  await turn()
  const cbw = { driver: 'copy-before-write', 'node-name': 'cbw', file: 'slow', target: 'target' }
  const adding = g.add({ driver: 'snapshot-access', 'node-name': 'snap', file: cbw, discard: 'unmap' })
  for (let turns = 0; turns < 10; turns++) await turn()
  await g.graph.refresh()
  g.graph.reportBitmaps()
  t.same([g.reports.has('snap'), g.reports.has('cbw')], [false, false])
  const snap = g.graph.node('snap')
  const [slot = 0] = g.engine.takeSlots(1)
  t.equal(await failure(snap.read(0, { slot, offset: 0, length: 512 })), 'EACCES')
  t.equal(await failure(snap.status(0, 512)), 'EACCES')
  t.equal(await failure(snap.discard(0, CHUNK)), 'EACCES')
  slow.driver.release?.()
  await Promise.all([writing, adding])
  t.same([g.reports.has('snap'), g.reports.has('cbw')], [true, true])
  await snap.read(0, { slot, offset: 0, length: 512 })
  t.equal(g.engine.slotBytes(slot)[0], 7)
  g.engine.giveSlots([slot])
})

t.test('a change below that waits for its copy is not let go by a reopen of the filter', async (t) => {
  const g = testGraph(t)
  await addDisk(g, [{ op: 'write', 'delay-ms': 50 }])
  const disk = g.graph.node('disk')
  await g.write(disk, 0, Buffer.alloc(CHUNK, 7))
  await addSnapshot(g)
  const writing = g.write(disk, 0, Buffer.alloc(512, 9))
  await turn()
  const spec = { driver: 'copy-before-write', 'node-name': 'cbw', file: 'disk', target: 'target' }
  await g.graph.reopen([{ ...spec, 'on-cbw-error': 'break-snapshot' }])
  t.ok(Buffer.alloc(CHUNK, 7).equals(await g.read(g.graph.node('snap'), 0, CHUNK)))
  await writing
  t.ok(Buffer.alloc(CHUNK, 7).equals(await g.read(g.graph.node('snap'), 0, CHUNK)))
  t.equal((await g.read(disk, 0, 1))[0], 9)
})

t.test(
  'its target is locked for writing as long as the filter is there, and its source keeps its length',
  async (t) => {
    const g = testGraph(t)
    const [source, target] = ['source', 'target'].map((name) => join(t.testdir(), name)) as [string, string]
    for (const filename of [source, target]) writeFileSync(filename, Buffer.alloc(MIB))
    await g.add({ driver: 'file', 'node-name': 'disk', filename: source })
    const inline = { driver: 'file', 'node-name': 'target', filename: target }
    const spec = { driver: 'copy-before-write', 'node-name': 'cbw', file: 'disk' }
    const other = testGraph(t)
    await other.add({ driver: 'file', 'node-name': 'other', filename: target })
    const writer = { use: ['write'] as const, share: ['consistent read', 'write unchanged'] as const }
    const taken = await other.graph.claim('another', other.graph.node('other'), writer)
    await t.rejects(g.add({ ...spec, target: inline }), { message: /Failed to get "write" lock/ })
    t.notOk(g.reports.has('cbw'))
    await taken.release()
    await g.add({ ...spec, target: inline })
    await t.rejects(other.graph.claim('another', other.graph.node('other'), writer), {
      message: /Failed to get shared "write" lock/,
    })
    await t.rejects(g.graph.resize('disk', 2 * MIB), { message: /Permission conflict on node 'disk'/ })
    await g.graph.remove('cbw')
    await (await other.graph.claim('another', other.graph.node('other'), writer)).release()
    await g.add({ ...inline, 'node-name': 'closed', 'read-only': true })
    await t.rejects(g.add({ ...spec, target: 'closed' }), { message: 'Block node is read-only' })
    await g.graph.resize('disk', 2 * MIB)
  },
)

/** One guest, above the filter or below it, and readers of its snapshot meanwhile. */
async function round(t: Test, below: (below: number) => number): Promise<void> {
  const g = testGraph(t)
  const ops = ['write', 'read', 'zero', 'status'] as const
  const rules = Array.from({ length: below(4) }, () => ({
    op: ops[below(ops.length)] ?? 'write',
    nth: 1 + below(20),
    count: 1 + below(5),
    ...(below(2) === 0 ? { errno: 5 } : { 'delay-ms': 1 + below(3) }),
  }))
  await addDisk(g, rules)
  let name = 'disk'
  const served = {
    get node() {
      return g.graph.node(name)
    },
  }
  const refused = (error: unknown) => error instanceof IoError
  const disk = new StampedDisk(guestOf(g, served), BLOCKS, below, refused)
  const first = disk.run(4, 0, turn)
  while (disk.requests < 200) await turn()
  const above = below(2) === 0
  if (above) {
    disk.stop()
    await first
  }
  const moment = disk.moment()
  await addSnapshot(g)
  if (above) name = 'cbw'
  const check = moment()
  const writing = disk.run(1 + below(5), 0, turn)
  for (let looks = 0; looks < 3; looks++) await look(check, g)
  disk.stop()
  await Promise.all([first, writing])
  await look(check, g)
  await disk.verify(readable(g, 'disk'))
  t.pass()
}

/** What cannot be read proves nothing; what can must be what was there. */
async function look(check: (copy: Pick<GuestDisk, 'read'>) => Promise<void>, g: TestGraph): Promise<void> {
  try {
    await check(readable(g, 'snap'))
  } catch (error) {
    if (!(error instanceof IoError)) throw error
  }
}

t.test('whoever reads a snapshot while the disk is written sees the moment it was taken', async (t) => {
  const seed = newSeed()
  t.comment(`seed ${seed}`)
  for (let number = 0; number < ROUNDS; number++)
    await t.test(`round ${number}, seed ${seed + number}`, (t) => round(t, random(seed + number)))
})
