// SPDX-License-Identifier: Apache-2.0
// Snapshot tables that are damaged: the disk reads as qemu-img reads it, what single entries lack is repaired as qemu-img
// repairs it, and nothing is freed of a snapshot whose entry leads nowhere.

import { copyFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { checker, comparable, mustQemuImg, oracle, qemuIo } from '../../../../../../helpers/check-image.js'
import { testGraph } from '../../../../../../helpers/graph.js'
import { openImage } from '../../../../../../helpers/opened-image.js'
import { installed } from '../../../../../../helpers/program.js'
import { ImageFile } from '../../../../../../helpers/qcow2-image.js'

const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'

const SIZE = 8 << 20
const CLUSTER = 64 << 10
/** Bytes of an entry as qemu-img writes them: fixed fields, extra data, an ID of 1 and a name of 3 characters. */
const [FIXED, EXTRA, STRINGS, ENTRY] = [40, 24, 4, 72]

interface Damage {
  readonly name: string
  readonly damage: (image: ImageFile, table: number) => void
}

/** A repair completes the entries. */
const mended: readonly Damage[] = [
  { name: 'entries without extra data', damage: (image, table) => withExtra(image, table, 0) },
  { name: 'entries that tell no size of the disk', damage: (image, table) => withExtra(image, table, 8) },
]

/** A repair would lose what belongs to the snapshot. */
const hopeless: readonly Damage[] = [
  { name: 'more entries than there are', damage: (image) => image.set32(60, 5) },
  { name: 'a table in the header', damage: (image) => image.set64(64, 0n) },
  { name: 'a table behind the end', damage: (image) => image.set64(64, 2n ** 40n) },
  { name: 'a table in the L1 table', damage: (image) => image.set64(64, BigInt(image.header.l1Offset)) },
  { name: 'an L1 table that is not aligned', damage: (image, table) => image.set64(table, 12_345n) },
  { name: 'an L1 table behind the end', damage: (image, table) => image.set64(table, 2n ** 40n) },
  { name: 'an L1 table of 16 GiB', damage: (image, table) => image.set32(table + 8, 0x7fff_ffff) },
]

/** Gives both entries so many bytes of extra data. The table is the end of the file. */
function withExtra(image: ImageFile, table: number, extra: number): void {
  const old = Buffer.from(image.bytes.subarray(table, table + 2 * ENTRY))
  image.bytes = Buffer.concat([image.bytes.subarray(0, table), Buffer.alloc(CLUSTER)])
  let at = table
  for (const from of [0, ENTRY]) {
    old.copy(image.bytes, at, from, from + FIXED + Math.min(extra, EXTRA))
    image.set32(at + 36, extra)
    old.copy(image.bytes, at + FIXED + extra, from + FIXED + EXTRA, from + FIXED + EXTRA + STRINGS)
    at += Math.ceil((FIXED + extra + STRINGS) / 8) * 8
  }
}

function damaged(t: Test, { damage }: Damage): string {
  const file = path.join(t.testdir({}), 'a.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', file, String(SIZE))
  qemuIo(file, 'write -P 1 0 1M')
  mustQemuImg('snapshot', '-c', 'one', file)
  qemuIo(file, 'write -P 2 512k 1M')
  mustQemuImg('snapshot', '-c', 'two', file)
  const image = new ImageFile(file)
  damage(image, image.header.snapshotsOffset)
  image.save()
  return file
}

/** Every byte of the disk. */
async function contentOf(t: Test, file: string): Promise<Buffer> {
  const g = testGraph(t)
  const node = await openImage(g, file, { 'read-only': true })
  const pieces: Uint8Array[] = []
  for (let at = 0; at < SIZE; at += 1 << 20) pieces.push(await g.read(node, at, 1 << 20))
  await g.graph.remove(node.name)
  return Buffer.concat(pieces)
}

/** The disk as it was written. */
function expected(): Buffer {
  return Buffer.alloc(SIZE)
    .fill(1, 0, 512 << 10)
    .fill(2, 512 << 10, 1536 << 10)
}

for (const one of [...mended, ...hopeless]) {
  t.test(`the disk beside ${one.name} is read, and the check counts as qemu-img`, { skip }, async (t) => {
    const file = damaged(t, one)
    const { lines: _, ...found } = comparable(await checker(t)(file))
    const { lines: __, ...known } = oracle(file)
    t.same(found, known)
    t.ok(found.corruptions > 0)
    t.ok((await contentOf(t, file)).equals(expected()))
  })
}

async function mends(t: Test, one: Damage, says: string): Promise<void> {
  const file = damaged(t, one)
  const theirs = `${file}.theirs`
  copyFileSync(file, theirs)
  const fixed = await checker(t)(file, 'all')
  t.match(fixed, { corruptions: 0, corruptionsFixed: 2, leaks: 0, checkErrors: 0 })
  t.ok(fixed.lines.includes(says))
  t.match(oracle(file), { corruptions: 0, leaks: 0, checkErrors: 0 })
  t.ok((await contentOf(t, file)).equals(expected()))
  mustQemuImg('check', '-q', '-r', 'all', theirs)
  t.equal(mustQemuImg('snapshot', '-l', file), mustQemuImg('snapshot', '-l', theirs))
  for (const snapshot of ['one', 'two']) {
    for (const each of [file, theirs])
      mustQemuImg('convert', '-O', 'raw', '-l', `snapshot.name=${snapshot}`, each, `${each}.raw`)
    t.match(mustQemuImg('compare', '-f', 'raw', '-F', 'raw', `${file}.raw`, `${theirs}.raw`), 'identical')
  }
  mustQemuImg('snapshot', '-d', 'one', file)
  t.match(oracle(file), { corruptions: 0, leaks: 0, checkErrors: 0 })
}

for (const one of mended) {
  t.test(`a repair mends ${one.name}`, { skip }, async (t) => {
    await mends(t, one, 'Repairing snapshot table entry 0 is incomplete')
  })
}

t.test('a repair leaves out extra data that nobody reads', { skip }, async (t) => {
  const one: Damage = { name: '', damage: (image, table) => withExtra(image, table, 2000) }
  const found = await checker(t)(damaged(t, one))
  t.match(found, { checkErrors: 1, lines: [/Too much extra metadata in snapshot table entry 0/] })
  await mends(t, one, 'Repairing too much extra metadata in snapshot table entry 0 (2000 > 1024)')
})

for (const one of hopeless) {
  t.test(`a repair frees nothing beside ${one.name}`, { skip }, async (t) => {
    const file = damaged(t, one)
    const before = new ImageFile(file).bytes
    const found = await checker(t)(file, 'all')
    t.match(found, { leaksFixed: 0, corruptionsFixed: 0 })
    t.ok(found.corruptions > 0)
    t.ok(found.lines.includes('ERROR the snapshot table is damaged: nothing is repaired'))
    t.ok(new ImageFile(file).bytes.equals(before))
  })
}
