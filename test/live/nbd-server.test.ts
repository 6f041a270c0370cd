// SPDX-License-Identifier: Apache-2.0
// The clients that people have against our NBD server: libnbd's and QEMU's tools, and two hundred at once.

import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { connect } from 'node:net'
import type { Test } from 'tap'
import t from 'tap'
import { commands } from '../../protocol/nbd/constants.js'
import { nbdErrors } from '../../protocol/nbd/error-number.js'
import { Daemon } from '../helpers/daemon.js'
import { type NbdClient, negotiate } from '../helpers/nbd/client.js'
import { pattern } from '../helpers/nbd/served.js'
import { installed } from '../helpers/program.js'
import { qemuTools } from '../helpers/qemu-tools.js'
import type { QmpClient } from '../helpers/qmp-client.js'
import { difference, fill, MiB, Scratch } from '../helpers/scratch.js'

t.setTimeout(300_000)
const SIZE = 24 * MiB

const FORMATS = ['raw', 'qcow2'] as const
type Format = (typeof FORMATS)[number]

const libnbd = (program: string) => (installed(program) && installed('qemu-img') ? false : `no ${program}`)

/** Runs a program that must succeed. */
function run(program: string, ...args: string[]): string {
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: 'utf8', timeout: 120_000 })
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${error?.message ?? ''}${stderr}${stdout}`)
  return stdout
}

interface Serving {
  readonly scratch: Scratch
  readonly control: QmpClient
  /** Of an image's format, with data in its first and last MiB and at 5 MiB. */
  image(name: string, format: Format): Promise<string>
  uri(name: string): string
}

/** A daemon with a server, for one test. */
async function serving(t: Test, more: Record<string, unknown> = {}): Promise<Serving> {
  const scratch = new Scratch()
  t.teardown(() => scratch[Symbol.dispose]())
  const daemon = await Daemon.start({ directory: scratch.path })
  t.teardown(async () => {
    const wrong = await daemon.stop()
    if (wrong !== undefined) t.fail(wrong)
  })
  const control = daemon.client
  const path = scratch.file('nbd.sock')
  await control.execute('nbd-server-start', { addr: { type: 'unix', data: { path } }, ...more })
  const uri = (name: string) => `nbd+unix:///${name}?socket=${path}`
  const image = async (name: string, format: Format) => {
    const filename = scratch.file(`${name}.img`)
    run('qemu-img', 'create', '-q', '-f', format, filename, String(SIZE))
    const writes = [0, 5 * MiB, SIZE - MiB].flatMap((at) => ['-c', `write -q -P ${1 + at / MiB} ${at} 1M`])
    run('qemu-io', '-f', format, ...writes, filename)
    const file = { driver: 'file', filename, discard: 'unmap' }
    await control.execute('blockdev-add', { driver: format, 'node-name': name, file, discard: 'unmap' })
    await control.execute('block-export-add', { type: 'nbd', id: name, 'node-name': name, writable: true })
    return filename
  }
  return { scratch, control, image, uri }
}

for (const format of FORMATS) {
  t.test(`nbdinfo tells what a ${format} export is`, { skip: libnbd('nbdinfo') }, async (t) => {
    const { image, uri } = await serving(t)
    const filename = await image('disk', format)
    t.equal(run('nbdinfo', '--size', uri('disk')).trim(), String(SIZE))
    const { exports } = JSON.parse(run('nbdinfo', '--json', uri('disk'))) as { exports: object[] }
    t.match(exports[0], {
      'export-name': 'disk',
      contexts: ['base:allocation'],
      is_read_only: false,
      can_multi_conn: true,
      can_fast_zero: true,
      'export-size': SIZE,
    })
    const map = JSON.parse(run('nbdinfo', '--map', '--json', uri('disk'))) as MapEntry[]
    const known = JSON.parse(
      run('qemu-img', 'map', '-U', '--output=json', '-f', format, filename),
    ) as MapEntry[]
    t.strictSame(holes(map.map(({ type, ...range }) => ({ ...range, zero: type === 3 }))), holes(known))
  })

  for (const { name, how } of [
    { name: 'many at once', how: [] },
    { name: 'one at a time', how: ['--synchronous', '--request-size=32768'] },
  ])
    t.test(`nbdcopy copies a ${format} export both ways, ${name}`, { skip: libnbd('nbdcopy') }, async (t) => {
      const { image, uri, scratch } = await serving(t)
      const filename = await image('disk', format)
      run('nbdcopy', ...how, uri('disk'), scratch.file('out.img'))
      run('qemu-img', 'compare', '-U', '-f', 'raw', '-F', format, scratch.file('out.img'), filename)
      fill(scratch.file('in.img'), SIZE, 7)
      run('nbdcopy', '--flush', ...how, scratch.file('in.img'), uri('disk'))
      run('nbdcopy', ...how, uri('disk'), scratch.file('again.img'))
      t.equal(difference(scratch.file('in.img'), scratch.file('again.img')), undefined)
    })

  for (const tools of qemuTools) {
    const skip = tools.absent || libnbd('qemu-img')
    t.test(`${tools.name} works with a ${format} export`, { skip }, async (t) => {
      const { image, uri, scratch, control } = await serving(t)
      const filename = await image('disk', format)
      const url = uri('disk')
      const io = (...commands: string[]) =>
        tools.run(scratch.path, 'qemu-io', '-f', 'raw', ...commands.flatMap((each) => ['-c', each]), url)
      const said = io(
        'read -P 1 0 1M',
        'read -P 6 5M 1M',
        'write -f -P 9 777 3M',
        'read -P 9 777 3M',
        'write -z 1M 64k',
        'write -z -u 2M 64k',
        'read -P 0 1M 64k',
        'discard 5M 1M',
        'aio_write -P 3 8M 1M',
        'aio_write -P 4 9M 1M',
        'aio_flush',
        'flush',
        'read -P 3 8M 1M',
        'read -P 4 9M 1M',
      )
      t.notMatch(said, /fail|error/i)
      const copy = scratch.file('copy.qcow2')
      tools.run(scratch.path, 'qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', url, copy)
      tools.run(scratch.path, 'qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', url, copy)
      fill(scratch.file('in.img'), SIZE, 3)
      const into = ['convert', '-n', '-f', 'raw', '-O', 'raw', scratch.file('in.img'), url]
      tools.run(scratch.path, 'qemu-img', ...into)
      tools.run(scratch.path, 'qemu-img', 'compare', '-f', 'raw', '-F', 'raw', scratch.file('in.img'), url)
      await control.execute('nbd-server-stop')
      await control.execute('blockdev-del', { 'node-name': 'disk' })
      if (format === 'qcow2') tools.run(scratch.path, 'qemu-img', 'check', '-q', filename)
      run('qemu-img', 'compare', '-f', 'raw', '-F', format, scratch.file('in.img'), filename)
    })
  }
}

for (const format of FORMATS) {
  t.test(`a ${format} export that grows: who comes later sees it`, { skip: libnbd('nbdinfo') }, async (t) => {
    const { image, uri, scratch, control } = await serving(t)
    await image('disk', format)
    const early = await negotiate(connect(scratch.file('nbd.sock')), {
      exportName: 'disk',
      contexts: ['base:allocation'],
    })
    await control.execute('block_resize', { 'node-name': 'disk', size: 2 * SIZE })
    t.equal(run('nbdinfo', '--size', uri('disk')).trim(), String(2 * SIZE))
    run('qemu-io', '-f', 'raw', '-c', `write -P 4 ${2 * SIZE - MiB} 1M`, uri('disk'))
    t.match(run('nbdinfo', '--map', '--totals', uri('disk')), /^ *46137344 .* 3 /m, 'what is new is a hole')
    // Who was there before has agreed on the size it was, and everything inside goes on.
    t.equal((await early.write(SIZE - 512, pattern(0, 512))).error, 0)
    t.equal((await early.read(SIZE - 512, 512)).error, 0)
    t.equal((await early.read(SIZE, 512)).error, nbdErrors.EINVAL)
    t.equal((await early.write(SIZE - 256, pattern(0, 512))).error, nbdErrors.ENOSPC)
    const status = { command: commands.BLOCK_STATUS, offset: 0, length: SIZE }
    const told = (await early.request(status)).status.get(0) ?? []
    t.equal(
      told.reduce((sum, { length }) => sum + length, 0),
      SIZE,
      'not more is told than was asked for',
    )
    early.socket.destroy()
  })
}

t.test('two hundred clients at once are all served', { skip: libnbd('qemu-img') }, async (t) => {
  const { image, scratch, control } = await serving(t, { 'max-connections': 0 })
  await image('disk', 'raw')
  const path = scratch.file('nbd.sock')
  const clients = await Promise.all(
    Array.from({ length: 200 }, () => negotiate(connect(path), { exportName: 'disk' })),
  )
  // The daemon hears of a choice after its client was answered.
  while ((await users(control))[0] !== 200) await new Promise((resolve) => setImmediate(resolve))
  const wrong = await Promise.all(clients.map((client, index) => exchange(client, index)))
  t.strictSame(wrong.filter(Boolean), [])
  for (const { socket } of clients) socket.destroy()
  while ((await users(control))[0] !== 0) await new Promise((resolve) => setImmediate(resolve))
  await control.execute('block-export-del', { id: 'disk' })
})

t.test('clients above the limit are served when others leave', { skip: libnbd('qemu-img') }, async (t) => {
  const { image, scratch } = await serving(t, { 'max-connections': 3 })
  await image('disk', 'raw')
  let served = 0
  const all = Array.from({ length: 30 }, async (_, index) => {
    const client = await negotiate(connect(scratch.file('nbd.sock')), { exportName: 'disk' })
    t.ok(++served <= 30)
    const wrong = await exchange(client, index)
    client.disconnect()
    await client.ended()
    client.socket.destroy()
    return wrong
  })
  t.strictSame((await Promise.all(all)).filter(Boolean), [])
})

t.test(
  'stopping the server ends its clients and removes its socket',
  { skip: libnbd('qemu-img') },
  async (t) => {
    const { image, scratch, control } = await serving(t)
    await image('disk', 'raw')
    const path = scratch.file('nbd.sock')
    const client = await negotiate(connect(path), { exportName: 'disk' })
    const shaking = connect(path)
    await once(shaking, 'data')
    await control.execute('nbd-server-stop')
    await Promise.all([client.ended(), shaking.destroyed || once(shaking, 'close')])
    t.notOk(existsSync(path))
    await control.execute('nbd-server-start', { addr: { type: 'unix', data: { path } } })
    await t.rejects(negotiate(connect(path), { exportName: 'disk' }), /ERR_UNKNOWN/, 'its exports are gone')
  },
)

/** Writes and reads back a part of its own. @returns what is wrong */
async function exchange(client: NbdClient, index: number): Promise<string | undefined> {
  const [offset, length] = [index * 65_536, 50_000]
  const bytes = pattern(offset, length, index)
  const { error } = await client.write(offset, bytes)
  const { data } = await client.read(offset, length)
  return error === 0 && data.equals(bytes) ? undefined : `client ${index}: error ${error} or other bytes`
}

async function users(control: QmpClient): Promise<number[]> {
  const exports = (await control.execute('query-block-exports')) as { 'x-clients': number }[]
  return exports.map((each) => each['x-clients'])
}

interface MapEntry {
  readonly start?: number
  readonly offset?: number
  readonly length: number
  readonly zero?: boolean
  readonly type?: number
}

/** Ranges that read as zeroes, and those that hold data, neighbours joined. */
function holes(entries: readonly MapEntry[]): { length: number; zero: boolean }[] {
  const joined: { length: number; zero: boolean }[] = []
  for (const { length, zero = false } of entries) {
    const last = joined.at(-1)
    if (last?.zero === zero) last.length += length
    else joined.push({ length, zero })
  }
  return joined
}
