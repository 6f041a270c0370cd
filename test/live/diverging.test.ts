// SPDX-License-Identifier: Apache-2.0
// Mirrors whose source is written faster than the target takes it: that is said, and mended where that was asked for.

import t, { type Test } from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { newSeed, random } from '../helpers/graph.js'
import { GuestClient } from '../helpers/nbd/guest-client.js'
import type { QmpClient } from '../helpers/qmp-client.js'
import { difference, empty, MiB, rawNode, Scratch } from '../helpers/scratch.js'
import { pace } from '../helpers/waiting.js'

const SIZE = 16 * MiB
const PIECE = 65536
/** Bytes a second that the target takes. */
const SLOW = 12 * MiB

interface Shown {
  readonly device: string
  readonly 'actively-synced': boolean
  readonly 'x-convergence'?: {
    readonly verdict: string
    readonly 'dirty-rate': number
    readonly 'copy-rate': number
    readonly 'write-limit'?: number
  }
}

/** A disk that is served, a slow target, and the daemon. */
async function setUp(t: Test, scratch: Scratch): Promise<{ client: QmpClient; socket: string }> {
  const daemon = await Daemon.start({ directory: scratch.path })
  t.teardown(() => daemon[Symbol.asyncDispose]())
  const { client } = daemon
  for (const name of ['d0', 'd1']) empty(scratch.file(name), SIZE)
  await client.execute('blockdev-add', rawNode('d0', scratch.file('d0')))
  await client.execute('object-add', {
    'qom-type': 'throttle-group',
    id: 'slow',
    limits: { 'bps-write': SLOW },
  })
  await client.execute('blockdev-add', {
    ...{ driver: 'throttle', 'node-name': 'd1', 'throttle-group': 'slow' },
    file: rawNode('d1-file', scratch.file('d1')),
  })
  const socket = scratch.file('nbd.sock')
  await client.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } })
  await client.execute('block-export-add', {
    ...{ type: 'nbd', id: 'e', name: 'disk', 'node-name': 'd0', writable: true },
  })
  return { client, socket }
}

/** Writes as fast as it is let until it is stopped. */
class Writer {
  #stopped = false
  readonly #running: Promise<void>

  private constructor(connection: GuestClient, below: (below: number) => number) {
    this.#running = this.#run(connection, below)
    this.#running.catch(() => undefined)
  }

  static async start(t: Test, socket: string): Promise<Writer> {
    const seed = newSeed()
    t.comment(`seed ${seed}`)
    return new Writer(await GuestClient.connect(socket, 'disk'), random(seed))
  }

  async #run(connection: GuestClient, below: (below: number) => number): Promise<void> {
    const one = async () => {
      while (!this.#stopped) {
        const bytes = Buffer.alloc(PIECE, 1 + below(255))
        await connection.write(PIECE * below(SIZE / PIECE), bytes)
      }
    }
    await Promise.all([one(), one(), one(), one()])
    connection.end()
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await this.#running
  }
}

async function mirror(client: QmpClient, onDiverge: string): Promise<void> {
  const job = { 'job-id': 'j', device: 'd0', target: 'd1', sync: 'full', 'x-on-diverge': onDiverge }
  await client.execute('blockdev-mirror', job)
}

async function shown(client: QmpClient): Promise<Shown | undefined> {
  const jobs = (await client.execute('query-block-jobs')) as Shown[]
  return jobs[0]
}

const says = (verdict: string) => (data: Record<string, unknown>) =>
  data.id === 'j' && data.verdict === verdict

t.test('a writer that is too fast is told of, once, and so is that it stopped', async (t) => {
  using scratch = new Scratch()
  const { client, socket } = await setUp(t, scratch)
  const writer = await Writer.start(t, socket)
  await mirror(client, 'report')
  const { data } = await client.event('x-job-convergence')
  t.equal(data.verdict, 'diverging')
  const [dirty, copy] = [Number(data['dirty-rate']), Number(data['copy-rate'])]
  t.ok(dirty > copy, `${dirty} > ${copy}`)
  const convergence = (await shown(client))?.['x-convergence']
  t.match(convergence, { verdict: 'diverging', 'dirty-rate': Number, 'copy-rate': Number })
  t.equal(convergence?.['write-limit'], undefined)
  t.same(((await client.execute('query-jobs')) as Shown[])[0]?.['x-convergence']?.verdict, 'diverging')
  await writer.stop()
  await client.event('x-job-convergence', says('converging'))
  await client.event('BLOCK_JOB_READY')
  const told = client.events.filter(({ event }) => event === 'x-job-convergence')
  t.same(told, [], 'nothing else changed')
  await client.execute('job-complete', { id: 'j' })
  await client.status('j', 'null')
  t.equal(difference(scratch.file('d0'), scratch.file('d1')), undefined)
})

t.test('write-blocking has the writer wait for the target, and both get equal', async (t) => {
  using scratch = new Scratch()
  const { client, socket } = await setUp(t, scratch)
  const writer = await Writer.start(t, socket)
  await mirror(client, 'write-blocking')
  await client.event('x-job-convergence', says('diverging'))
  await client.event('BLOCK_JOB_READY')
  while ((await shown(client))?.['actively-synced'] !== true) await pace(20)
  const back = { id: 'j', type: 'mirror', 'copy-mode': 'background' }
  await t.rejects(client.execute('block-job-change', back), {
    message: "Change to copy mode 'background' is not implemented",
  })
  await client.execute('job-complete', { id: 'j' })
  await client.status('j', 'null')
  await writer.stop()
})

t.test('throttle slows the writer until nothing is left to copy, and lets go then', async (t) => {
  using scratch = new Scratch()
  const { client, socket } = await setUp(t, scratch)
  const writer = await Writer.start(t, socket)
  await mirror(client, 'throttle')
  await client.event('x-job-convergence', says('diverging'))
  const limit = async () => (await shown(client))?.['x-convergence']?.['write-limit']
  while ((await limit()) === undefined) await pace(20)
  await client.event('x-job-convergence', says('converging'))
  await client.event('BLOCK_JOB_READY')
  while ((await limit()) !== undefined) await pace(5)
  await client.execute('job-complete', { id: 'j' })
  const { data } = await client.event('BLOCK_JOB_COMPLETED')
  t.equal(data.error, undefined)
  await client.status('j', 'null')
  await writer.stop()
})

for (const verb of ['job-pause', 'job-cancel'])
  t.test(`a writer that is slowed down goes on after ${verb}`, async (t) => {
    using scratch = new Scratch()
    const { client, socket } = await setUp(t, scratch)
    // So slow that hardly anything gets done.
    await client.execute('qom-set', {
      path: '/objects/slow',
      property: 'limits',
      value: { 'bps-write': MiB },
    })
    const writer = await Writer.start(t, socket)
    await mirror(client, 'throttle')
    const limit = async () => (await shown(client))?.['x-convergence']?.['write-limit']
    while ((await limit()) === undefined) await pace(20)
    await client.execute(verb, { id: 'j' })
    if (verb === 'job-cancel') await client.status('j', 'null')
    else {
      await client.status('j', 'paused')
      t.match((await shown(client))?.['x-convergence'], { verdict: 'unknown', 'write-limit': undefined })
    }
    await writer.stop()
    if (verb === 'job-pause') {
      await client.execute('job-cancel', { id: 'j' })
      await client.status('j', 'null')
    }
    await client.execute('blockdev-del', { 'node-name': 'd1' })
    t.equal(await shown(client), undefined)
  })
