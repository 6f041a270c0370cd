// SPDX-License-Identifier: Apache-2.0
// Requests at once on one qcow2 image over slow storage: a reader sees each sector as it was or as it was just being
// written, never anything else; and no two clusters share a place. SEED=n repeats, ORACLE_ROUNDS=n runs as many.

import { writeFileSync } from 'node:fs'
import { setImmediate } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { BlockNode } from '../../../../../../daemon/iothread/block/node.js'
import { mustQemuImg, oracle } from '../../../../../helpers/check-image.js'
import { newSeed, random, type TestGraph, testGraph } from '../../../../../helpers/graph.js'
import { installed } from '../../../../../helpers/program.js'
import { Scratch } from '../../../../../helpers/scratch.js'
import type { Random } from './oracle-case.js'
import { Stamps, stamp, ZERO } from './stamps.js'

const skip = installed('qemu-img') ? false : 'qemu-img is not installed'
const first = newSeed()
const rounds = process.env.SEED === undefined ? Number(process.env.ORACLE_ROUNDS ?? 6) : 1
const SIZE = 1 << 20
const WRITERS = 3
const READERS = 2

interface Slow {
  readonly image: string
  readonly g: TestGraph
  readonly node: BlockNode
}

/** An image over storage that answers late, and later at some times than at others. */
async function slowImage(t: Test, rnd: Random, options: string, backing: boolean): Promise<Slow> {
  const scratch = new Scratch()
  t.teardown(() => scratch[Symbol.dispose]())
  const image = scratch.file('disk.qcow2')
  const base = scratch.file('base.raw')
  const bytes = Buffer.alloc(SIZE)
  stamp(bytes, 0, BASE)
  writeFileSync(base, bytes)
  const below = backing ? ['-b', base, '-F', 'raw'] : []
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', options, ...below, image, String(SIZE))
  const rules = Array.from({ length: 40 }, (_, index) => ({
    op: ['read', 'write', 'flush', 'zero'][index % 4],
    nth: 1 + rnd(300),
    count: 1 + rnd(50),
    'delay-ms': rnd(5),
  }))
  const g = testGraph(t, 'threads')
  const node = await g.add({
    driver: 'qcow2',
    'node-name': 'disk',
    discard: 'unmap',
    'l2-cache-entry-size': 512,
    'l2-cache-size': rnd(2) === 0 ? 1024 : 65536,
    'refcount-cache-size': rnd(2) === 0 ? 1024 : 65536,
    file: {
      driver: 'x-inject',
      'node-name': 'slow',
      file: { driver: 'file', 'node-name': 'f', filename: image },
      rules,
    },
    backing: backing
      ? {
          driver: 'raw',
          'node-name': 'base',
          'read-only': true,
          file: { driver: 'file', 'node-name': 'b', filename: base },
        }
      : null,
  })
  return { image, g, node }
}

/** Generation of what the backing file has. */
const BASE = 1

interface Traffic {
  readonly rnd: Random
  readonly stamps: Stamps
  readonly node: BlockNode
  readonly g: TestGraph
  readonly clusterSize: number
}

function range(rnd: Random, clusterSize: number): { offset: number; length: number } {
  const sectors = [4, 16, 128, 256][rnd(4)] as number
  const length = Math.min(SIZE, 512 * (1 + rnd(sectors)))
  const offset = 512 * rnd((SIZE - length) / 512 + 1)
  const aligned = offset - (offset % clusterSize)
  return rnd(3) === 0
    ? { offset: aligned, length: Math.min(SIZE - aligned, clusterSize * (1 + rnd(4))) }
    : { offset, length }
}

/** One change after the other, on ranges that nobody else changes meanwhile. */
async function change({ rnd, stamps, node, g, clusterSize }: Traffic, count: number): Promise<void> {
  const [slot] = g.engine.takeSlots(1) as [number]
  for (let done = 0; done < count; done++) {
    const { offset, length } = range(rnd, clusterSize)
    if (!stamps.isQuiet(offset, length)) continue
    const what = rnd(8)
    if (what < 5) {
      const generation = stamps.newGeneration()
      const end = stamps.change(offset, length, generation)
      stamp(g.engine.slotBytes(slot).subarray(0, length), offset, generation)
      await node.write(offset, { slot, offset: 0, length }, what === 0 ? { compressed: true } : {})
      end()
    } else if (what < 7) {
      const end = stamps.change(offset, length, ZERO)
      await node.zero(offset, length, { unmap: what === 5, fast: false })
      end()
    } else {
      const from = Math.ceil(offset / clusterSize) * clusterSize
      const to = Math.floor((offset + length) / clusterSize) * clusterSize
      const end = from < to ? stamps.change(from, to - from, ZERO) : () => {}
      await node.discard(offset, length)
      end()
    }
    if (rnd(10) === 0) await node.flush()
  }
  g.engine.giveSlots([slot])
}

/** Reads until told to stop. @throws with what may not be there */
async function watch({ rnd, stamps, node, g, clusterSize }: Traffic, signal: AbortSignal): Promise<number> {
  const [slot] = g.engine.takeSlots(1) as [number]
  let reads = 0
  for (; !signal.aborted; reads++) {
    const { offset, length } = range(rnd, clusterSize)
    const found = stamps.reading(offset, length)
    await node.read(offset, { slot, offset: 0, length })
    const wrong = found(g.engine.slotBytes(slot).subarray(0, length))
    if (wrong !== undefined) throw new Error(wrong)
    // What is known without storage is read without a turn of the loop.
    await setImmediate()
  }
  g.engine.giveSlots([slot])
  return reads
}

for (let round = 0; round < rounds; round++) {
  const seed = first + round
  t.test(`readers see each sector old or new, seed ${seed}`, { skip }, async (t) => {
    const rnd = random(seed)
    const clusterSize = [512, 4096, 16384, 65536][rnd(4)] as number
    const extended = clusterSize >= 16384 && rnd(2) === 0
    const backing = rnd(2) === 0
    const options = `cluster_size=${clusterSize}${extended ? ',extended_l2=on' : ''}`
    t.comment(options, backing ? 'backed' : '')
    const { image, g, node } = await slowImage(t, rnd, options, backing)
    const stamps = new Stamps(SIZE)
    const base = stamps.newGeneration()
    if (backing) stamps.change(0, SIZE, base)()
    const traffic = { rnd, stamps, node, g, clusterSize }
    const ended = new AbortController()
    const readers = Array.from({ length: READERS }, () => watch(traffic, ended.signal))
    try {
      const writers = Array.from({ length: WRITERS }, () => change(traffic, 60))
      await Promise.race([Promise.all(writers), ...readers])
    } finally {
      ended.abort()
      await Promise.allSettled(readers)
    }
    await Promise.all(readers)
    const found = stamps.reading(0, SIZE)
    t.equal(found(await g.read(node, 0, SIZE)), undefined)
    await node.flush()
    t.match(oracle(image), { corruptions: 0, leaks: 0, checkErrors: 0 })
  })
}

t.test('two writes into one new cluster at once both stay', { skip }, async (t) => {
  for (const backing of [false, true]) {
    const { g, node, image } = await slowImage(t, random(first), 'cluster_size=64k', backing)
    const [one, other] = g.engine.takeSlots(2) as [number, number]
    const stamps = new Stamps(SIZE)
    if (backing) stamps.change(0, SIZE, BASE)()
    stamps.change(512, 1024, 2)()
    stamps.change(8192, 4096, 3)()
    stamp(g.engine.slotBytes(one).subarray(0, 1024), 512, 2)
    stamp(g.engine.slotBytes(other).subarray(0, 4096), 8192, 3)
    await Promise.all([
      node.write(512, { slot: one, offset: 0, length: 1024 }),
      node.write(8192, { slot: other, offset: 0, length: 4096 }),
    ])
    t.equal(stamps.reading(0, 65536)(await g.read(node, 0, 65536)), undefined)
    await node.flush()
    t.match(oracle(image), { corruptions: 0, leaks: 0, checkErrors: 0, allocatedClusters: 1 })
    await g.graph.remove('disk')
  }
})

t.test('a cluster written and discarded at once shares its place with nobody', { skip }, async (t) => {
  const { g, node, image } = await slowImage(t, random(first), 'cluster_size=4k', false)
  const slots = g.engine.takeSlots(4)
  const size = 4096
  const fill = (slot: number, offset: number, generation: number): Promise<void> => {
    stamp(g.engine.slotBytes(slot).subarray(0, size), offset, generation)
    return node.write(offset, { slot, offset: 0, length: size })
  }
  const stamps = new Stamps(SIZE)
  const [slot] = slots as [number]
  for (let turn = 0; turn < 16; turn++) {
    const offset = turn * size * 8
    await fill(slot, offset, 2)
    await Promise.all([fill(slot, offset, 3), node.discard(offset, size), node.flush()])
    // Others get what was freed.
    const others = slots.map((other, index) => {
      const at = offset + size * (index + 1)
      stamps.change(at, size, 10 + turn)()
      return fill(other, at, 10 + turn)
    })
    await Promise.all(others)
    const either = stamps.reading(offset, size)
    stamps.change(offset, size, 3)()
    t.equal(either(await g.read(node, offset, size)), undefined)
    const rest = stamps.reading(offset + size, size * 4)
    t.equal(rest(await g.read(node, offset + size, size * 4)), undefined)
  }
  await node.flush()
  t.match(oracle(image), { corruptions: 0, leaks: 0, checkErrors: 0 })
})
