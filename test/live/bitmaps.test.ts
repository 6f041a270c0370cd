// SPDX-License-Identifier: Apache-2.0
// Dirty bitmaps as managers and NBD clients meet them: followed through a served disk, shown by nbdinfo, moved between
// threads, and never believed after the daemon was killed.

import { spawnSync } from 'node:child_process'
import type { Test } from 'tap'
import t from 'tap'
import { mustQemuImg, oracle, qemuImg } from '../helpers/check-image.js'
import { Daemon } from '../helpers/daemon.js'
import { newSeed, random } from '../helpers/graph.js'
import { installed } from '../helpers/program.js'
import type { QmpClient } from '../helpers/qmp-client.js'
import { MiB, Scratch } from '../helpers/scratch.js'
import { storedBitmaps } from '../helpers/stored-bitmaps.js'
import { deadline, pace } from '../helpers/waiting.js'

const needed = ['qemu-img', 'qemu-io', 'nbdinfo']
const skip = needed.every((program) => installed(program)) ? false : `needs ${needed.join(', ')}`
const SIZE = 16 * MiB

interface Shown {
  readonly name?: string
  readonly count: number
  readonly busy: boolean
  readonly inconsistent?: boolean
}

interface Lab {
  readonly daemon: Daemon
  readonly control: QmpClient
  readonly scratch: Scratch
  readonly uri: (name: string) => string
  image(name: string, more?: Record<string, unknown>): Promise<string>
  shown(node: string): Promise<string[]>
}

async function lab(t: Test): Promise<Lab> {
  const scratch = new Scratch()
  t.teardown(() => scratch[Symbol.dispose]())
  const daemon = await Daemon.start({ directory: scratch.path })
  t.teardown(() => daemon.stop())
  const control = daemon.client
  const path = scratch.file('nbd.sock')
  await control.execute('nbd-server-start', { addr: { type: 'unix', data: { path } } })
  return {
    ...{ daemon, control, scratch, uri: (name) => `nbd+unix:///${name}?socket=${path}` },
    async image(name, more = {}) {
      const filename = scratch.file(`${name}.qcow2`)
      mustQemuImg('create', '-q', '-f', 'qcow2', filename, String(SIZE))
      const file = { driver: 'file', filename }
      await control.execute('blockdev-add', { driver: 'qcow2', 'node-name': name, file, ...more })
      return filename
    },
    async shown(node) {
      const nodes = (await control.execute('query-named-block-nodes')) as readonly {
        'node-name': string
        'dirty-bitmaps'?: readonly Shown[]
      }[]
      const found = nodes.find((each) => each['node-name'] === node)?.['dirty-bitmaps'] ?? []
      return found.map(({ name, count, busy, inconsistent }) =>
        [name, count, ...(busy ? ['busy'] : []), ...(inconsistent ? ['inconsistent'] : [])].join(' '),
      )
    },
  }
}

function write(uri: string, ...ranges: (readonly [number, number])[]): void {
  const commands = ranges.flatMap(([offset, length]) => ['-c', `write -q ${offset} ${length}`])
  const { status, stderr } = spawnSync('qemu-io', ['-f', 'raw', ...commands, uri], { encoding: 'utf8' })
  if (status !== 0) throw new Error(stderr)
}

/** Removes an export; its last client may be leaving still. */
async function unserve(control: QmpClient, id: string): Promise<void> {
  await control.execute('block-export-del', { id, mode: 'hard' })
  using clock = deadline(10_000)
  while (!clock.over && ((await control.execute('query-block-exports')) as unknown[]).length > 0)
    await pace(5)
}

/** Dirty ranges as nbdinfo sees them. */
function mapped(uri: string, context: string): string[] {
  const { status, stdout, stderr } = spawnSync('nbdinfo', ['--json', `--map=${context}`, uri], {
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(stderr)
  const extents = JSON.parse(stdout) as readonly { offset: number; length: number; type: number }[]
  return extents.filter(({ type }) => type === 1).map(({ offset, length }) => `${offset}+${length}`)
}

/** Neighbouring chunks as ranges. */
function ranges(chunks: ReadonlySet<number>, granularity: number): string[] {
  const found: { offset: number; length: number }[] = []
  for (const chunk of [...chunks].sort((a, b) => a - b)) {
    const last = found.at(-1)
    if (last !== undefined && last.offset + last.length === chunk * granularity) last.length += granularity
    else found.push({ offset: chunk * granularity, length: granularity })
  }
  return found.map(({ offset, length }) => `${offset}+${length}`)
}

t.test('NBD clients see what is dirty, while it changes', { skip }, async (t) => {
  const { control, image, uri, shown } = await lab(t)
  const seed = newSeed()
  t.comment(`SEED=${seed}`)
  const pick = random(seed)
  await image('disk')
  const bitmaps = [512, 4096, 65536].map((granularity) => ({ granularity, chunks: new Set<number>() }))
  for (const { granularity } of bitmaps)
    await control.execute('block-dirty-bitmap-add', { node: 'disk', name: `g${granularity}`, granularity })
  const names = bitmaps.map(({ granularity }) => `g${granularity}`)
  const options = { type: 'nbd', id: 'e', 'node-name': 'disk', name: 'disk' }
  await control.execute('block-export-add', { ...options, writable: true, bitmaps: names })
  for (let round = 0; round < 6; round++) {
    const written = Array.from({ length: 8 }, () => {
      const offset = pick(SIZE / 512) * 512
      return [offset, Math.min(SIZE - offset, (1 + pick(300)) * 512)] as const
    })
    write(uri('disk'), ...written)
    for (const { granularity, chunks } of bitmaps) {
      for (const [offset, length] of written)
        for (let at = Math.floor(offset / granularity); at * granularity < offset + length; at++)
          chunks.add(at)
      const context = `qemu:dirty-bitmap:g${granularity}`
      t.same(mapped(uri('disk'), context), ranges(chunks, granularity), `${context}, round ${round}`)
    }
  }
  const { stdout } = spawnSync('nbdinfo', ['--json', uri('disk')], { encoding: 'utf8' })
  const told = JSON.parse(stdout).exports[0].contexts as string[]
  t.same(told, ['base:allocation', ...names.map((name) => `qemu:dirty-bitmap:${name}`)])
  const inUse = "Bitmap 'g512' is currently in use by another operation and cannot be used"
  const clear = () => control.execute('block-dirty-bitmap-clear', { node: 'disk', name: 'g512' })
  await t.rejects(clear(), { message: inUse })
  await t.rejects(
    control.execute('block-export-add', {
      ...options,
      id: 'f',
      name: 'f',
      writable: true,
      bitmaps: ['g512'],
    }),
    {
      message: inUse,
    },
  )
  t.match(await shown('disk'), [/^g65536 \d+ busy$/, /^g4096 \d+ busy$/, /^g512 \d+ busy$/])
  await unserve(control, 'e')
  await clear()
})

t.test(
  'an export shows bitmaps of its backing chain, and refuses what it cannot show',
  { skip },
  async (t) => {
    const { control, image, uri, scratch } = await lab(t)
    const base = await image('base')
    await control.execute('block-dirty-bitmap-add', { node: 'base', name: 'below', granularity: 65536 })
    const options = { type: 'nbd', id: 'e', 'node-name': 'base', name: 'base' }
    await control.execute('block-export-add', { ...options, writable: true })
    write(uri('base'), [MiB, 65536])
    await unserve(control, 'e')
    const filename = scratch.file('top.qcow2')
    mustQemuImg('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', filename, String(2 * SIZE))
    const top = { driver: 'qcow2', 'node-name': 'top', backing: 'base', file: { driver: 'file', filename } }
    await control.execute('blockdev-add', top)
    const add = (bitmaps: unknown[], more = {}) =>
      control.execute('block-export-add', { ...options, 'node-name': 'top', name: 'top', bitmaps, ...more })
    await t.rejects(add(['zz']), { message: "Bitmap 'zz' is not found" })
    await t.rejects(add([{ node: 'zz', name: 'zz' }]), { message: "Node 'zz' not found" })
    await t.rejects(add([{ node: 'base', name: 'zz' }]), { message: "Dirty bitmap 'zz' not found" })
    await t.rejects(add(['below']), { message: "Enabled bitmap 'below' incompatible with readonly export" })
    await control.execute('block-dirty-bitmap-disable', { node: 'base', name: 'below' })
    await add(['below'])
    t.same(mapped(uri('top'), 'qemu:dirty-bitmap:below'), [`${MiB}+65536`])
    await unserve(control, 'e')
    await control.execute('nbd-server-add', { device: 'top', name: 'old', bitmap: 'below' })
    t.same(mapped(uri('old'), 'qemu:dirty-bitmap:below'), [`${MiB}+65536`])
  },
)

t.test('bitmaps go with their disks to another thread, and merge across threads', { skip }, async (t) => {
  const { control, image, shown, uri } = await lab(t)
  await image('a')
  await image('b')
  for (const node of ['a', 'b']) {
    await control.execute('block-dirty-bitmap-add', { node, name: node })
    const id = `e-${node}`
    await control.execute('block-export-add', {
      type: 'nbd',
      id,
      'node-name': node,
      name: node,
      writable: true,
    })
    write(uri(node), [node === 'a' ? 0 : MiB, 65536])
    await unserve(control, id)
  }
  await control.execute('block-dirty-bitmap-add', { node: 'a', name: 'both' })
  const bitmaps = ['a', { node: 'b', name: 'b' }]
  await control.execute('block-dirty-bitmap-merge', { node: 'a', target: 'both', bitmaps })
  t.same(await shown('a'), ['both 131072', 'a 65536'])
  const mirror = { 'job-id': 'm', device: 'a', target: 'b', sync: 'none', 'x-auto-complete': true }
  await control.execute('blockdev-mirror', mirror)
  await control.status('m', 'null')
  t.same([await shown('a'), await shown('b')], [['both 131072', 'a 65536'], ['b 65536']])
  const sum = async (node: string, name: string) =>
    await control.execute('x-debug-block-dirty-bitmap-sha256', { node, name })
  t.not(JSON.stringify(await sum('a', 'a')), JSON.stringify(await sum('b', 'b')))
})

t.test('a bitmap is never believed after the daemon was killed', { skip }, async (t) => {
  const first = await lab(t)
  const filename = await first.image('disk')
  for (const more of [{ name: 'b' }, { name: 'still', disabled: true }])
    await first.control.execute('block-dirty-bitmap-add', { node: 'disk', persistent: true, ...more })
  const options = { type: 'nbd', id: 'e', 'node-name': 'disk', name: 'disk', writable: true }
  await first.control.execute('block-export-add', options)
  write(first.uri('disk'), [MiB, 65536])
  first.daemon.running.child.kill('SIGKILL')
  await first.daemon.running.ended(10_000)
  using clock = deadline(10_000)
  while (/lock/.test(qemuImg('info', filename).stderr) && !clock.over) await pace(20)
  t.match(oracle(filename), { corruptions: 0, checkErrors: 0 })
  t.match(storedBitmaps(filename), { b: { inUse: true }, still: { inUse: false } })
  const second = await lab(t)
  const file = { driver: 'file', filename }
  await second.control.execute('blockdev-add', { driver: 'qcow2', 'node-name': 'disk', file })
  t.same(await second.shown('disk'), ['still 0', 'b 0 inconsistent'])
  await second.control.execute('block-dirty-bitmap-remove', { node: 'disk', name: 'b' })
  await second.control.execute('blockdev-del', { 'node-name': 'disk' })
  t.match(storedBitmaps(filename), { still: { inUse: false } })
})

/** A disk and its copy, a bitmap since the copy was made, and some writes since. */
async function copied(t: Test, written: readonly (readonly [number, number])[]) {
  const made = await lab(t)
  const { control, image, scratch, uri } = made
  const source = await image('disk')
  const target = scratch.file('copy.img')
  const mirror = {
    'job-id': 'full',
    device: 'disk',
    target,
    format: 'raw',
    sync: 'full',
    'x-auto-complete': true,
  }
  const writes = async (ranges: readonly (readonly [number, number])[]) => {
    const options = { type: 'nbd', id: 'e', 'node-name': 'disk', name: 'disk', writable: true }
    await control.execute('block-export-add', options)
    write(uri('disk'), ...ranges)
    await unserve(control, 'e')
  }
  await writes([[0, 4 * MiB]])
  await control.execute('drive-mirror', mirror)
  await control.status('full', 'null')
  await control.execute('block-dirty-bitmap-add', { node: 'disk', name: 'b', persistent: true })
  await writes(written)
  const from = { device: 'disk', target, format: 'raw', mode: 'existing', bitmap: 'b' }
  const equal = () => mustQemuImg('compare', '-U', '-f', 'qcow2', '-F', 'raw', source, target)
  return { ...made, source, target, from, writes, equal }
}

t.test('a mirror from a bitmap copies what it marks, and leaves it empty', { skip }, async (t) => {
  const { control, from, equal, shown, source } = await copied(t, [
    [MiB, 65536],
    [9 * MiB, 100],
  ])
  await control.execute('drive-mirror', {
    ...from,
    'job-id': 'm',
    sync: 'incremental',
    'x-auto-complete': true,
  })
  const done = await control.event('BLOCK_JOB_COMPLETED', ({ device }) => device === 'm')
  t.match(done.data, { len: 131072, offset: 131072 })
  await control.status('m', 'null')
  t.match(equal(), /identical/)
  t.same(await shown('disk'), ['b 0'])
  t.match(storedBitmaps(source), { b: { inUse: false, bits: [] } })
})

const ends: readonly { mode: string; cancel: boolean; left: number }[] = [
  { mode: 'on-success', cancel: false, left: 0 },
  { mode: 'on-success', cancel: true, left: 2 },
  { mode: 'always', cancel: false, left: 0 },
  { mode: 'never', cancel: false, left: 2 },
  { mode: 'never', cancel: true, left: 2 },
]
for (const { mode, cancel, left } of ends) {
  const how = cancel ? 'cancelled' : 'completed'
  t.test(`a mirror from a bitmap, ${mode}, ${how}: ${left} chunks stay marked`, { skip }, async (t) => {
    const { control, from, shown } = await copied(t, [[MiB, 65536 * 2]])
    const slow = cancel ? { speed: 1 } : {}
    await control.execute('drive-mirror', {
      ...from,
      ...slow,
      'job-id': 'm',
      sync: 'bitmap',
      'bitmap-mode': mode,
    })
    t.same((await shown('disk')).at(-1), 'b 131072 busy')
    if (cancel) await control.execute('block-job-cancel', { device: 'm', force: true })
    else {
      await control.status('m', 'ready')
      await control.execute('job-complete', { id: 'm' })
    }
    await control.status('m', 'null')
    t.same(await shown('disk'), [`b ${left * 65536}`])
  })
}

t.test('what a mirror cannot do with a bitmap is refused', { skip }, async (t) => {
  const { control, from } = await copied(t, [])
  const cases: readonly [object, string][] = [
    [{ sync: 'incremental', bitmap: 'zz' }, "Bitmap 'zz' could not be found"],
    [{ sync: 'bitmap' }, 'Bitmap sync mode must be given when providing a bitmap'],
    [
      { sync: 'incremental', 'bitmap-mode': 'never' },
      "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'",
    ],
    [{ sync: 'full' }, "Parameter 'bitmap' needs 'sync' to be bitmap or incremental"],
  ]
  for (const [more, message] of cases)
    await t.rejects(control.execute('drive-mirror', { ...from, 'job-id': 'm', ...more }), { message })
})
