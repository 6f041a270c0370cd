// SPDX-License-Identifier: Apache-2.0
// Backups below a guest that writes all the time: whatever is paused, cancelled or refused when, a backup that says that it is
// one holds the disk as it was when it was started, and the guest's own disk is what the guest wrote. Prints its seed;
// SEED=n repeats it.

import t, { type Test } from 'tap'
import { IoError } from '../../../../daemon/errors.js'
import { Buffers } from '../../../../daemon/iothread/copy/buffers.js'
import { createImage } from '../../../../daemon/iothread/jobs/create.js'
import type { BackupSpec } from '../../../../daemon/iothread/messages-backup.js'
import { usualImage } from '../../../../daemon/iothread/messages-create.js'
import { newSeed, random, type TestGraph, testGraph } from '../../../helpers/graph.js'
import { GraphJobs, guestOf, turn } from '../../../helpers/graph-jobs.js'
import { backupSpec } from '../../../helpers/iothread.js'
import { BLOCK, StampedDisk } from '../../../helpers/stamped-disk.js'

type Below = (below: number) => number

const BLOCKS = 1024
const LIVES = 20
const EIO = 5

t.setTimeout(180_000)

/** Slow, and now and then refusing; not for ever. */
function troubles(below: Below): object[] {
  const ops = ['write', 'read', 'zero', 'status'] as const
  return Array.from({ length: below(4) }, () => ({
    op: ops[below(ops.length)],
    nth: 1 + below(30),
    count: 1 + below(6),
    ...(below(2) === 0 ? { errno: EIO } : { 'delay-ms': 1 + below(4) }),
  }))
}

/** A target of a random kind, in memory, full of old data or new. */
async function addTarget(g: TestGraph, buffers: Buffers, below: Below): Promise<'raw' | 'qcow2'> {
  const format = below(2) === 0 ? 'raw' : 'qcow2'
  const size = format === 'raw' ? BLOCKS * BLOCK : 0
  await g.add({ driver: 'x-memory', 'node-name': 'dst-memory', size })
  const old = g.graph.node('dst-memory')
  if (format === 'raw' && below(2) === 0)
    for (let at = 0; at < size; at += 65536) await g.write(old, at, Buffer.alloc(65536, 0x55))
  if (format === 'qcow2') await makeImage(g, buffers, 2 ** (12 + below(9)))
  const image = { driver: format, 'node-name': 'dst-image', file: 'dst-memory', discard: 'unmap' }
  await g.add(format === 'qcow2' ? { ...image, backing: null } : image)
  await g.add({
    driver: 'x-inject',
    'node-name': 'dst',
    file: 'dst-image',
    rules: troubles(below),
    discard: 'unmap',
  })
  return format
}

async function makeImage(g: TestGraph, buffers: Buffers, clusterSize: number): Promise<void> {
  const options = { ...usualImage(BLOCKS * BLOCK), clusterSize }
  const spec = { kind: 'create', driver: 'qcow2', file: 'dst-memory', dataFile: undefined, options } as const
  await createImage(g.graph, spec, buffers, new AbortController().signal)
}

function randomSpec(below: Below, format: 'raw' | 'qcow2'): Partial<BackupSpec> {
  const policy = () => (['report', 'ignore', 'stop', 'enospc'] as const)[below(4)] ?? 'report'
  return {
    speed: below(3) === 0 ? 2 ** (20 + below(4)) : 0,
    compress: format === 'qcow2' && below(3) === 0,
    onSourceError: policy(),
    onTargetError: policy(),
    onCbwError: below(2) === 0 ? 'break-guest-write' : 'break-snapshot',
    workers: 1 + below(16),
    maxChunk: below(2) === 0 ? 0 : 65536 * (1 + below(8)),
    minClusterSize: below(3) === 0 ? 2 ** (16 + below(6)) : 0,
  }
}

/** Pauses, resumes and changes of speed until the job is over. @returns whether it is a backup */
async function live(jobs: GraphJobs, id: string, below: Below): Promise<boolean> {
  const cancelAt = below(4) === 0 ? below(60) : undefined
  for (let step = 0; ; step++) {
    const ended = jobs.find('job-ended', id)
    if (ended !== undefined) {
      if (ended.outcome.kind === 'success') await jobs.verbs['job-finalize']({ id, commit: below(2) === 0 })
      return ended.outcome.kind === 'success'
    }
    if (step === cancelAt) await jobs.verbs['job-cancel']({ id })
    else if (step < 400 && below(20) === 0) await jobs.verbs['job-pause']({ id })
    else if (step >= 400 || below(3) === 0) await jobs.verbs['job-resume']({ id })
    if (step === 300) await jobs.verbs['job-set-speed']({ id, speed: 0 })
    await turn()
  }
}

async function life(t: Test, number: number, below: Below): Promise<boolean> {
  const g = testGraph(t)
  const buffers = new Buffers(g.engine)
  const jobs = new GraphJobs(g)
  await g.add({ driver: 'x-memory', 'node-name': 'src-memory', size: BLOCKS * BLOCK })
  await g.add({
    driver: 'x-inject',
    'node-name': 'src',
    file: 'src-memory',
    rules: troubles(below),
    discard: 'unmap',
  })
  const format = await addTarget(g, buffers, below)
  const claim = await g.graph.claim('guest', g.graph.node('src'), {
    use: ['consistent read', 'write'],
    share: ['consistent read', 'write', 'write unchanged', 'resize'],
  })
  const refused = (error: unknown) => error instanceof IoError
  const disk = new StampedDisk(guestOf(g, claim), BLOCKS, below, refused)
  const writing = disk.run(1 + below(6), 0, turn)
  while (disk.requests < 20 + below(300)) await turn()

  const id = `j${number}`
  const moment = disk.moment()
  await jobs.start(id, backupSpec(randomSpec(below, format)))
  const check = moment()
  const done = await live(jobs, id, below)
  disk.stop()
  await writing

  const memory = g.graph.node('src-memory')
  await disk.verify({ read: (offset, length) => g.read(memory, offset, length) })
  if (done) await check({ read: (offset, length) => g.read(g.graph.node('dst-image'), offset, length) })
  t.notOk(
    g.graph.nodes().some(({ name }) => name === '#filter'),
    'the filter has gone',
  )
  await claim.release()
  return done
}

t.test('a backup is the disk as it was when it was started, whatever happens meanwhile', async (t) => {
  const seed = newSeed()
  t.comment(`seed ${seed}`)
  let done = 0
  for (let number = 0; number < LIVES; number++) {
    const below = random(seed + number)
    await t.test(`life ${number}, seed ${seed + number}`, async (t) => {
      if (await life(t, number, below)) done++
    })
  }
  t.ok(done > 0, `${done} of ${LIVES} backups were made`)
})
