// SPDX-License-Identifier: Apache-2.0
// Clients that ask for one thing at a time get a lane of the engine, and lose it when somebody else wants the disk. What they
// are answered, and what others see of the disk, is the same either way. SEED=n repeats a run.

import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Test } from 'tap'
import t from 'tap'
import type { NodeReport } from '../../../../daemon/iothread/messages.js'
import type { Lane } from '../../../../native/lane-types.js'
import { commandFlags, commands } from '../../../../protocol/nbd/constants.js'
import { newSeed, random } from '../../../helpers/graph.js'
import type { NbdClient } from '../../../helpers/nbd/client.js'
import { pattern, Served, type ServedOptions, STYLES } from '../../../helpers/nbd/served.js'
import { SlowFs, slowfsAbsent } from '../../../helpers/slowfs.js'
import { pace } from '../../../helpers/waiting.js'
import { kinds } from '../../../native/kinds.js'

const MIB = 1 << 20
const SIZE = 4 * MIB
/** More than it takes to get the first lane. */
const ROW = 12

interface Disk {
  readonly served: Served
  readonly filename: string
  /** All there were. */
  readonly lanes: Lane[]
  /** Now, and at most at one time. */
  readonly active: () => number
  readonly most: () => number
}

async function disk(
  t: Test,
  options: ServedOptions & { direct?: boolean; folder?: string } = {},
): Promise<Disk> {
  const filename = join(options.folder ?? t.testdir(), 'disk.img')
  writeFileSync(filename, pattern(0, SIZE / 2))
  truncateSync(filename, SIZE)
  const cache = { direct: options.direct ?? false }
  const file = { driver: 'file', filename, cache, discard: 'unmap' }
  const node = { driver: 'raw', 'node-name': 'disk', file, cache, discard: 'unmap' }
  const served = await Served.open(t, { node, size: SIZE, ...options })
  const { engine } = served.bench
  const lanes: Lane[] = []
  const lend = engine.lane.bind(engine)
  let [now, most] = [0, 0]
  engine.lane = (terms) => {
    const lane = lend(terms)
    lanes.push(lane)
    most = Math.max(most, ++now)
    void lane.ended.then(() => now--)
    return lane
  }
  return { served, filename, lanes, active: () => now, most: () => most }
}

/** Reads one by one until a lane serves the client. */
async function onLane(client: NbdClient, { lanes }: Disk): Promise<Lane> {
  const before = lanes.length
  for (let turn = 0; turn < 1000; turn++) {
    await client.read((turn % 100) * 4096, 4096)
    const lane = lanes[before]
    if (lane !== undefined && lane.counts().reads > 0) return lane
  }
  throw new Error('no lane')
}

async function statsOf(served: Served): Promise<NodeReport['stats'] | undefined> {
  const { bench } = served
  const known = bench.reports.length
  for (;;) {
    for (const report of bench.reports.slice(known))
      if (report.kind === 'nodes')
        for (const node of report.nodes) if (node.name === 'disk') return node.stats
    await pace(20)
  }
}

for (const { aio, absent } of kinds)
  for (const style of STYLES)
    for (const direct of [false, true])
      t.test(
        `${aio}, ${style}, ${direct ? 'direct' : 'cached'}: random requests`,
        { skip: absent },
        async (t) => {
          const seed = newSeed()
          t.comment(`seed ${seed}`)
          const pick = random(seed)
          const own = await disk(t, { aio, direct })
          const { served, filename, lanes } = own
          const client = await served.client(style)
          const other = await served.client(style)
          const model = Buffer.from(readFileSync(filename))
          const unit = direct ? 4096 : 1
          const wrong: string[] = []
          const one = async () => {
            const offset = pick(SIZE / unit - 16) * unit
            const length = (1 + pick(direct ? 16 : 65536)) * unit
            if (pick(2) === 0) {
              const bytes = pick(4) === 0 ? Buffer.alloc(length) : pattern(offset, length, pick(256))
              const { error } = await client.write(offset, bytes.subarray(0, SIZE - offset))
              if (error !== 0) wrong.push(`write ${offset}+${length}: ${error}`)
              bytes.copy(model, offset)
            } else {
              const { data } = await client.read(offset, Math.min(length, SIZE - offset))
              if (!data.equals(model.subarray(offset, offset + length)))
                wrong.push(`read ${offset}+${length}`)
            }
          }
          const unusual = [
            () => client.request({ command: commands.FLUSH, offset: 0, length: 0 }),
            async () => {
              await client.request({ command: commands.WRITE_ZEROES, offset: 4096, length: 8192 })
              model.fill(0, 4096, 12288)
            },
            async () => {
              const all = await Promise.all([0, 1, 2, 3].map((at) => client.read(at * 65536, 65536)))
              for (const [at, { data }] of all.entries())
                if (!data.equals(model.subarray(at * 65536, (at + 1) * 65536))) wrong.push(`burst at ${at}`)
            },
            async () => {
              const { data } = await other.read(0, SIZE)
              if (!data.equals(model)) wrong.push('the other client reads other bytes')
            },
            async () => {
              if (style === 'simple') return
              const { status } = await other.request({
                command: commands.BLOCK_STATUS,
                offset: 0,
                length: SIZE,
              })
              let at = 0
              for (const { length, status: bits } of status.get(0) ?? []) {
                if (bits !== 0 && model.subarray(at, at + length).some((byte) => byte !== 0))
                  wrong.push(`no zeroes at ${at}`)
                at += length
              }
            },
          ]
          for (let turn = 0; turn < 30 && wrong.length === 0; turn++) {
            // Some are long enough for a lane to be worth it: then the next comes soon.
            for (let row = pick(3) === 0 ? 100 : pick(40); row >= 0; row--) await one()
            await unusual[pick(unusual.length)]?.()
          }
          t.strictSame(wrong, [], `seed ${seed}`)
          t.ok(lanes.length > 1, `${lanes.length} lanes`)
          t.ok(Buffer.from(readFileSync(filename)).equals(model), 'and the file has it')
          for (const each of [client, other]) each.disconnect()
          t.strictSame(await served.left(2), [undefined, undefined])
          await served.remove()
        },
      )

t.test('requests on a lane do not come by JavaScript, and are counted', async (t) => {
  const own = await disk(t)
  const { served, lanes } = own
  const { engine } = served.bench
  let calls = 0
  const read = engine.read.bind(engine)
  engine.read = (...all) => {
    calls++
    return read(...all)
  }
  const client = await served.client()
  await onLane(client, own)
  const before = calls
  const laned = () => lanes.reduce((sum, lane) => sum + lane.counts().reads, 0)
  const all = calls + laned() + 500
  for (let turn = 0; turn < 500; turn++) await client.read(turn * 4096, 4096)
  // Another lane is behind another row, where the machine was so slow that this client seemed silent.
  t.ok(calls - before <= 100 * (lanes.length - 1), `${calls - before} of 500, ${lanes.length} lanes`)
  t.equal(calls + laned(), all)
  t.equal((await statsOf(served))?.reads, all)
  for (let turn = 0; turn < 10; turn++) await client.write(turn * 512, pattern(0, 512))
  await client.request({ command: commands.FLUSH, offset: 0, length: 0 })
  const stats = await statsOf(served)
  t.match(stats, {
    reads: all,
    writes: 10,
    writeBytes: 5120,
    writeHighest: 5120,
    flushes: 1,
  })
})

t.test('who may not write or writes durably does not write on a lane', async (t) => {
  const through = await disk(t, { export: { writethrough: true } })
  const client = await through.served.client()
  for (let turn = 0; turn < 50; turn++) await client.write(0, pattern(0, 512))
  t.equal(through.lanes.length, 0)
  const lane = await onLane(client, through)
  t.equal((await client.write(0, pattern(0, 512))).error, 0)
  const { received } = await lane.ended
  t.ok(received.length === 28 + 512 || received.length === 0, 'it came back, or the lane was over')
  t.equal(lane.counts().writes, 0)
})

t.test('several at once, long ones and flushes get none', async (t) => {
  const { served, lanes } = await disk(t)
  const client = await served.client()
  for (let turn = 0; turn < 50; turn++) await Promise.all([client.read(0, 4096), client.read(8192, 4096)])
  for (let turn = 0; turn < 50; turn++) await client.read(0, 65536 + 512)
  for (let turn = 0; turn < 50; turn++) {
    await client.write(0, pattern(0, 4096))
    await client.write(0, pattern(0, 4096), commandFlags.FUA)
  }
  t.equal(lanes.length, 0)
})

t.test('a lane that is good for nothing is not lent soon again', async (t) => {
  const { served, lanes } = await disk(t)
  const client = await served.client()
  for (let turn = 0; turn < 60; turn++) {
    for (let row = 0; row < ROW; row++) await client.read(row * 4096, 4096)
    await client.request({ command: commands.FLUSH, offset: 0, length: 0 })
  }
  t.equal(lanes.length, 1)
})

t.test('a mirror that begins sees every write, and its copy is equal', async (t) => {
  const own = await disk(t)
  const { served, filename } = own
  const { bench } = served
  const target = join(dirname(filename), 'copy.img')
  writeFileSync(target, '')
  truncateSync(target, SIZE)
  await bench.addFile('copy', target)
  const client = await served.client()
  const model = Buffer.from(readFileSync(filename))
  const pick = random(11)
  let writing = true
  const writer = (async () => {
    while (writing) {
      // In a small part, so that the copy gets to an end while it is written.
      const offset = pick(64) * 4096
      const bytes = pattern(offset, 4096, pick(256))
      if ((await client.write(offset, bytes)).error !== 0) throw new Error(`write at ${offset}`)
      bytes.copy(model, offset)
    }
  })()
  for (let turn = 0; turn < 4; turn++) {
    while (own.active() === 0) await pace(1)
    const id = `m${turn}`
    await bench.mirror(id, { source: 'disk', target: 'copy' })
    await bench.report('job-ready', id)
    const last = turn === 3
    await bench.request('job-complete', { id, pivot: last })
    await bench.report('job-ended', id)
    if (last) {
      writing = false
      await bench.request('job-finalize', { id, commit: true })
      await writer
    } else await bench.request('job-finalize', { id, commit: true })
  }
  t.ok((await client.read(0, SIZE)).data.equals(model), 'the client reads the copy')
  await served.remove()
  t.ok(readFileSync(target).equals(model), 'which has every write')
})

t.test('an export is removed, and a client goes away, while a lane serves it', async (t) => {
  const own = await disk(t)
  const { served } = own
  const [client, other] = [await served.client(), await served.client()]
  const lane = await onLane(client, own)
  client.socket.destroy()
  t.equal((await lane.ended).result, 0)
  t.strictSame(await served.left(1), [undefined])
  const second = await onLane(other, own)
  await served.remove()
  await other.ended()
  t.equal((await second.ended).result, 0)
  t.equal((await served.left(2)).length, 2)
  await served.bench.request('node-del', { node: 'disk' })
  t.equal(served.bench.engine.stats().requests, 0)
  t.equal(served.bench.engine.stats().slotsInUse, 0, 'no memory is left in use')
})

t.test('a client that falls silent holds neither memory nor a task', async (t) => {
  const own = await disk(t)
  const client = await own.served.client()
  const lane = await onLane(client, own)
  await lane.ended
  t.equal((await client.read(0, 4096)).error, 0, 'and is heard again')
})

t.test('not more than so many clients have lanes', async (t) => {
  const own = await disk(t)
  const clients = await Promise.all(Array.from({ length: 40 }, () => own.served.client()))
  await Promise.all(
    clients.map(async (client) => {
      for (let turn = 0; turn < 100; turn++) {
        const { data } = await client.read(4096, 4096)
        if (!data.equals(pattern(4096, 4096))) throw new Error('other bytes')
      }
    }),
  )
  t.ok(own.most() > 0 && own.most() <= 16, `${own.most()} at once`)
})

t.test(
  'a drained section waits for a write that is stuck, and it is answered behind it',
  { skip: slowfsAbsent() },
  async (t) => {
    const slow = await SlowFs.mount(t.testdir())
    const own = await disk(t, { folder: slow.mount })
    const { served } = own
    const { engine } = served.bench
    const client = await served.client()
    const lane = await onLane(client, own)
    slow.rules({ op: 'write', delayMs: 400 })
    const bytes = pattern(0, 4096, 5)
    let answered = false
    const answer = client.write(8192, bytes).then(({ error }) => {
      answered = true
      return error
    })
    while (engine.oldest() === undefined) await pace(5)
    const reopened = served.bench.request('node-reopen', {
      specs: [
        {
          driver: 'raw',
          'node-name': 'disk',
          file: { driver: 'file', filename: join(slow.mount, 'disk.img'), discard: 'unmap' },
          discard: 'unmap',
        },
      ],
    })
    const settled = await Promise.allSettled([lane.ended, reopened])
    t.equal(settled[0].status, 'fulfilled')
    slow.rules()
    t.equal(await answer, 0)
    t.ok(answered)
    t.ok((await client.read(8192, 4096)).data.equals(bytes))
    await served.remove()
    await served.bench.request('node-del', { node: 'disk' })
    await slow.unmount()
  },
)

for (const way of ['in a lane', 'behind a lane'] as const)
  t.test(
    `a client whose write is stuck ${way} is cut off at once when its export is removed`,
    { skip: slowfsAbsent() },
    async (t) => {
      const slow = await SlowFs.mount(t.testdir())
      t.teardown(() => slow.unmount())
      const own = await disk(t, { folder: slow.mount })
      const { served } = own
      const { engine } = served.bench
      const client = await served.client()
      const lane = await onLane(client, own)
      // Whoever has two requests under way is served without a lane.
      if (way === 'behind a lane') await Promise.all([client.read(0, 4096), client.read(0, 4096), lane.ended])
      slow.rules({ op: 'write', delayMs: 120_000 })
      const answers = [client.write(8192, pattern(0, 4096))]
      if (way === 'behind a lane') answers.push(client.write(16384, pattern(0, 4096)))
      const told = Promise.allSettled(answers)
      while (engine.oldest()?.op !== 'write') await pace(5)
      const removed = served.remove()
      await client.ended()
      t.equal(engine.oldest()?.op, 'write', 'which is stuck still')
      await slow.unmount()
      await removed
      for (const { status } of await told) t.equal(status, 'rejected')
    },
  )

for (const style of STYLES)
  t.test(
    `${style}: a write that is not done once more, its export being removed, is in the bitmap that came meanwhile`,
    { skip: slowfsAbsent() },
    async (t) => {
      const slow = await SlowFs.mount(t.testdir())
      const own = await disk(t, { folder: slow.mount })
      const { served } = own
      const { bench } = served
      const client = await served.client(style)
      const lane = await onLane(client, own)
      slow.rules({ op: 'write', delayMs: 400 })
      const offset = 10 * 65536 + 512
      const bytes = pattern(offset, 4096, 5)
      const answer = client.write(offset, bytes).catch(() => undefined)
      while (bench.engine.oldest()?.op !== 'write') await pace(5)
      const bitmap = { node: 'disk', name: 'b' }
      const add = { kind: 'add', granularity: 512, persistent: false, recording: true, ...bitmap } as const
      await bench.request('bitmaps-change', { actions: [add] })
      await served.remove()
      slow.rules()
      t.equal(await answer, undefined, 'it has no answer')
      t.equal((await lane.ended).received.length, (style === 'extended' ? 32 : 28) + bytes.length)
      const now = readFileSync(join(slow.files, 'disk.img'))
      t.ok(now.subarray(offset, offset + bytes.length).equals(bytes), 'it is on the disk')
      const { bits } = await bench.request('bitmap-content', bitmap)
      const isDirty = (chunk: number) => ((bits[chunk >> 3] ?? 0) >> (chunk & 7)) % 2 === 1
      const dirty = Array.from({ length: SIZE / 512 }, (_, chunk) => chunk).filter(isDirty)
      const expected = Array.from({ length: bytes.length / 512 }, (_, index) => offset / 512 + index)
      t.strictSame(dirty, expected, 'and the bitmap knows')
      await bench.request('node-del', { node: 'disk' })
      await slow.unmount()
    },
  )
