// SPDX-License-Identifier: Apache-2.0
// Snapshot tables beyond what QEMU reads: too many entries, too long a table, bytes between entries that nobody reads. A repair
// leaves behind what qemu-img's does, but cuts off no snapshot that has data.

import { spawnSync } from 'node:child_process'
import { copyFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { checker, mustQemuImg, oracle, qemuIo } from '../../../../../../helpers/check-image.js'
import { installed } from '../../../../../../helpers/program.js'
import { ImageFile } from '../../../../../../helpers/qcow2-image.js'

const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'
const CLUSTER = 64 << 10
const MOST = 65536

t.setTimeout(240_000)

interface Entry {
  readonly id: number
  /** Bytes. */
  readonly extra?: number
  readonly name?: string
  /** It has an L1 table of one entry. */
  readonly data?: true
}

interface Table {
  readonly name: string
  readonly entries: () => Entry[]
  /** How many the header says there are. */
  readonly count?: number
}

function many(count: number, more: Omit<Entry, 'id'> = {}): Entry[] {
  return Array.from({ length: count }, (_, id) => ({ id, ...more }))
}

const mended: readonly Table[] = [
  {
    name: 'entries too many, and data in front of them',
    entries: () => [{ id: 0, data: true }, ...many(MOST + 3).slice(1)],
  },
  { name: 'a table of more than 64 MiB', entries: () => many(1150, { name: 'x'.repeat(60_000) }) },
  {
    name: 'bytes between entries',
    entries: () => [{ id: 0, extra: 100_000 }, { id: 1, data: true }, { id: 2, extra: 2_000_000 }, { id: 3 }],
  },
  { name: 'more than 64 MiB of them', entries: () => many(70, { extra: 2 ** 20 }) },
]

const hopeless: readonly Table[] = [
  { name: 'data in an entry that is one too many', entries: () => [...many(MOST), { id: MOST, data: true }] },
  {
    name: 'data in an entry behind 64 MiB',
    entries: () => [...many(1149, { name: 'x'.repeat(60_000) }), { id: 1149, data: true }],
  },
  { name: 'a number of entries that is wrong', entries: () => [{ id: 0, data: true }], count: 2 ** 32 - 1 },
]

function formatEntry({ id, extra = 16, name = 'n', data }: Entry, l1: number): Buffer {
  const strings = Buffer.from(`${id}${name}`)
  const bytes = Buffer.alloc(Math.ceil((40 + extra + strings.length) / 8) * 8)
  bytes.writeBigUInt64BE(BigInt(l1), 0)
  bytes.writeUInt32BE(data ? 1 : 0, 8)
  bytes.writeUInt16BE(String(id).length, 12)
  bytes.writeUInt16BE(name.length, 14)
  bytes.writeUInt32BE(extra, 36)
  bytes.writeBigUInt64BE(BigInt(1 << 20), 48)
  strings.copy(bytes, 40 + extra)
  return bytes
}

/** The disk has data; the L1 table of snapshots is empty. */
function made(t: Test, { entries, count }: Table): string {
  const file = path.join(t.testdir({}), 'a.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', file, '1M')
  qemuIo(file, 'write -P 1 0 256k')
  const image = new ImageFile(file)
  const l1 = Math.ceil(image.bytes.length / CLUSTER) * CLUSTER
  const list = entries()
  const table = Buffer.concat(list.map((entry) => formatEntry(entry, l1)))
  const clusters = Math.ceil(table.length / CLUSTER)
  image.bytes = Buffer.concat([image.bytes], l1 + (1 + clusters) * CLUSTER)
  table.copy(image.bytes, l1 + CLUSTER)
  image.setRefcount(l1 / CLUSTER, list.filter(({ data }) => data).length)
  for (let index = 1; index <= clusters; index++) image.setRefcount(l1 / CLUSTER + index, 1)
  image.set32(60, count ?? list.length)
  image.set64(64, BigInt(l1 + CLUSTER))
  image.save()
  return file
}

/** In MiBs of text. */
function listOf(file: string): string {
  const { status, stdout } = spawnSync('qemu-img', ['snapshot', '-l', file], {
    encoding: 'utf8',
    maxBuffer: 64 << 20,
  })
  if (status !== 0) throw new Error(`qemu-img snapshot -l ${file} failed`)
  return stdout
}

for (const table of mended)
  t.test(`a repair leaves what qemu-img leaves of ${table.name}`, { skip }, async (t) => {
    const file = made(t, table)
    const theirs = `${file}.theirs`
    copyFileSync(file, theirs)
    t.match(await checker(t)(file), { checkErrors: 1 })
    const { lines: _, linesLeftOut: __, ...found } = await checker(t)(file, 'all')
    const known = oracle(theirs, '-r', 'all')
    t.match(found, {
      checkErrors: 0,
      corruptions: 0,
      leaks: 0,
      corruptionsFixed: known.corruptionsFixed,
      leaksFixed: known.leaksFixed,
    })
    t.ok(found.corruptionsFixed > 0)
    t.match(oracle(file), { corruptions: 0, leaks: 0, checkErrors: 0 })
    t.ok(listOf(file) === listOf(theirs), 'the same snapshots')
    qemuIo(file, 'read -P 1 0 256k')
  })

for (const table of hopeless)
  t.test(`a repair frees nothing beside ${table.name}`, { skip }, async (t) => {
    const file = made(t, table)
    const before = new ImageFile(file).bytes
    const found = await checker(t)(file, 'all')
    t.match(found, { leaksFixed: 0, corruptionsFixed: 0 })
    t.ok(found.corruptions > 0)
    // With many findings the last ones are left out.
    const says = 'ERROR the snapshot table is damaged: nothing is repaired'
    t.ok(found.lines.includes(says) || found.linesLeftOut > 0)
    t.ok(new ImageFile(file).bytes.equals(before))
  })

t.test(
  'extra data that leads behind the end of the file says nothing of where entries are',
  { skip },
  async (t) => {
    const file = made(t, { name: '', entries: () => many(2) })
    const image = new ImageFile(file)
    image.set32(image.header.snapshotsOffset + 36, 100 << 20)
    image.save()
    const found = await checker(t)(file, 'all')
    t.match(found, { checkErrors: 1, lines: [/Too much extra metadata in snapshot table entry 0/] })
    t.ok(new ImageFile(file).bytes.equals(image.bytes))
  },
)
