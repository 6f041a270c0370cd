// SPDX-License-Identifier: Apache-2.0
// blockferryd is killed while it saves memory: at any moment there is nothing under the target's name, and what is left beside
// it is refused as a part.

import { once } from 'node:events'
import { existsSync, readdirSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { Daemon } from '../helpers/daemon.js'
import { newSeed, random } from '../helpers/graph.js'
import { streamNamed, unpack } from '../helpers/migration/fixtures.js'
import type { QmpClient } from '../helpers/qmp-client.js'
import { Scratch } from '../helpers/scratch.js'
import { deadline, pace } from '../helpers/waiting.js'

const STREAM = 'q10-pc-q35-10.0-live.stream'
const whole = unpack(STREAM)
const { tail_offset: tailOffset } = streamNamed(STREAM)
const formats = ['stream', 'mapped-ram', 'libvirt-raw', 'libvirt-sparse'] as const
const ROUNDS = Number(process.env.CRASH_ROUNDS ?? 1)

interface Shown {
  readonly status: string
  readonly ram?: { readonly transferred: number }
}

/** The job has received so much, or is over. */
async function received(client: QmpClient, bytes: number): Promise<void> {
  using clock = deadline(30_000)
  for (;;) {
    const { status, ram } = (await client.execute('query-migrate', { 'x-job-id': 's' })) as Shown
    if ((ram?.transferred ?? 0) >= bytes || status === 'completed' || status === 'failed') return
    if (clock.over) throw new Error(`${bytes} bytes did not come: ${status}`)
    await pace(1)
  }
}

/** Error texts of converting a file and of restoring it. */
async function refusals(directory: string, source: string): Promise<string[]> {
  await using daemon = await Daemon.start({ directory })
  const { client } = daemon
  const said = async (command: string, args: object) => {
    try {
      await client.execute(command, { 'job-id': command, source, ...args })
    } catch (error) {
      return (error as Error).message
    }
    return 'it was taken'
  }
  return [
    await said('x-memory-convert', { target: join(directory, 'out'), format: 'stream' }),
    await said('x-memory-restore', { target: `unix:${join(directory, 'nobody.sock')}` }),
  ]
}

const moments = [
  { name: 'before the first byte', sent: 0 },
  { name: 'within the head', sent: 60 },
  { name: 'amid the pages', sent: 'random' },
  { name: 'within the states of devices', sent: tailOffset + 1000 },
  { name: 'before the connection closes', sent: whole.length },
] as const

const seed = newSeed()
const below = random(seed)

for (const format of formats)
  for (const { name, sent } of moments)
    t.test(`a save to ${format} killed ${name} leaves no image`, async (t) => {
      t.comment(`seed ${seed}`)
      for (let round = 0; round < ROUNDS; round++) {
        using scratch = new Scratch()
        const [target, socket] = [scratch.file('target'), scratch.file('in.sock')]
        await using daemon = await Daemon.start({ directory: scratch.path })
        const xml = format.startsWith('libvirt') ? { xml: '<domain/>' } : {}
        const job = { 'job-id': 's', source: `unix:${socket}`, target, format, ...xml }
        await daemon.client.execute('x-memory-save', job)
        const source = connect(socket)
        source.on('error', () => undefined)
        await once(source, 'connect')
        const length = sent === 'random' ? below(tailOffset) : sent
        source.write(whole.subarray(0, length))
        await received(daemon.client, length >= 1000 ? length : 0)
        daemon.running.child.kill('SIGKILL')
        t.equal(await daemon.running.ended(10_000), -9)
        source.destroy()
        t.notOk(existsSync(target), 'nothing has the name')
        const parts = readdirSync(scratch.path).filter((file) => file.includes('target'))
        t.same(parts, ['.target.part0'])
        rmSync(socket, { force: true })
        for (const part of parts)
          for (const text of await refusals(scratch.path, scratch.file(part)))
            t.equal(text, `${scratch.file(part)} is a part of an image: its save did not come to an end`)
      }
    })

t.test('a save killed around its end leaves an image that is whole, or none', async (t) => {
  t.comment(`seed ${seed}`)
  for (let round = 0; round < 4 * ROUNDS; round++) {
    using scratch = new Scratch()
    const [target, socket] = [scratch.file('target'), scratch.file('in.sock')]
    await using daemon = await Daemon.start({ directory: scratch.path })
    const job = { 'job-id': 's', source: `unix:${socket}`, target, format: 'mapped-ram' }
    await daemon.client.execute('x-memory-save', job)
    const source = connect(socket)
    source.on('error', () => undefined)
    await once(source, 'connect')
    source.end(whole)
    await received(daemon.client, below(whole.length))
    for (let turn = below(40); turn > 0; turn--) await new Promise((resolve) => setImmediate(resolve))
    daemon.running.child.kill('SIGKILL')
    await daemon.running.ended(10_000)
    source.destroy()
    rmSync(socket, { force: true })
    if (!existsSync(target)) continue
    await using another = await Daemon.start({ directory: scratch.path })
    const out = scratch.file('out')
    await another.client.execute('x-memory-convert', {
      'job-id': 'c',
      source: target,
      target: out,
      format: 'stream',
    })
    await another.client.status('c', 'concluded')
    t.ok(existsSync(out), 'what has the name is whole')
  }
  t.pass('none was half')
})
