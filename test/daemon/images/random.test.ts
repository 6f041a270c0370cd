// SPDX-License-Identifier: Apache-2.0
// Random requests against a model in memory: some at once on ranges that do not touch, over connections that are kept, on a
// file and on a qcow2 image.

import { spawnSync } from 'node:child_process'
import { Agent } from 'node:http'
import t from 'tap'
import { request } from '../../helpers/images/http-client.js'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { installed } from '../../helpers/program.js'
import { empty, MiB, Scratch } from '../../helpers/scratch.js'
import { random } from '../../native/kinds.js'

const SIZE = 8 * MiB
const LANES = 4
const ROUNDS = 60

interface Kind {
  readonly name: string
  readonly skip: string | false
  /** What the daemon is started with. */
  readonly args: (scratch: Scratch) => readonly string[]
  readonly add: (daemon: ImagesDaemon) => Promise<void>
}

const kinds: readonly Kind[] = [
  {
    name: 'a file',
    skip: false,
    args: (scratch) => {
      empty(scratch.file('disk'), SIZE)
      return []
    },
    add: (daemon) => daemon.ticket('disk', 'disk', SIZE),
  },
  {
    name: 'a qcow2 image',
    skip: installed('qemu-img') ? false : 'no qemu-img',
    args: (scratch) => {
      const { status } = spawnSync('qemu-img', [
        'create',
        '-q',
        '-f',
        'qcow2',
        scratch.file('q'),
        String(SIZE),
      ])
      if (status !== 0) throw new Error('qemu-img failed')
      const node = `qcow2,node-name=q,discard=unmap,file.driver=file,file.filename=${scratch.file('q')}`
      return ['--blockdev', node, '--export', 'x-images,id=disk,node-name=q,writable=on']
    },
    add: async () => undefined,
  },
]

for (const { name, skip, args, add } of kinds)
  t.test(`random requests on ${name} do what a model says`, { skip }, async (t) => {
    using scratch = new Scratch()
    await using daemon = await ImagesDaemon.start(scratch, args(scratch))
    await add(daemon)
    const agent = new Agent({ keepAlive: true, maxSockets: LANES })
    t.teardown(() => agent.destroy())
    const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 0x7fffffff))
    t.comment(`seed ${seed}`)
    const below = random(seed)
    const model = Buffer.alloc(SIZE)
    const ask = (
      method: string,
      headers: Readonly<Record<string, string>>,
      body?: string | Uint8Array,
      query = '',
    ) => request(daemon.local, method, `/images/disk${query}`, headers, body, agent)

    const act = async (offset: number, length: number, kind: number, byte: number) => {
      const end = offset + length
      if (kind < 4) {
        model.fill(byte, offset, end)
        const headers = { 'content-range': `bytes ${offset}-${end - 1}/*` }
        return (await ask('PUT', headers, Buffer.alloc(length, byte), '?flush=n')).status === 200
      }
      if (kind < 6) {
        model.fill(0, offset, end)
        return (await ask('PATCH', {}, JSON.stringify({ op: 'zero', offset, size: length }))).status === 200
      }
      const { status, bytes } = await ask('GET', { range: `bytes=${offset}-${end - 1}` })
      return status === 206 && Buffer.compare(bytes, model.subarray(offset, end)) === 0
    }

    for (let round = 0; round < ROUNDS; round++) {
      // A part for each, so that what one of them reads nobody writes.
      const part = SIZE / LANES
      const acts = Array.from({ length: LANES }, (_, lane) => {
        const start = below(part - 1)
        const aligned = below(2) === 0 ? start - (start % 4096) : start
        const length = 1 + below(Math.min(part - aligned, below(4) === 0 ? part : 20000))
        return act(lane * part + aligned, length, below(8), 1 + below(255))
      })
      if ((await Promise.all(acts)).includes(false)) t.fail(`round ${round}`)
    }
    t.equal(Buffer.compare((await ask('GET', {})).bytes, model), 0, 'all of it is as the model says')
    const extents: { start: number; length: number; zero: boolean }[] = JSON.parse(
      (await ask('GET', {}, undefined, '/extents')).text,
    )
    const lies = extents.filter(
      ({ start, length, zero }) => zero && !model.subarray(start, start + length).every((byte) => byte === 0),
    )
    t.strictSame(lies, [], 'what is said to be zero is')
    t.equal(
      extents.reduce((end, { start, length }) => (start === end ? end + length : -1), 0),
      SIZE,
    )
  })
