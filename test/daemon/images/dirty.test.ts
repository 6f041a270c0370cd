// SPDX-License-Identifier: Apache-2.0
// Extents of what is dirty: a bitmap of a node that is served, against a model of what was written.

import { spawnSync } from 'node:child_process'
import t from 'tap'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { installed } from '../../helpers/program.js'
import { QmpClient } from '../../helpers/qmp-client.js'
import { empty, fill, MiB, Scratch } from '../../helpers/scratch.js'
import { random } from '../../native/kinds.js'

const skip = installed('qemu-img') ? false : 'no qemu-img'
const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())
const daemon = await ImagesDaemon.start(scratch)
t.teardown(() => daemon[Symbol.asyncDispose]())
const client = await QmpClient.connect(scratch.file('qmp'))
t.teardown(() => client.close())

interface DirtyExtent {
  readonly start: number
  readonly length: number
  readonly dirty: boolean
  readonly zero: boolean
}

/** A qcow2 image and its node of the same name. */
async function node(name: string, size: number, more: readonly string[] = [], shown: object = {}) {
  const make = ['create', '-q', '-f', 'qcow2', ...more, scratch.file(name), String(size)]
  if (spawnSync('qemu-img', make).status !== 0) throw new Error('qemu-img failed')
  const file = { driver: 'file', filename: scratch.file(name) }
  await client.execute('blockdev-add', {
    driver: 'qcow2',
    'node-name': name,
    discard: 'unmap',
    file,
    ...shown,
  })
}

async function serve(node: string, id: string, bitmap?: unknown, writable = true): Promise<void> {
  const what = { type: 'x-images', id, 'node-name': node, writable }
  await client.execute('block-export-add', { ...what, ...(bitmap !== undefined && { bitmap }) })
}

/** Clients that are just going are cut off. */
async function remove(id: string): Promise<void> {
  await client.execute('block-export-del', { id, mode: 'hard' })
  await client.event('BLOCK_EXPORT_DELETED', (data) => data.id === id)
}

async function dirtyExtents(id: string): Promise<readonly DirtyExtent[]> {
  return JSON.parse((await daemon.images('GET', `${id}/extents?context=dirty`)).text)
}

const put = (id: string, offset: number, bytes: Uint8Array) =>
  daemon.images('PUT', `${id}?flush=n`, { 'content-range': `bytes ${offset}-*/*` }, bytes)

t.test('what was written or zeroed is dirty, what was not is not', { skip }, async (t) => {
  await node('shown', MiB)
  await client.execute('block-dirty-bitmap-add', { node: 'shown', name: 'b', granularity: 65536 })
  await serve('shown', 's0', 'b')
  await put('s0', 70000, Buffer.alloc(65536, 1))
  await daemon.images('PATCH', 's0', {}, JSON.stringify({ op: 'zero', offset: 393216, size: 65536 }))
  t.strictSame(await dirtyExtents('s0'), [
    { start: 0, length: 65536, dirty: false, zero: true },
    { start: 65536, length: 131072, dirty: true, zero: false },
    { start: 196608, length: 196608, dirty: false, zero: true },
    { start: 393216, length: 65536, dirty: true, zero: true },
    { start: 458752, length: 589824, dirty: false, zero: true },
  ])
  await remove('s0')
})

t.test('random changes are dirty exactly where a model has them', { skip }, async (t) => {
  const [size, granularity] = [4 * MiB, 4096]
  await node('r', size)
  await client.execute('block-dirty-bitmap-add', { node: 'r', name: 'b', granularity, persistent: true })
  const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 0x7fffffff))
  t.comment(`seed ${seed}`)
  const below = random(seed)
  const content = Buffer.alloc(size)
  for (let cycle = 0; cycle < 4; cycle++) {
    await serve('r', 'random', 'b')
    const dirty = new Set<number>()
    for (let round = 0; round < 40; round++) {
      const start = below(size - 1)
      const length = 1 + below(Math.min(size - start, below(5) === 0 ? 300_000 : 9000))
      const byte = below(3) === 0 ? 0 : 1 + below(255)
      content.fill(byte, start, start + length)
      for (let at = Math.floor(start / granularity); at * granularity < start + length; at++) dirty.add(at)
      const { status } =
        byte === 0
          ? await daemon.images(
              'PATCH',
              'random',
              {},
              JSON.stringify({ op: 'zero', offset: start, size: length }),
            )
          : await put('random', start, Buffer.alloc(length, byte))
      if (status !== 200) t.fail(`round ${round}`)
    }
    const list = await dirtyExtents('random')
    // What is zero may begin inside a chunk; what is dirty may not.
    const chunks: (boolean | 'both')[] = []
    for (const { start, length, dirty } of list)
      for (let at = Math.floor(start / granularity); at * granularity < start + length; at++)
        chunks[at] = (chunks[at] ?? dirty) === dirty ? dirty : 'both'
    t.strictSame(
      chunks,
      Array.from({ length: size / granularity }, (_, at) => dirty.has(at)),
      'chunks that are dirty',
    )
    let end = 0
    for (const [index, { start, length, dirty, zero }] of list.entries()) {
      if (start !== end) t.fail(`a gap at ${end}`)
      end += length
      if (zero && content.subarray(start, end).some((byte) => byte !== 0)) t.fail(`not zero at ${start}`)
      const next = list[index + 1]
      if (next !== undefined && next.dirty === dirty && next.zero === zero) t.fail(`two alike at ${start}`)
    }
    t.equal(end, size, 'to the end of the image')
    await remove('random')
    await client.execute('block-dirty-bitmap-clear', { node: 'r', name: 'b' })
  }
})

t.test('a long list comes in chunks', { skip }, async (t) => {
  const [size, granularity] = [16 * MiB, 4096]
  await node('l', size)
  await client.execute('block-dirty-bitmap-add', { node: 'l', name: 'b', granularity })
  await serve('l', 'long', 'b')
  for (let at = 0; at < size / MiB; at++) await put('long', at * MiB, Buffer.alloc(MiB, 1))
  await remove('long')
  await client.execute('block-dirty-bitmap-clear', { node: 'l', name: 'b' })
  await serve('l', 'long', 'b')
  for (let at = 0; at < size; at += 2 * granularity) await put('long', at, Buffer.alloc(granularity, 2))
  const { status, headers, text } = await daemon.images('GET', 'long/extents?context=dirty')
  t.match({ status, headers }, { status: 200, headers: { 'transfer-encoding': 'chunked' } })
  t.strictSame(
    JSON.parse(text),
    Array.from({ length: size / granularity }, (_, at) => {
      return { start: at * granularity, length: granularity, dirty: at % 2 === 0, zero: false }
    }),
  )
  await remove('long')
})

t.test('what the bitmap of a shorter layer does not reach is dirty', { skip }, async (t) => {
  fill(scratch.file('base'), MiB)
  const base = {
    driver: 'raw',
    'node-name': 'base',
    file: { driver: 'file', filename: scratch.file('base') },
  }
  await client.execute('blockdev-add', base)
  await client.execute('block-dirty-bitmap-add', { node: 'base', name: 'b', granularity: 65536 })
  await node('top', 2 * MiB, ['-b', scratch.file('base'), '-F', 'raw'], { backing: 'base' })
  await serve('top', 'layers', { node: 'base', name: 'b' })
  t.strictSame(await dirtyExtents('layers'), [
    { start: 0, length: MiB, dirty: false, zero: false },
    { start: MiB, length: MiB, dirty: true, zero: true },
  ])
  await remove('layers')
})

t.test('an image without a bitmap has no dirty extents', { skip }, async (t) => {
  await node('none', MiB)
  await serve('none', 'n0')
  t.match(await daemon.images('GET', 'n0/extents?context=dirty'), { status: 404, text: /no dirty extents/ })
  t.match(await daemon.images('GET', 'n0/extents?context=changed'), { status: 400 })
  empty(scratch.file('raw'), MiB)
  await daemon.ticket('file', 'raw', MiB, { dirty: true })
  t.match(await daemon.images('GET', 'file/extents?context=dirty'), { status: 404, text: /no dirty extents/ })
  await remove('n0')
})

t.test('a bitmap that cannot be shown is refused, and nothing is served', { skip }, async (t) => {
  await node('u', MiB)
  await node('other', MiB)
  for (const name of ['b', 'c']) await client.execute('block-dirty-bitmap-add', { node: 'u', name })
  await client.execute('block-dirty-bitmap-add', { node: 'other', name: 'o' })
  await t.rejects(serve('u', 'x', 'nothing'), { message: "Bitmap 'nothing' is not found" })
  await t.rejects(serve('u', 'x', 'b', false), {
    message: "Enabled bitmap 'b' incompatible with readonly export",
  })
  await t.rejects(serve('u', 'x', { node: 'other', name: 'o' }), {
    message: /^Bitmap 'o' of node 'other' cannot be shown by an export of 'u'/,
  })
  t.equal((await daemon.images('OPTIONS', 'x')).status, 403, 'no such ticket')
  await serve('u', 'x', 'b')
  await t.rejects(serve('u', 'y', 'b'), { message: /currently in use/ })
  await t.rejects(client.execute('block-dirty-bitmap-clear', { node: 'u', name: 'b' }), {
    message: /currently in use/,
  })
  await serve('u', 'y', 'c')
  await remove('x')
  await remove('y')
  await client.execute('block-dirty-bitmap-clear', { node: 'u', name: 'b' })
  await client.execute('blockdev-del', { 'node-name': 'u' })
})
