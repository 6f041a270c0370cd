// SPDX-License-Identifier: Apache-2.0
// Random mirrors against the daemon: sources of holes, zeroes and data with odd sizes, targets full of old data, windows,
// devices' alignments, errors, pauses, speeds, cancels. Whatever says that it completed must be equal; whatever was
// asked must be answered; nothing may stay behind. Prints its seed; SEED=n repeats it, SECONDS=n runs longer.

import { closeSync, ftruncateSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs'
import t, { type Test } from 'tap'
import type { EngineKind } from '../../native/types.js'
import { Daemon } from '../helpers/daemon.js'
import { newSeed, random, refused } from '../helpers/graph.js'
import { type QmpClient, QmpError } from '../helpers/qmp-client.js'
import { Scratch } from '../helpers/scratch.js'
import { pace } from '../helpers/waiting.js'

type Below = (below: number) => number

const KiB = 1024
const LIVES = 4
const SECONDS = Number(process.env.SECONDS ?? 6)

/** A file of runs of holes, zeroes stored as data, and data. */
function scatter(path: string, size: number, below: Below): void {
  const fd = openSync(path, 'w')
  for (let at = 0; at < size; ) {
    const length = Math.min(size - at, 1 + below(below(2) === 0 ? 8 * KiB : 600 * KiB))
    const kind = below(4)
    if (kind > 0) writeSync(fd, Buffer.alloc(length, kind === 1 ? 0 : 1 + below(255)), 0, length, at)
    at += length
  }
  ftruncateSync(fd, size)
  closeSync(fd)
}

interface Plan {
  readonly nodes: readonly object[]
  readonly names: readonly string[]
  readonly start: { readonly command: string; readonly args: object }
  readonly source: Buffer
  /** What the target has to be for the guest. */
  readonly read: () => Buffer
}

const ops = ['read', 'write', 'zero', 'status', 'flush'] as const

/** Rules for one node; most disks are healthy. */
function rules(below: Below): object[] {
  if (below(3) > 0) return []
  return Array.from({ length: 1 + below(3) }, () => ({
    op: ops[below(ops.length)],
    nth: 1 + below(6),
    count: 1 + below(3),
    ...(below(4) > 0 && { errno: below(2) === 0 ? 5 : 28 }),
    ...(below(3) === 0 && { 'delay-ms': below(40) }),
  }))
}

const policies = ['report', 'ignore', 'enospc', 'stop'] as const

/** Where the disk lies in its file: all of it, or a window between other data. */
function makeDisk(name: string, path: string, size: number, windowed: boolean, below: Below) {
  const offset = windowed ? 512 * (1 + below(300)) : 0
  scatter(path, offset + size + (windowed ? 512 * below(50) : 0), below)
  const file = {
    driver: 'file',
    filename: path,
    cache: { direct: below(2) === 0 },
    discard: below(2) === 0 ? 'unmap' : 'ignore',
  }
  const faulty = rules(below)
  const storage = faulty.length === 0 ? file : { driver: 'x-inject', file, rules: faulty }
  const window = windowed ? { offset, size } : {}
  const discard = below(2) === 0 ? 'unmap' : 'ignore'
  const node = { driver: 'raw', 'node-name': name, discard, file: storage, ...window }
  return { node, read: () => readFileSync(path).subarray(offset, windowed ? offset + size : undefined) }
}

function makePlan(scratch: Scratch, id: string, below: Below): Plan {
  const windowed = below(4) === 0
  const sectors = 1 + below(below(2) === 0 ? 200 : 12_000)
  const size = sectors * 512 - (windowed || below(2) === 0 ? 0 : below(512))
  const [source, target] = [`${id}-source`, `${id}-target`]
  const from = makeDisk(source, scratch.file(source), size, windowed, below)
  const args = {
    'job-id': id,
    device: source,
    sync: 'full',
    'on-source-error': policies[below(4)],
    'on-target-error': policies[below(4)],
    ...(below(2) === 0 && { speed: 2 ** 20 * (1 + below(60)) }),
    ...(below(2) === 0 && { granularity: 512 << below(12) }),
    ...(below(2) === 0 && { 'buf-size': 1 + below(40 * 2 ** 20) }),
    ...(below(4) === 0 && { 'auto-finalize': false }),
    ...(below(4) === 0 && { 'auto-dismiss': false }),
    ...(below(3) === 0 && { 'x-auto-complete': true }),
  }
  if (below(4) === 0) {
    const path = scratch.file(target)
    if (below(2) === 0) scatter(path, size + below(1000), below)
    const start = { command: 'drive-mirror', args: { ...args, target: path, unmap: below(2) === 0 } }
    return { nodes: [from.node], names: [source], start, source: from.read(), read: () => readFileSync(path) }
  }
  // Another length within the last sector is the same size to the guest.
  const length = windowed || below(2) === 0 ? size : sectors * 512 - below(512)
  const to = makeDisk(target, scratch.file(target), length, windowed, below)
  const start = { command: 'blockdev-mirror', args: { ...args, target } }
  return { nodes: [from.node, to.node], names: [source, target], start, source: from.read(), read: to.read }
}

const verbs = [
  ...['job-pause', 'job-resume', 'job-resume', 'job-complete', 'job-complete', 'job-finalize', 'job-dismiss'],
  'speed',
] as const

/** A command that the state of things may refuse: that is no fault, not to answer is. */
async function ask(client: QmpClient, name: string, args: object): Promise<boolean> {
  try {
    await client.execute(name, args, 20_000)
    return true
  } catch (error) {
    if (!(error instanceof QmpError)) throw error
    return false
  }
}

async function verb(client: QmpClient, id: string, below: Below): Promise<void> {
  if (below(40) === 0) {
    await ask(client, 'block-job-cancel', { device: id, force: below(2) === 0 })
    return
  }
  const name = verbs[below(verbs.length)] ?? 'job-resume'
  if (name === 'speed') await ask(client, 'block-job-set-speed', { device: id, speed: below(2 ** 26) })
  else await ask(client, name, { id })
}

/** Whether both are the same to a guest, which sees whole sectors. */
function sameDisk(source: Buffer, target: Buffer): boolean {
  const length = Math.ceil(source.length / 512) * 512
  if (Math.ceil(target.length / 512) * 512 !== length) return false
  const padded = (bytes: Buffer) => Buffer.concat([bytes, Buffer.alloc(length - bytes.length)])
  return padded(source).equals(padded(target))
}

/** One disk from its definition to its end. @returns how the job ended */
async function life(t: Test, client: QmpClient, scratch: Scratch, id: string, below: Below): Promise<string> {
  const plan = makePlan(scratch, id, below)
  for (const node of plan.nodes) await client.execute('blockdev-add', node)
  client.events.length = 0
  let end = 'refused'
  if (await ask(client, plan.start.command, plan.start.args)) {
    let over = false
    const gone = client.status(id, 'null', 60_000).finally(() => {
      over = true
    })
    gone.catch(() => undefined)
    while (!over) {
      await verb(client, id, below)
      await Promise.race([pace(below(20)), gone])
    }
    await gone
    const last = client.events.findLast(
      ({ event, data }) =>
        data.device === id && (event === 'BLOCK_JOB_COMPLETED' || event === 'BLOCK_JOB_CANCELLED'),
    )
    if (last?.event === 'BLOCK_JOB_CANCELLED') end = 'cancelled'
    else end = last?.data.error === undefined ? 'completed' : 'failed'
  }
  for (const name of plan.names) await client.execute('blockdev-del', { 'node-name': name })
  if (end === 'completed' && !sameDisk(plan.source, plan.read()))
    t.fail(`${id} completed and is not equal`, { start: plan.start, nodes: plan.nodes })
  for (const name of ['source', 'target']) rmSync(scratch.file(`${id}-${name}`), { force: true })
  return end
}

for (const aio of ['threads', 'io_uring'] satisfies EngineKind[]) {
  t.test(`random mirrors that complete are equal, with ${aio}`, { skip: refused(aio) }, async (t) => {
    t.setTimeout((SECONDS + 60) * 1000)
    const seed = newSeed()
    t.comment(`seed ${seed}`)
    using scratch = new Scratch()
    await using daemon = await Daemon.start({ directory: scratch.path, args: ['--aio', aio] })
    const before = await daemon.settledDescriptors()
    const until = Date.now() + SECONDS * 1000
    const ends: Record<string, number> = {}
    await Promise.all(
      Array.from({ length: LIVES }, async (_, n) => {
        const below = random(seed + n)
        const client = await daemon.connect((['', '1', '2'] as const)[n % 3])
        for (let turn = 0; Date.now() < until; turn++) {
          const end = await life(t, client, scratch, `j${n}x${turn}`, below)
          ends[end] = (ends[end] ?? 0) + 1
        }
      }),
    )
    t.comment(ends)
    t.ok(ends.completed, 'some completed')
    t.same(await daemon.client.execute('query-named-block-nodes'), [])
    t.same(await daemon.client.execute('query-jobs'), [])
    // Clients stay connected: one more for each life. Workers that were told to end take a moment.
    const most = before + LIVES
    for (let tries = 0; daemon.descriptors().length > most && tries < 600; tries++) await pace(50)
    t.ok(daemon.descriptors().length <= most)
    t.equal(await daemon.stop(), undefined)
  })
}
