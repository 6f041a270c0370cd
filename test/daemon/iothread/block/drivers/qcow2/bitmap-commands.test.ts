// SPDX-License-Identifier: Apache-2.0
// Commands on persistent bitmaps: what is in the image after each, and what QEMU's tools make of it.

import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { IoError } from '../../../../../../daemon/errors.js'
import { PERMISSIONS } from '../../../../../../daemon/iothread/block/driver.js'
import type { BlockNode } from '../../../../../../daemon/iothread/block/node.js'
import type { BitmapAction } from '../../../../../../daemon/iothread/messages-bitmaps.js'
import { parseBitmapDirectory, parseBitmapsExtension } from '../../../../../../protocol/qcow2/bitmaps.js'
import { ExtensionType, parseHeader } from '../../../../../../protocol/qcow2/header.js'
import { mustQemuImg, oracle, qemuImg, qemuIo } from '../../../../../helpers/check-image.js'
import { newSeed, random, testGraph } from '../../../../../helpers/graph.js'
import { openImage } from '../../../../../helpers/opened-image.js'
import { installed } from '../../../../../helpers/program.js'
import { type QemuTools, qemuTools } from '../../../../../helpers/qemu-tools.js'
import { storedBitmaps } from '../../../../../helpers/stored-bitmaps.js'
import { BitmapModel } from '../../bitmaps/bitmap-model.js'

const KiB = 1024
const skip = installed('qemu-img') && installed('qemu-io') ? false : 'qemu-img is not installed'
const WRITER = { use: ['consistent read', 'write'], share: PERMISSIONS } as const
const CLEAN = { corruptions: 0, leaks: 0, checkErrors: 0 }

async function image(t: Test, size = '8M', more: Record<string, unknown> = {}) {
  const file = path.join(t.testdir({}), 'image.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', file, size)
  const g = testGraph(t)
  const node = await openImage(g, file, more)
  const on = (kind: 'remove' | 'clear' | 'enable' | 'disable', name: string): BitmapAction => {
    return { kind, node: node.name, name }
  }
  const add = (name: string, granularity = 4096, recording = true): BitmapAction => {
    return { kind: 'add', node: node.name, name, granularity, persistent: true, recording }
  }
  const merge = (name: string, ...from: string[]): BitmapAction => {
    const sources = from.map((source) => ({ node: node.name, name: source }))
    return { kind: 'merge', node: node.name, name, sources }
  }
  const change = (...actions: BitmapAction[]) => g.graph.bitmaps.change(actions)
  const writing = (at: BlockNode = node) => g.graph.claim('a test', at, WRITER)
  const put = (offset: number, length: number) => g.write(node, offset, new Uint8Array(length).fill(1))
  return { file, g, node, on, add, merge, change, writing, put }
}

t.test('a bitmap added to an image that nobody writes is in it at once', { skip }, async (t) => {
  const { file, add, change, on, g, node } = await image(t)
  await change(add('b'), add('off', 65536, false))
  t.same(storedBitmaps(file), {
    b: { inUse: false, auto: true, bits: [] },
    off: { inUse: false, auto: false, bits: [] },
  })
  t.match(oracle(file), CLEAN)
  t.match(g.reports.get(node.name)?.dirtyBitmaps, [
    { name: 'off', persistent: true, recording: false, granularity: 65536 },
    { name: 'b', persistent: true, recording: true, granularity: 4096 },
  ])
  await change(on('disable', 'b'), on('enable', 'off'))
  t.match(storedBitmaps(file), { b: { auto: false }, off: { auto: true } })
  await change(on('remove', 'b'), on('remove', 'off'))
  t.same(storedBitmaps(file), {})
  t.match(oracle(file), CLEAN)
  t.same(JSON.parse(mustQemuImg('info', '--output=json', file))['format-specific'].data.bitmaps, undefined)
})

t.test('while somebody writes, bitmaps are in use; when he leaves, they are stored', { skip }, async (t) => {
  const { file, add, change, on, writing, put, merge } = await image(t)
  await change(add('b'), add('c', 4096, false))
  const claim = await writing()
  await put(64 * KiB, 8 * KiB)
  t.match(storedBitmaps(file), { b: { inUse: true }, c: { inUse: false } })
  await change(merge('c', 'b'))
  t.match(storedBitmaps(file), { b: { inUse: true }, c: { inUse: true, bits: [] } })
  await change(add('late'), on('remove', 'b'))
  t.same(Object.keys(storedBitmaps(file)), ['c'], 'removing does not wait')
  await put(0, 4 * KiB)
  await claim.release()
  t.same(storedBitmaps(file), {
    c: { inUse: false, auto: false, bits: [16, 17] },
    late: { inUse: false, auto: true, bits: [0] },
  })
  t.match(oracle(file), CLEAN)
})

t.test('a bitmap that was not stored can only be removed', { skip }, async (t) => {
  const { file, add, change, writing, put, g } = await image(t)
  await change(add('b'), add('off', 4096, false))
  const claim = await writing()
  await put(0, 4 * KiB)
  const crashed = `${file}.crashed`
  copyFileSync(file, crashed)
  await claim.release()
  const node = await openImage(g, crashed)
  t.match(g.reports.get(node.name)?.dirtyBitmaps, [
    { name: 'off', recording: false },
    { name: 'b', recording: false, persistent: true, busy: false, inconsistent: true, count: 0 },
  ])
  const text = "Bitmap 'b' is inconsistent and cannot be used"
  for (const kind of ['clear', 'enable', 'disable'] as const)
    await t.rejects(change({ kind, node: node.name, name: 'b' }), { message: text })
  const sources = [{ node: node.name, name: 'b' }]
  await t.rejects(change({ kind: 'merge', node: node.name, name: 'off', sources }), { message: text })
  await t.rejects(g.graph.resize(node.name, 16 << 20), { message: text })
  await g.write(node, 64 * KiB, new Uint8Array(4096).fill(2))
  await g.graph.remove(node.name)
  t.match(storedBitmaps(crashed), { b: { inUse: true }, off: { inUse: false } })
  const again = await openImage(g, crashed)
  await change({ kind: 'remove', node: again.name, name: 'b' })
  t.same(Object.keys(storedBitmaps(crashed)), ['off'])
  await g.graph.resize(again.name, 16 << 20)
  await g.graph.remove(again.name)
  t.match(oracle(crashed), { corruptions: 0, checkErrors: 0 })
})

t.test('bitmaps follow the size of the disk', { skip }, async (t) => {
  const { file, add, change, put, g, node } = await image(t)
  await change(add('b'), add('off', 65536, false))
  await put(0, 4 * KiB)
  await put((8 << 20) - 4 * KiB, 4 * KiB)
  await g.graph.resize(node.name, 4 << 20)
  t.match(storedBitmaps(file), { b: { inUse: false, bits: [0] }, off: { inUse: false } })
  await g.graph.resize(node.name, 64 << 20)
  await g.graph.remove(node.name)
  t.match(oracle(file), CLEAN)
  mustQemuImg('bitmap', '--merge', 'b', file, 'off')
  qemuIo(file, 'write 32M 4k')
  t.equal(storedBitmaps(file).b?.bits.at(-1), (32 << 20) / 4096, 'and QEMU can use them')
})

t.test('a read-only image shows its bitmaps, and they cannot be changed', { skip }, async (t) => {
  const { file, add, change, put, g, node } = await image(t)
  await change(add('b'))
  await put(0, 4 * KiB)
  await g.graph.remove(node.name)
  const bytes = readFileSync(file)
  const ro = await openImage(g, file, { 'read-only': true })
  t.match(g.reports.get(ro.name)?.dirtyBitmaps, [{ name: 'b', recording: true, count: 4096 }])
  const text = "Bitmap 'b' is readonly and cannot be modified"
  for (const kind of ['clear', 'remove'] as const)
    await t.rejects(change({ kind, node: ro.name, name: 'b' }), { message: text })
  await t.rejects(change({ ...add('new'), node: ro.name }), { message: 'Block node is read-only' })
  t.equal(ro.bitmaps.find('new'), undefined)
  const use = await g.graph.bitmaps.take(ro, ro.bitmaps.get('b'), true)
  t.equal(use.bitmap.bits.count, 4096)
  await use.release()
  await g.graph.remove(ro.name)
  t.ok(bytes.equals(readFileSync(file)))
})

t.test('reopening read-only and back keeps every bitmap', { skip }, async (t) => {
  const { file, add, change, put, g, node } = await image(t)
  const memory: BitmapAction = { ...add('memory'), persistent: false } as BitmapAction
  await change(add('b'), memory)
  await put(0, 4 * KiB)
  const spec = (readOnly: boolean) => ({
    driver: 'qcow2',
    'node-name': node.name,
    'read-only': readOnly,
    discard: 'unmap',
    file: {
      ...{ driver: 'file', 'node-name': `${node.name}-file`, filename: file, discard: 'unmap' },
      'read-only': readOnly,
    },
  })
  await g.graph.reopen([spec(true)])
  t.match(storedBitmaps(file), { b: { inUse: false, bits: [0] } })
  t.equal(node.bitmaps.get('memory').bits.count, 4096)
  await t.rejects(change({ kind: 'clear', node: node.name, name: 'b' }), /readonly/)
  await g.graph.reopen([spec(false)])
  await put(8 * KiB, 4 * KiB)
  t.match(storedBitmaps(file), { b: { inUse: true } })
  await g.graph.remove(node.name)
  t.match(storedBitmaps(file), { b: { inUse: false, bits: [0, 2] } })
  t.match(oracle(file), CLEAN)
})

t.test('what other programs did to the bitmaps of an idle image counts', { skip }, async (t) => {
  const { file, add, change, put, node, writing, on } = await image(t)
  await change(add('b'), add('gone'))
  const claim = await writing()
  await put(0, 4 * KiB)
  await claim.release()
  mustQemuImg('bitmap', '--clear', '--remove', file, 'gone')
  mustQemuImg('bitmap', '--clear', file, 'b')
  mustQemuImg('bitmap', '--add', '-g', '8k', file, 'theirs')
  await t.rejects(change(on('clear', 'gone')), { message: "Dirty bitmap 'gone' not found" })
  t.same(
    node.bitmaps.all().map(({ name, bits }) => `${name} ${bits.count}`),
    ['b 0', 'theirs 0'],
  )
  await change(on('disable', 'theirs'))
  t.match(storedBitmaps(file), { b: { bits: [], auto: true }, theirs: { auto: false, inUse: false } })
})

t.test('images that cannot hold a bitmap refuse it', { skip }, async (t) => {
  const { add, change, g, node } = await image(t)
  const folder = t.testdir({})
  const old = path.join(folder, 'old.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', old, '1M')
  const v2 = await openImage(g, old)
  await g.add({ driver: 'x-memory', 'node-name': 'raw', size: 1 << 20 })
  const cases: readonly [BitmapAction, string][] = [
    [
      { ...add('b'), node: v2.name },
      `Can't make bitmap 'b' persistent in '${v2.name}': Cannot store dirty bitmaps in qcow2 v2 files`,
    ],
    [{ ...add('b'), node: 'raw' }, "Can't store persistent bitmaps to raw: Operation not supported"],
    [
      add('x'.repeat(1024)),
      `Can't make bitmap '${'x'.repeat(1024)}' persistent in '${node.name}': Name length exceeds maximum (1023 characters)`,
    ],
  ]
  for (const [action, message] of cases) await t.rejects(change(action), { message })
})

/** Where the image's directory of bitmaps is. */
function directoryOf(bytes: Buffer) {
  const extension = parseHeader(bytes).extensions.find(({ type }) => type === ExtensionType.bitmaps)
  return parseBitmapsExtension(extension?.data ?? new Uint8Array())
}

/** The first write to neither the header nor the directory that is there fails. @param before  done before that */
function newDirectoryFails(file: BlockNode, bytes: Buffer, before: () => Promise<void>): void {
  const write = file.write.bind(file)
  const { directoryOffset } = directoryOf(bytes)
  file.write = async (offset, from, how) => {
    if (offset === 0 || offset === directoryOffset) return write(offset, from, how)
    file.write = write
    await before()
    throw new IoError(5, 'write', file.name, offset, from.length)
  }
}

for (const written of [true, false])
  t.test(
    `a bitmap that cannot be taken out of an image ${written ? 'being written' : 'at rest'} stays as it was`,
    { skip },
    async (t) => {
      const { file, add, change, on, g, node, writing, put } = await image(t)
      await change(add('b'), add('other'))
      const claim = written ? await writing() : undefined
      if (written) await put(0, 4 * KiB)
      newDirectoryFails(g.graph.node(`${node.name}-file`), readFileSync(file), async () => {
        if (written) await put(8 * KiB, 4 * KiB)
      })
      const message = 'Failed to update bitmap extension: Input/output error'
      await t.rejects(change(on('remove', 'b')), { message })
      t.match(g.reports.get(node.name)?.dirtyBitmaps, [
        { name: 'other' },
        { name: 'b', recording: true, busy: false, count: written ? 8 * KiB : 0 },
      ])
      if (written) await put(16 * KiB, 4 * KiB)
      await claim?.release()
      const stored = { inUse: false, auto: true, bits: written ? [0, 2, 4] : [] }
      t.same(storedBitmaps(file), { b: stored, other: stored })
      t.match(oracle(file), CLEAN)
      await change(on('remove', 'b'))
      t.same(Object.keys(storedBitmaps(file)), ['other'])
    },
  )

t.test('a bitmap whose table is damaged cannot be used, but the image can', { skip }, async (t) => {
  const { file, add, change, put, g, node } = await image(t)
  await change(add('b'), add('good'))
  await put(0, 4 * KiB)
  await g.graph.remove(node.name)
  const bytes = readFileSync(file)
  const { directoryOffset, directorySize, count } = directoryOf(bytes)
  const list = parseBitmapDirectory(bytes.subarray(directoryOffset, directoryOffset + directorySize), count)
  bytes.writeBigUInt64BE(0xffn, list.find(({ name }) => name === 'b')?.tableOffset)
  writeFileSync(file, bytes)
  const again = await openImage(g, file)
  t.match(g.reports.get(again.name)?.dirtyBitmaps, [
    { name: 'good', count: 4096 },
    { name: 'b', inconsistent: true },
  ])
  t.match(g.log, [/corrupted .*Invalid bitmap table entry of bitmap 'b'/])
  await g.write(again, 8 * KiB, new Uint8Array(4096).fill(1))
  await g.graph.remove(again.name)
  t.match(storedBitmaps(file).good, { inUse: false, bits: [0, 2] })
})

for (const tools of qemuTools) {
  t.test(`random work leaves what ${tools.name} would have left`, { skip: tools.absent }, async (t) => {
    await randomWork(t, tools)
  })
}

async function randomWork(t: Test, tools: QemuTools): Promise<void> {
  const seed = newSeed()
  t.comment(`SEED=${seed}`)
  const pick = random(seed)
  const { file, g, node: first, add, on, merge, change } = await image(t, '2M')
  let node = first
  const here = (action: BitmapAction) => ({ ...action, node: node.name }) as BitmapAction
  const models = new Map<string, BitmapModel>()
  const folder = path.dirname(file)
  for (let step = 0; step < 150; step++) {
    const name = ['a', 'b', 'c'][pick(3)]!
    const model = models.get(name)
    const offset = pick(4096) * 512
    const length = Math.min((2 << 20) - offset, (1 + pick(40)) * 512)
    const kind = pick(9)
    if (model === undefined) {
      const granularity = 512 << pick(8)
      await change(here(add(name, granularity)))
      models.set(name, new BitmapModel(granularity, true))
    } else if (kind < 3) {
      const claim = await g.graph.claim('a test', node, WRITER)
      await g.write(node, offset, new Uint8Array(length).fill(1))
      for (const each of models.values()) each.mark(offset, length)
      if (pick(2) === 0) await change({ ...here(on('clear', name)) }).then(() => model.clear())
      await claim.release()
    } else if (kind === 3) {
      // The other writes, between two uses of the image.
      await g.graph.remove(node.name)
      tools.run(folder, 'qemu-io', '-f', 'qcow2', '-c', `write ${offset} ${length}`, file)
      for (const each of models.values()) each.mark(offset, length)
      node = await openImage(g, file)
    } else if (kind === 4) {
      tools.run(folder, 'qemu-img', 'bitmap', model.recording ? '--disable' : '--enable', file, name)
      model.recording = !model.recording
    } else if (kind === 5) {
      const [other] = [...models].slice(pick(models.size))
      if (other === undefined || other[0] === name) continue
      const source = { node: node.name, name: other[0] }
      await change({ ...here(merge(name)), sources: [source] } as BitmapAction)
      model.merge(other[1], 2 << 20)
    } else if (kind === 6) {
      await change(here(on('remove', name)))
      models.delete(name)
    } else if (kind === 7) {
      model.recording = !model.recording
      await change(here(on(model.recording ? 'enable' : 'disable', name)))
    } else {
      tools.run(folder, 'qemu-img', 'bitmap', '--clear', file, name)
      model.clear()
    }
    const expected = Object.fromEntries(
      [...models].map(([name, { recording, chunks }]) => {
        return [name, { inUse: false, auto: recording, bits: chunks }]
      }),
    )
    const found = storedBitmaps(file)
    if (JSON.stringify(sorted(found)) !== JSON.stringify(sorted(expected))) {
      t.same(found, expected, `step ${step}, kind ${kind}, ${name}`)
      return
    }
  }
  await g.graph.remove(node.name)
  t.match(oracle(file), CLEAN)
  t.equal(qemuImg('info', file).status, 0)
}

function sorted(bitmaps: Record<string, unknown>): [string, unknown][] {
  return Object.entries(bitmaps).sort(([a], [b]) => (a < b ? -1 : 1))
}
