// SPDX-License-Identifier: Apache-2.0
// New clusters that no table comes to show, because a table cannot be read when it is to be changed: whoever wrote is told,
// what the disk shows stays, and the clusters are free again.

import path from 'node:path'
import t, { type Test } from 'tap'
import { EIO } from '../../../../../../daemon/common/errno.js'
import { IoError } from '../../../../../../daemon/errors.js'
import type { BlockNode } from '../../../../../../daemon/iothread/block/node.js'
import { mustQemuImg, oracle, qemuIo } from '../../../../../helpers/check-image.js'
import { type TestGraph, testGraph } from '../../../../../helpers/graph.js'
import { openImage, refusedByDisk } from '../../../../../helpers/opened-image.js'
import { installed } from '../../../../../helpers/program.js'
import { ImageFile } from '../../../../../helpers/qcow2-image.js'

const KiB = 2 ** 10
const CLUSTER = 4 * KiB
/** What one slice of an L2 table shows. */
const SLICE = (512 / 8) * CLUSTER
/** Two slices of each kind. */
const TINY = { 'l2-cache-entry-size': 512, 'l2-cache-size': 1024, 'refcount-cache-size': 1024 }
const skip = installed('qemu-img') && installed('qemu-io') ? false : 'qemu-img is not installed'

interface Scene {
  readonly g: TestGraph
  readonly filename: string
  readonly node: BlockNode
  readonly file: BlockNode
  /** Reads of this place of the file fail from now on; undefined: of none. */
  fail(place: number | undefined): void
  /** Done before the next write of guest data to the file. */
  beforeData(work: () => Promise<void>): void
}

async function scene(t: Test, prepare: (filename: string) => void, options = ''): Promise<Scene> {
  const filename = path.join(t.testdir({}), 'a.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', `cluster_size=4k${options}`, filename, '4M')
  prepare(filename)
  const g = testGraph(t)
  const node = await openImage(g, filename, TINY)
  const file = g.graph.node(`${node.name}-file`)
  let failing: number | undefined
  let before: (() => Promise<void>) | undefined
  const [read, write] = [file.read.bind(file), file.write.bind(file)]
  file.read = async (offset, into, how) => {
    if (failing !== undefined && offset <= failing && failing < offset + into.length)
      throw new IoError(EIO, 'read', file.name, offset, into.length)
    return await read(offset, into, how)
  }
  file.write = async (offset, from, how) => {
    const work = before
    before = undefined
    await work?.()
    await write(offset, from, how)
  }
  return {
    ...{ g, filename, node, file },
    fail: (place) => {
      failing = place
    },
    beforeData: (work) => {
      before = work
    },
  }
}

/** Has slices of other tables take the room in the cache, then those of some guest offset fail to be read. */
function loseSlice({ g, node, fail, beforeData }: Scene, place: number): void {
  beforeData(async () => {
    const [slot] = g.engine.takeSlots(1) as [number]
    for (const slice of [8, 9, 10, 11]) await node.read(slice * SLICE, { slot, offset: 0, length: 512 })
    g.engine.giveSlots([slot])
    fail(place)
  })
}

const filled = (filename: string) => qemuIo(filename, 'write -P 1 0 4M')
/** Only every other cluster. */
const sparse = (filename: string) =>
  qemuIo(filename, ...Array.from({ length: 256 }, (_, index) => `write -P 1 ${index * 16}k 4k`))

async function clean(t: Test, { g, node, filename }: Scene): Promise<void> {
  await g.graph.remove(node.name)
  t.match(oracle(filename), { corruptions: 0, leaks: 0, checkErrors: 0 })
}

t.test('the place of data whose table cannot be read again is free', { skip }, async (t) => {
  const s = await scene(t, sparse)
  loseSlice(s, new ImageFile(s.filename).l2At(0))
  await t.rejects(s.g.write(s.node, CLUSTER, new Uint8Array(CLUSTER).fill(2)), { code: 'EIO' })
  s.fail(undefined)
  t.same(await s.g.read(s.node, CLUSTER, CLUSTER), new Uint8Array(CLUSTER), 'it shows what it showed')
  await clean(t, s)
})

t.test('its place is the next one that is used', { skip }, async (t) => {
  const s = await scene(t, sparse)
  loseSlice(s, new ImageFile(s.filename).l2At(0))
  const writes: number[] = []
  const { write } = s.file
  s.file.write = async (offset, from, how) => {
    writes.push(offset)
    await write(offset, from, how)
  }
  await t.rejects(s.g.write(s.node, CLUSTER, new Uint8Array(CLUSTER).fill(2)), { code: 'EIO' })
  s.fail(undefined)
  await s.g.write(s.node, CLUSTER, new Uint8Array(CLUSTER).fill(3))
  t.equal(writes.length, 2)
  t.equal(writes[0], writes[1])
  t.same(await s.g.read(s.node, CLUSTER, CLUSTER), new Uint8Array(CLUSTER).fill(3))
  await clean(t, s)
})

t.test('of packed clusters in two slices what was shown stays, the rest is free', { skip }, async (t) => {
  const s = await scene(t, sparse)
  loseSlice(s, new ImageFile(s.filename).l2At(SLICE / CLUSTER))
  const at = SLICE - CLUSTER
  const [slot] = s.g.engine.takeSlots(1) as [number]
  s.g.engine.slotBytes(slot).fill(2, 0, 2 * CLUSTER)
  const from = { slot, offset: 0, length: 2 * CLUSTER }
  await t.rejects(s.node.write(at, from, { compressed: true }), { code: 'EIO' })
  s.g.engine.giveSlots([slot])
  s.fail(undefined)
  t.same(await s.g.read(s.node, at, CLUSTER), new Uint8Array(CLUSTER).fill(2))
  t.same(await s.g.read(s.node, SLICE, CLUSTER), new Uint8Array(CLUSTER).fill(1))
  await clean(t, s)
})

t.test(
  'a table that cannot be copied leaves no place in use, and harms nobody who gets it',
  { skip },
  async (t) => {
    const s = await scene(t, (filename) => {
      filled(filename)
      mustQemuImg('snapshot', '-c', 'one', filename)
    })
    s.fail(new ImageFile(s.filename).l2At((5 * SLICE) / CLUSTER))
    await t.rejects(s.g.write(s.node, 0, new Uint8Array(CLUSTER).fill(2)), { code: 'EIO' })
    await s.node.flush()
    // The other table.
    const bytes = new Uint8Array(64 * KiB).fill(3)
    await s.g.write(s.node, 8 * SLICE, bytes)
    await s.node.flush()
    s.fail(undefined)
    t.same(await s.g.read(s.node, 8 * SLICE, bytes.length), bytes)
    t.same(await s.g.read(s.node, 0, CLUSTER), new Uint8Array(CLUSTER).fill(1))
    await clean(t, s)
  },
)

/** A disk that gets a longer L1 table, of so many clusters that not all of their counts are in memory at once. */
async function longer(t: Test, fails: (op: 'read' | 'write', length: number) => boolean): Promise<boolean> {
  const filename = path.join(t.testdir({}), 'a.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', filename, '1M')
  const g = testGraph(t)
  const node = await openImage(g, filename, TINY)
  await g.write(node, 0, new Uint8Array(512).fill(1))
  const file = g.graph.node(`${node.name}-file`)
  const [read, write] = [file.read.bind(file), file.write.bind(file)]
  const refuse = (op: 'read' | 'write', offset: number, { length }: { readonly length: number }) => {
    if (fails(op, length)) throw new IoError(EIO, op, file.name, offset, length)
  }
  file.read = async (offset, into, how) => {
    refuse('read', offset, into)
    return await read(offset, into, how)
  }
  file.write = async (offset, from, how) => {
    refuse('write', offset, from)
    await write(offset, from, how)
  }
  const failed = await refusedByDisk(g.graph.resize(node.name, 2 ** 30))
  Object.assign(file, { read, write })
  await g.graph.remove(node.name)
  const { corruptions, checkErrors, leaks } = oracle(filename)
  // What could not be freed when all was done is a leak that nobody is told of.
  t.same(
    { corruptions, checkErrors, leaks: failed ? leaks : 0 },
    { corruptions: 0, checkErrors: 0, leaks: 0 },
  )
  qemuIo(filename, 'read -P 1 0 512')
  return failed
}

t.test('a longer L1 table that cannot be written leaves no place in use', { skip }, async (t) => {
  t.ok(await longer(t, (op, length) => op === 'write' && length > 4096))
})

t.test('nor does one for which something cannot be read, whatever it is', { skip }, async (t) => {
  let [nth, failures] = [0, 0]
  for (let reads = 1; reads > nth; ) {
    nth += 1
    reads = 0
    if (await longer(t, (op) => op === 'read' && ++reads === nth)) failures += 1
  }
  t.ok(failures > 0)
})
