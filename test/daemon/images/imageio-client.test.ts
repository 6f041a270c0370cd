// SPDX-License-Identifier: Apache-2.0
// The client library of oVirt's image server against ours: uploads, downloads, incremental backups, single requests.

import { spawn, spawnSync } from 'node:child_process'
import { statSync, truncateSync } from 'node:fs'
import t from 'tap'
import { imageioAbsent, imageioEnv } from '../../helpers/images/imageio-peer.js'
import { ImagesDaemon } from '../../helpers/images/images-daemon.js'
import { buildFolder, installed } from '../../helpers/program.js'
import { QmpClient } from '../../helpers/qmp-client.js'
import { difference, empty, fill, MiB, Scratch } from '../../helpers/scratch.js'

const folder = process.env.OVIRT_IMAGEIO
const tools = installed('qemu-img') && installed('qemu-nbd') ? false : 'no qemu-img, qemu-nbd'
const skip = imageioAbsent(folder) || tools

const scratch = new Scratch()
t.teardown(() => scratch[Symbol.dispose]())

/** @returns what it told */
async function library(...args: readonly string[]): Promise<unknown> {
  const script = `${buildFolder}../test/helpers/images/imageio-client.py`
  const child = spawn('python3', [script, ...args], { env: imageioEnv(folder ?? '') })
  let [out, err] = ['', '']
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    out += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    err += text
  })
  const status = await new Promise((resolve) => child.once('close', resolve))
  if (status !== 0) throw new Error(err)
  return JSON.parse(out)
}

function qemuImg(...args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync('qemu-img', args, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`qemu-img ${args.join(' ')}: ${stderr}`)
  return stdout
}

/** With data at both ends and a hole between. */
function sample(name: string, size: number): string {
  fill(scratch.file(name), size / 2)
  truncateSync(scratch.file(name), size - MiB)
  const tail = `${scratch.file(name)}.tail`
  fill(tail, MiB, 9)
  spawnSync('dd', [
    `if=${tail}`,
    `of=${scratch.file(name)}`,
    'bs=1M',
    `seek=${size / MiB - 1}`,
    'conv=notrunc',
    'status=none',
  ])
  return scratch.file(name)
}

t.test('the client library of oVirt', { skip }, async (t) => {
  await using daemon = await ImagesDaemon.start(scratch)
  const client = await QmpClient.connect(scratch.file('qmp'))
  t.teardown(() => client.close())
  const url = (id: string) => `${daemon.url}/images/${id}`
  const both = { ops: ['read', 'write'] }

  await t.test('uploads a raw file with holes', async (t) => {
    const source = sample('raw', 200 * MiB)
    empty(scratch.file('target'), 200 * MiB)
    await daemon.ticket('up', 'target', 200 * MiB)
    await library('upload', source, url('up'))
    t.equal(difference(source, scratch.file('target')), undefined)
    t.ok(statSync(scratch.file('target')).blocks <= statSync(source).blocks + 64)
  })

  await t.test('uploads a qcow2 image', async (t) => {
    qemuImg('convert', '-O', 'qcow2', scratch.file('raw'), scratch.file('raw.qcow2'))
    empty(scratch.file('target2'), 200 * MiB)
    await daemon.ticket('up2', 'target2', 200 * MiB, both)
    await library('upload', scratch.file('raw.qcow2'), url('up2'))
    t.equal(difference(scratch.file('raw'), scratch.file('target2')), undefined)
  })

  await t.test('downloads as raw and as qcow2', async (t) => {
    await daemon.ticket('down', 'raw', 200 * MiB, { ops: ['read'] })
    await library('download', url('down'), scratch.file('copy'), 'raw')
    t.equal(difference(scratch.file('raw'), scratch.file('copy')), undefined)
    t.ok(statSync(scratch.file('copy')).blocks <= statSync(scratch.file('raw')).blocks + 64)
    await library('download', url('down'), scratch.file('copy.qcow2'), 'qcow2')
    t.match(qemuImg('compare', scratch.file('raw'), scratch.file('copy.qcow2')), /identical/)
  })

  await t.test('writes, zeroes, reads and flushes', async (t) => {
    for (const size of [4 * MiB, MiB + 512]) {
      const name = `steps${size}`
      empty(scratch.file(name), size)
      await daemon.ticket(name, name, size, both)
      t.match(await library('steps', url(name), String(size)), {
        ...{ size, readers: 8, writers: 8, equal: true, after: 'end' },
      })
      t.equal(statSync(scratch.file(name)).size, size)
    }
  })

  await t.test('computes the same checksum', async (t) => {
    const told = JSON.parse((await daemon.images('GET', 'down/checksum')).text)
    const { algorithm, block_size: blockSize } = told
    t.strictSame(await library('checksum', scratch.file('raw'), algorithm, String(blockSize)), told)
  })

  await t.test('takes what changed into a layer', async (t) => {
    qemuImg('create', '-q', '-f', 'qcow2', scratch.file('disk'), String(16 * MiB))
    const file = { driver: 'file', filename: scratch.file('disk') }
    await client.execute('blockdev-add', { driver: 'qcow2', 'node-name': 'disk', discard: 'unmap', file })
    const serve = (id: string) =>
      client.execute('block-export-add', {
        ...{ type: 'x-images', id, 'node-name': 'disk', writable: true, bitmap: 'b' },
      })
    const put = (id: string, at: number, length: number, byte: number) =>
      daemon.images('PUT', id, { 'content-range': `bytes ${at}-*/*` }, Buffer.alloc(length, byte))
    await client.execute('block-dirty-bitmap-add', { node: 'disk', name: 'b' })
    await serve('full')
    await put('full', 0, 3 * MiB, 1)
    await library('download', url('full'), scratch.file('monday.qcow2'), 'qcow2')
    await client.execute('block-export-del', { id: 'full', mode: 'hard' })
    await client.event('BLOCK_EXPORT_DELETED', ({ id }) => id === 'full')
    await client.execute('block-dirty-bitmap-clear', { node: 'disk', name: 'b' })
    await serve('changed')
    await put('changed', MiB, 65536, 2)
    await put('changed', 8 * MiB, 100, 3)
    await daemon.images('PATCH', 'changed', {}, `{"op": "zero", "offset": ${2 * MiB}, "size": ${MiB}}`)
    t.strictSame(await library('extents', url('changed'), 'dirty'), [
      { start: 0, length: MiB, dirty: false, zero: false },
      { start: MiB, length: 65536, dirty: true, zero: false },
      { start: MiB + 65536, length: MiB - 65536, dirty: false, zero: false },
      { start: 2 * MiB, length: MiB, dirty: true, zero: true },
      { start: 3 * MiB, length: 5 * MiB, dirty: false, zero: true },
      { start: 8 * MiB, length: 65536, dirty: true, zero: false },
      { start: 8 * MiB + 65536, length: 8 * MiB - 65536, dirty: false, zero: true },
    ])
    const layer = [scratch.file('tuesday.qcow2'), 'qcow2', 'incremental', scratch.file('monday.qcow2')]
    await library('download', url('changed'), ...layer)
    const whole = await daemon.images('GET', 'changed')
    qemuImg('convert', '-O', 'raw', scratch.file('tuesday.qcow2'), scratch.file('tuesday'))
    await daemon.ticket('tuesday', 'tuesday', 16 * MiB, { ops: ['read'] })
    t.equal(Buffer.compare((await daemon.images('GET', 'tuesday')).bytes, whole.bytes), 0)
  })
})
