// SPDX-License-Identifier: Apache-2.0
// Named bitmaps of nodes: what they mark, what commands and jobs make of them, and what is refused.

import t, { type Test } from 'tap'
import { NO_LIMITS } from '../../../../../daemon/common/throttle-limits.js'
import type { BitmapUse } from '../../../../../daemon/iothread/block/bitmaps/bitmap-use.js'
import { DirtyBitmap } from '../../../../../daemon/iothread/block/dirty-bitmap.js'
import type { BlockNode } from '../../../../../daemon/iothread/block/node.js'
import type { BitmapAction, BitmapMode } from '../../../../../daemon/iothread/messages-bitmaps.js'
import { newSeed, random, testGraph } from '../../../../helpers/graph.js'
import { BitmapModel } from './bitmap-model.js'

const KIB = 1024
const SIZE = 4 << 20

const add = (name: string, more: Partial<Extract<BitmapAction, { kind: 'add' }>> = {}): BitmapAction => ({
  ...{ kind: 'add', node: 'n', name, granularity: 4 * KIB, persistent: false, recording: true },
  ...more,
})
const act = (kind: 'remove' | 'clear' | 'enable' | 'disable', name: string, node = 'n'): BitmapAction => ({
  ...{ kind, node, name },
})
const merge = (name: string, ...sources: string[]): BitmapAction => {
  return { kind: 'merge', node: 'n', name, sources: sources.map((source) => ({ node: 'n', name: source })) }
}

async function disk(t: Test, size = SIZE) {
  const g = testGraph(t)
  const node = await g.add({ driver: 'x-memory', 'node-name': 'n', size })
  const { bitmaps } = g.graph
  return { ...g, node, bitmaps, change: (...actions: BitmapAction[]) => bitmaps.change(actions) }
}

const dirty = (node: BlockNode, name: string) => areas(node.bitmaps.get(name).bits)

function areas(bits: DirtyBitmap): string[] {
  const found: string[] = []
  for (let at = 0; ; ) {
    const area = bits.nextDirty(at, 2 ** 40)
    if (area === undefined) return found
    found.push(`${area.offset / KIB}+${area.length / KIB}`)
    at = area.offset + area.length
  }
}

t.test('a bitmap marks writes, zeroes and discards from when it is added', async (t) => {
  const { change, write, node } = await disk(t)
  await write(node, 0, new Uint8Array(4 * KIB))
  await change(add('b'))
  await write(node, 5 * KIB, new Uint8Array(512))
  await node.zero(100 * KIB, 8 * KIB, { unmap: false, fast: false })
  t.same(dirty(node, 'b'), ['4+4', '100+8'])
})

t.test('a bitmap that is disabled marks nothing until it is enabled', async (t) => {
  const { change, write, node, reports } = await disk(t)
  await change(add('b', { recording: false }))
  await write(node, 0, new Uint8Array(512))
  t.same(dirty(node, 'b'), [])
  await change(act('enable', 'b'))
  await write(node, 8 * KIB, new Uint8Array(512))
  await change(act('disable', 'b'))
  await write(node, 16 * KIB, new Uint8Array(512))
  t.same(dirty(node, 'b'), ['8+4'])
  t.same(reports.get('n')?.dirtyBitmaps, [
    {
      ...{ name: 'b', recording: false, persistent: false, busy: false },
      ...{ granularity: 4 * KIB, count: 4 * KIB },
    },
  ])
})

t.test('merging marks whole chunks of the target, whatever the granularities', async (t) => {
  const { change, write, node } = await disk(t)
  await change(add('fine', { granularity: 512 }), add('coarse', { granularity: 64 * KIB }), add('into'))
  await write(node, 70 * KIB, new Uint8Array(512))
  await change(act('clear', 'into'), merge('into', 'fine'))
  t.same(dirty(node, 'into'), ['68+4'])
  await change(merge('into', 'coarse'))
  t.same(dirty(node, 'into'), ['64+64'])
})

t.test('what cannot be done is refused, and nothing is changed then', async (t) => {
  const { change, node, bitmaps, add: addNode } = await disk(t)
  await addNode({ driver: 'x-memory', 'node-name': 'other', size: 2 * SIZE })
  await change(add('b'), add('used'), { ...add('longer'), node: 'other' })
  const use = await bitmaps.take(node, node.bitmaps.get('used'), false)
  const inUse = "Bitmap 'used' is currently in use by another operation and cannot be used"
  const cases: readonly [BitmapAction, string][] = [
    [add('b'), 'Bitmap already exists: b'],
    [add('x'.repeat(1024)), `Bitmap name too long: ${'x'.repeat(1024)}`],
    [add('c', { granularity: 256 }), 'Granularity must be power of 2 and at least 512'],
    [add('c', { granularity: 5000 }), 'Granularity must be power of 2 and at least 512'],
    [{ ...add('c'), node: 'zz' }, "Cannot find device='zz' nor node-name='zz'"],
    [act('remove', 'zz'), "Dirty bitmap 'zz' not found"],
    [act('clear', 'b', 'zz'), "Node 'zz' not found"],
    [act('remove', 'used'), inUse],
    [act('clear', 'used'), inUse],
    [act('enable', 'used'), inUse],
    [act('disable', 'used'), inUse],
    [merge('used', 'b'), inUse],
    [merge('b', 'used'), inUse],
    [merge('b', 'zz'), "Dirty bitmap 'zz' not found"],
    [
      { kind: 'merge', node: 'n', name: 'b', sources: [{ node: 'other', name: 'longer' }] },
      `Bitmaps are of different sizes (destination size is ${SIZE}, source size is ${2 * SIZE}) and can't be merged`,
    ],
  ]
  for (const [action, text] of cases) {
    await t.rejects(change(add('first'), action), { message: text }, `${action.kind}: ${text.slice(0, 60)}`)
    t.equal(node.bitmaps.find('first'), undefined, 'what was done before it is undone')
  }
  await use.release()
  await change(act('clear', 'used'))
})

t.test('an export finds a bitmap by its name below every kind of filter', async (t) => {
  const { add: addNode, graph, node, bitmaps, change } = await disk(t)
  await change(add('b'))
  const target = await addNode({ driver: 'x-memory', 'node-name': 'target', size: SIZE })
  graph.throttleGroup('group', NO_LIMITS)
  const filters = [
    { driver: 'throttle', 'throttle-group': 'group' },
    { driver: 'blkdebug', image: 'n' },
    { driver: 'x-inject', rules: [] },
    { driver: 'copy-before-write', target: target.name },
  ]
  for (const filter of filters) {
    const spec = { 'node-name': filter.driver, ...('image' in filter ? {} : { file: 'n' }), ...filter }
    const above = await addNode(spec)
    const [found] = bitmaps.forExport(above, ['b'], true)
    t.equal(found?.node, node, filter.driver)
  }
  const raw = await addNode({ driver: 'raw', 'node-name': 'raw', file: 'n' })
  t.throws(() => bitmaps.forExport(raw, ['b'], true), { message: "Bitmap 'b' is not found" })
  await graph.remove('copy-before-write')
})

t.test('undoing brings back what was marked before, with what was marked since', async (t) => {
  const { change, write, node, bitmaps } = await disk(t)
  await change(add('b'), add('source'))
  await write(node, 0, new Uint8Array(512))
  const changes = [act('clear', 'b'), merge('b', 'source'), act('remove', 'source')].map((action) =>
    bitmaps.do(action),
  )
  await write(node, 40 * KIB, new Uint8Array(512))
  for (const change of changes.reverse()) change.undo()
  t.same(dirty(node, 'b'), ['0+4', '40+4'])
  t.same(dirty(node, 'source'), ['0+4', '40+4'], 'removed, as long as that could be undone')
})

const ends: readonly { mode: BitmapMode; success: boolean; left?: boolean; shows: readonly string[] }[] = [
  { mode: 'on-success', success: true, shows: ['64+4'] },
  { mode: 'on-success', success: false, left: true, shows: ['0+8', '64+4'] },
  { mode: 'never', success: true, shows: ['0+8', '64+4'] },
  { mode: 'never', success: false, left: true, shows: ['0+8', '64+4'] },
  { mode: 'always', success: true, shows: ['64+4'] },
  { mode: 'always', success: false, left: true, shows: ['4+4', '64+4'] },
  { mode: 'always', success: false, shows: ['0+8', '64+4'] },
]
for (const { mode, success, left, shows } of ends) {
  const how = `${mode}, ${success ? 'success' : 'failure'}${left ? ' with a part left' : ''}`
  t.test(`a job freezes what is dirty and ends: ${how}`, async (t) => {
    const { change, write, node, bitmaps } = await disk(t)
    await change(add('b'))
    await write(node, 0, new Uint8Array(8 * KIB))
    const use = await bitmaps.take(node, node.bitmaps.get('b'), false)
    const frozen = use.freeze()
    await write(node, 64 * KIB, new Uint8Array(512))
    t.same(areas(frozen), ['0+8'])
    const rest = new DirtyBitmap(SIZE, 64 * KIB)
    const fine = new DirtyBitmap(SIZE, 4 * KIB)
    fine.set(4 * KIB, 4 * KIB)
    t.equal(rest.clean, true)
    use.finish(mode, success, left === true ? fine : undefined)
    await use.release()
    t.same(dirty(node, 'b'), shows)
    await write(node, 128 * KIB, new Uint8Array(512))
    t.same(dirty(node, 'b'), [...shows, '128+4'], 'and it is marked again')
  })
}

t.test('while it is frozen its successor is told of too, and takes its place in the list', async (t) => {
  const { change, write, node, bitmaps, reports } = await disk(t)
  await change(add('b'), add('c'))
  await write(node, 0, new Uint8Array(8 * KIB))
  const use = await bitmaps.take(node, node.bitmaps.get('b'), false)
  use.freeze()
  await write(node, 0, new Uint8Array(4 * KIB))
  await change(act('disable', 'c'))
  const shown = () =>
    reports.get('n')?.dirtyBitmaps.map(({ name, busy, count }) => `${name} ${busy} ${count / KIB}`)
  t.same(shown(), ['undefined false 4', 'c false 8', 'b true 8'])
  use.finish('on-success', true)
  await use.release()
  t.same(shown(), ['b false 4', 'c false 8'])
})

t.test('space that was cut off and comes back is dirty, new space is clean', async (t) => {
  const { change, node, graph } = await disk(t)
  await change(add('b'))
  await graph.resize('n', SIZE / 2)
  t.same(dirty(node, 'b'), [])
  await graph.resize('n', 2 * SIZE)
  t.same(dirty(node, 'b'), [`${SIZE / 2 / KIB}+${SIZE / 2 / KIB}`])
  t.equal(node.bitmaps.get('b').bits.length, 2 * SIZE)
})

t.test('the sum of a bitmap is the recorded one', async (t) => {
  const { change, write, node, bitmaps } = await disk(t, 16 << 20)
  await change(add('b', { granularity: 64 * KIB }))
  await write(node, 1 << 20, new Uint8Array(1 << 20))
  t.equal(await bitmaps.sha256('n', 'b'), '0d25eef9047357dd3644649a0bb3acb55efd89ee0e14dca611dfb298d94c2038')
})

t.test('random operations leave what the model says', async (t) => {
  const seed = newSeed()
  t.comment(`SEED=${seed}`)
  const pick = random(seed)
  const { change, write, node, bitmaps, graph } = await disk(t)
  const names = ['a', 'b', 'c', 'd']
  const models = new Map<string, BitmapModel>()
  const uses = new Map<string, BitmapUse>()
  let length = SIZE
  let longest = SIZE
  for (let step = 0; step < 3000; step++) {
    const name = names[pick(names.length)]!
    const model = models.get(name)
    const kind = pick(12)
    if (model === undefined) {
      const granularity = 512 << pick(8)
      const recording = pick(4) > 0
      await change(add(name, { granularity, recording }))
      models.set(name, new BitmapModel(granularity, recording))
    } else if (kind < 5) {
      const offset = pick(length / 512) * 512
      const size = Math.min(length - offset, (1 + pick(64)) * 512)
      await write(node, offset, new Uint8Array(size))
      for (const each of models.values()) each.mark(offset, size)
    } else if (kind === 5 && !model.busy) {
      await change(act('clear', name))
      model.clear()
    } else if (kind === 6 && !model.busy) {
      model.recording = !model.recording
      await change(act(model.recording ? 'enable' : 'disable', name))
    } else if (kind === 7 && !model.busy) {
      const [other] = [...models].filter(([, each]) => !each.busy).slice(pick(3))
      if (other === undefined) continue
      await change(merge(name, other[0]))
      model.merge(other[1], length)
    } else if (kind === 8 && !model.busy) {
      const use = await bitmaps.take(node, node.bitmaps.get(name), false)
      t.same(chunks(use.freeze()), model.chunks)
      uses.set(name, use)
      model.freeze()
    } else if (kind === 9 && model.busy) {
      const use = uses.get(name)!
      const mode = (['on-success', 'never', 'always'] as const)[pick(3)]!
      const success = pick(2) === 0
      const left = use.bitmap.bits.copy()
      const area = left.nextDirty(pick(length), model.granularity * (1 + pick(9)))
      if (area !== undefined) left.clear(area.offset, area.length)
      use.finish(mode, success, left)
      await use.release()
      if (mode === 'never' || (mode === 'on-success' && !success)) model.thaw(undefined)
      else model.thaw(success ? [] : chunks(left))
    } else if (kind === 10 && !model.busy) {
      await change(act('remove', name))
      models.delete(name)
    } else if (kind === 11 && uses.size > 0 && pick(8) === 0) {
      // Only lengths never seen before, which need no memory of what was cut off.
      length = longest + (1 + pick(9)) * 512
      longest = length
      await graph.resize('n', length)
    }
    for (const [name, model] of models) {
      const bitmap = node.bitmaps.get(name)
      if (chunks(bitmap.bits).join() !== model.chunks.join()) {
        t.same(chunks(bitmap.bits), model.chunks, `step ${step}, kind ${kind}, ${name}`)
        return
      }
    }
  }
  for (const use of uses.values()) await use.release()
  t.pass('equal after each step')
})

function chunks(bits: DirtyBitmap): number[] {
  const found: number[] = []
  for (let chunk = 0; chunk < bits.chunks; chunk++)
    if (bits.run(chunk * bits.granularity, bits.length).dirty) found.push(chunk)
  return found
}
