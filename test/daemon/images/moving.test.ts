// SPDX-License-Identifier: Apache-2.0
// Images served by command on a disk whose drive-mirror is completed: their clients go to the target with the other users of
// the source, and lose nothing.

import { readFileSync } from 'node:fs'
import { Agent } from 'node:http'
import t from 'tap'
import { newSeed, random } from '../../helpers/graph.js'
import { request } from '../../helpers/images/http-client.js'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { installed } from '../../helpers/program.js'
import { QmpClient } from '../../helpers/qmp-client.js'
import { fill, MiB, rawNode, Scratch } from '../../helpers/scratch.js'
import { pace } from '../../helpers/waiting.js'
import { scriptedDaemon } from '../control/scripted-daemon.js'

const SIZE = 8 * MiB
const KiB = 1024

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())

/** A client that writes to its part of the image over one connection. */
class Writer {
  requests = 0
  stopped = false
  readonly #local: string
  readonly #model: Buffer
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1 })

  /** @param model  of the whole image: what was answered is written there */
  constructor(local: string, model: Buffer) {
    this.#local = local
    this.#model = model
  }

  /** Pieces of one length at places of its own, which it also reads. */
  async run(from: number, length: number, below: (most: number) => number): Promise<void> {
    while (!this.stopped) {
      const at = from + below(MiB / length) * length
      const bytes = Buffer.alloc(length, 1 + below(255))
      const range = { 'content-range': `bytes ${at}-${at + length - 1}/*` }
      await this.#ask('PUT', 'x?flush=n', range, bytes, 200)
      bytes.copy(this.#model, at)
      const read = await this.#ask('GET', 'x', { range: `bytes=${at}-${at + length - 1}` }, undefined, 206)
      if (!read.equals(bytes)) throw new Error(`${length} bytes at ${at} are not what was written`)
      this.requests++
    }
    this.#agent.destroy()
  }

  async #ask(
    method: string,
    path: string,
    head: Record<string, string>,
    body: Buffer | undefined,
    wanted: number,
  ) {
    const { status, text, bytes } = await request(
      this.#local,
      method,
      `/images/${path}`,
      head,
      body,
      this.#agent,
    )
    if (status !== wanted) throw new Error(`${method}: ${status} ${text}`)
    return bytes
  }
}

async function exportsOf(client: QmpClient): Promise<unknown> {
  return await client.execute('query-block-exports')
}

async function namesOf(client: QmpClient): Promise<string[]> {
  const nodes = (await client.execute('query-named-block-nodes')) as { 'node-name': string }[]
  return nodes.map((node) => node['node-name']).filter((name) => !name.startsWith('#'))
}

const noImages = installed('qemu-img') ? false : 'no qemu-img'
for (const { format, more, skip } of [
  { format: 'raw', more: {}, skip: false },
  { format: 'raw', more: { 'copy-mode': 'write-blocking' }, skip: false },
  { format: 'qcow2', more: {}, skip: noImages },
])
  t.test(`clients go on with a target in ${format} ${JSON.stringify(more)}`, { skip }, async (t) => {
    fill(scratch.file('src'), SIZE)
    const model = readFileSync(scratch.file('src'))
    await using daemon = await ImagesDaemon.start(scratch)
    const client = await QmpClient.connect(scratch.file('qmp'))
    await client.execute('blockdev-add', rawNode('src', scratch.file('src')))
    const image = { type: 'x-images', id: 'x', 'node-name': 'src', writable: true }
    await client.execute('block-export-add', image)
    const seed = newSeed()
    t.comment(`seed ${seed}`)
    const below = random(seed)
    const writers = [64, 4, 4, 128].map((length) => ({ length, writer: new Writer(daemon.local, model) }))
    const running = Promise.all(
      writers.map(({ length, writer }, index) => writer.run(index * 2 * MiB, length * KiB, below)),
    )
    running.catch(() => undefined)
    const goOn = async () => {
      const enough = writers.map(({ writer }) => writer.requests + 60)
      while (writers.some(({ writer }, index) => writer.requests < (enough[index] ?? 0)))
        await Promise.race([pace(5), running])
    }
    await goOn()
    await client.execute('drive-mirror', {
      ...{
        'job-id': 'j',
        device: 'src',
        target: scratch.file('tgt'),
        sync: 'full',
        format,
        'node-name': 'tgt',
      },
      ...more,
    })
    await Promise.race([client.event('BLOCK_JOB_READY'), running])
    await client.execute('job-complete', { id: 'j' })
    t.equal((await client.event('BLOCK_JOB_COMPLETED')).data.error, undefined)
    await client.status('j', 'null')
    t.match(await exportsOf(client), [
      { id: 'x', type: 'x-images', 'node-name': 'tgt', 'shutting-down': false },
    ])
    await goOn()
    await client.execute('blockdev-del', { 'node-name': 'src' })
    await goOn()
    for (const { writer } of writers) writer.stopped = true
    await running
    t.ok((await daemon.images('GET', 'x')).bytes.equals(model))
    t.equal((await daemon.images('PATCH', 'x', {}, '{"op":"flush"}')).status, 200)
    if (format === 'raw') t.ok(readFileSync(scratch.file('tgt')).equals(model))
    t.notOk(readFileSync(scratch.file('src')).equals(model), 'the source stayed behind')
    await client.execute('block-export-del', { id: 'x', mode: 'hard' })
    await client.event('BLOCK_EXPORT_DELETED')
    while ((await namesOf(client)).length > 0) await pace(5)
    client.close()
  })

t.test('an image is on the target also when its source was left while it was being opened', async (t) => {
  const daemon = scriptedDaemon()
  await daemon.listenImages({
    service: 'local',
    address: { kind: 'unix', path: scratch.file('own'), mode: 0o600 },
  })
  for (const name of ['src', 'dst'])
    await daemon.run('blockdev-add', {
      driver: 'raw',
      'node-name': name,
      file: { driver: 'file', filename: name },
    })
  const [worker] = daemon.workers
  daemon.held = (_worker, name) => name === 'image-add'
  const adding = daemon.run('block-export-add', { type: 'x-images', id: 'x', 'node-name': 'src' })
  const asked = worker?.asked.find(({ name }) => name === 'image-add')
  const { key } = (asked?.args ?? {}) as { key: number }
  worker?.say({ kind: 'image-moved', key, node: 'dst' })
  asked?.answer()
  await adding
  t.match(await daemon.run('query-block-exports', {}), [{ id: 'x', 'node-name': 'dst' }])
  await t.rejects(daemon.run('blockdev-del', { 'node-name': 'dst' }), { message: 'Node dst is in use' })
  await daemon.run('blockdev-del', { 'node-name': 'src' })
  await daemon.shutdown(1000)
})
