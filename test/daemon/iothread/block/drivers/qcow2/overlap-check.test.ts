// SPDX-License-Identifier: Apache-2.0
// A write that a damaged image leads into one of its own tables: refused, and the image marked, whatever `overlap-check` says, but
// for L2 tables of snapshots, which are looked at when it says so. qemu-io does the same with the same image.

import { spawnSync } from 'node:child_process'
import { copyFileSync, readFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { Incompatible } from '../../../../../../protocol/qcow2/header.js'
import { mustQemuImg, oracle, qemuImg, qemuIo } from '../../../../../helpers/check-image.js'
import { testGraph } from '../../../../../helpers/graph.js'
import { openImage, refusedByDisk } from '../../../../../helpers/opened-image.js'
import { installed } from '../../../../../helpers/program.js'
import { ImageFile } from '../../../../../helpers/qcow2-image.js'

const CLUSTER = 65536
const OFFSET = 0x00ff_ffff_ffff_fe00n
const COPIED = 1n << 63n
const skip = installed('qemu-img') && installed('qemu-io') ? false : 'qemu-img is not installed'

/** An image with a snapshot, a bitmap and its own copy of the L2 table; where its tables are. */
function made(t: Test) {
  const file = path.join(t.testdir({}), 'a.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', file, '8M')
  qemuIo(file, 'write -P 1 0 128k')
  mustQemuImg('snapshot', '-c', 'then', file)
  qemuIo(file, 'write -P 2 0 128k')
  mustQemuImg('bitmap', '--add', file, 'changes')
  const image = new ImageFile(file)
  const { header } = image
  const at = (offset: number) => Number(image.u64(offset) & OFFSET)
  const bitmaps = header.extensions.find(({ type }) => type === 0x23852875)
  const directory = bitmaps === undefined ? 0n : Buffer.from(bitmaps.data).readBigUInt64BE(16)
  const inactiveL1 = at(header.snapshotsOffset)
  const tables = {
    'active-l1': header.l1Offset,
    'active-l2': at(header.l1Offset),
    'refcount-table': header.refcountTableOffset,
    'refcount-block': at(header.refcountTableOffset),
    'snapshot-table': header.snapshotsOffset,
    'inactive-l1': inactiveL1,
    'inactive-l2': at(inactiveL1),
    'bitmap-directory': Number(directory),
  }
  return { file, image, tables }
}

type Table = keyof ReturnType<typeof made>['tables']

/** Writes as qemu-io does it. @returns whether that failed */
function theirs(file: string, options: string): boolean {
  const open = `open -o ${options}${options === '' ? '' : ','}driver=qcow2 ${file}`
  const { stdout, stderr } = spawnSync('qemu-io', ['-c', open, '-c', 'write -P 9 64k 64k'], {
    encoding: 'utf8',
  })
  return /write failed|Input\/output error/.test(stdout + stderr)
}

/** The same here. */
async function ours(t: Test, file: string, check: unknown): Promise<boolean> {
  const g = testGraph(t)
  const node = await openImage(g, file, check === undefined ? {} : { 'overlap-check': check })
  const failed = await refusedByDisk(g.write(node, CLUSTER, new Uint8Array(CLUSTER).fill(9)))
  t.equal(g.log.filter((line) => line.startsWith('corrupted')).length, failed ? 1 : 0)
  t.same(await g.read(node, 0, CLUSTER), new Uint8Array(CLUSTER).fill(2), 'reads go on')
  await g.graph.remove(node.name).catch(() => undefined)
  return failed
}

const isCorrupt = (file: string) => new ImageFile(file).header.incompatible.has(Incompatible.corrupt)

const names: readonly Table[] = [
  ...(['active-l1', 'active-l2', 'refcount-table', 'refcount-block'] as const),
  ...(['snapshot-table', 'inactive-l1', 'bitmap-directory'] as const),
]
const modes = [
  { check: undefined, options: '' },
  { check: 'cached', options: 'overlap-check=cached' },
  { check: 'all', options: 'overlap-check=all' },
  { check: 'none', options: undefined },
  { check: { template: 'none' }, options: undefined },
]

for (const name of names)
  t.test(
    `an entry that leads into the ${name} is not written through, whatever is asked`,
    { skip },
    async (t) => {
      for (const { check, options } of modes) {
        const { file, image, tables } = made(t)
        image.set64(image.l2At(1), COPIED | BigInt(tables[name]))
        image.save()
        const other = `${file}-other`
        copyFileSync(file, other)
        t.ok(await ours(t, file, check), JSON.stringify(check))
        t.ok(isCorrupt(file))
        const there = readFileSync(file).subarray(tables[name], tables[name] + CLUSTER)
        t.notOk(there.equals(Buffer.alloc(CLUSTER, 9)))
        if (options === undefined) continue
        t.ok(theirs(other, options), 'qemu-io refuses it too')
        t.ok(isCorrupt(other))
      }
    },
  )

const ofSnapshots = [
  { check: undefined, options: '', refused: false },
  { check: 'cached', options: 'overlap-check=cached', refused: false },
  { check: 'all', options: 'overlap-check=all', refused: true },
  { check: { 'inactive-l2': true }, options: 'overlap-check.inactive-l2=on', refused: true },
  { check: { template: 'all' }, options: 'overlap-check.template=all', refused: true },
  {
    check: { template: 'all', 'inactive-l2': false },
    options: 'overlap-check.template=all,overlap-check.inactive-l2=off',
    refused: false,
  },
]

for (const { check, options, refused } of ofSnapshots) {
  const what = refused ? 'refused' : 'let through'
  t.test(`a write into an L2 table of a snapshot is ${what}: ${options}`, { skip }, async (t) => {
    const { file, image, tables } = made(t)
    image.set64(image.l2At(1), COPIED | BigInt(tables['inactive-l2']))
    image.save()
    const other = `${file}-other`
    copyFileSync(file, other)
    t.equal(await ours(t, file, check), refused)
    t.equal(isCorrupt(file), refused)
    t.equal(theirs(other, options), refused)
    t.equal(isCorrupt(other), refused)
  })

  t.test(
    `an L2 table of a snapshot without a refcount is ${what} as a new cluster: ${options}`,
    { skip },
    async (t) => {
      const { file, image, tables } = made(t)
      image.set64(image.l2At(1), 0n)
      image.setRefcount(tables['inactive-l2'] / CLUSTER, 0)
      image.save()
      const other = `${file}-other`
      copyFileSync(file, other)
      t.equal(await ours(t, file, check), refused)
      t.equal(isCorrupt(file), refused)
      t.equal(theirs(other, options), refused)
    },
  )
}

t.test('an L2 table of a snapshot that is used as the active one is not changed', { skip }, async (t) => {
  const { file, image, tables } = made(t)
  image.set64(image.l1At(0), COPIED | BigInt(tables['inactive-l2']))
  image.save()
  const g = testGraph(t)
  const node = await openImage(g, file, { 'overlap-check': 'all' })
  t.ok(await refusedByDisk(g.write(node, 0, new Uint8Array(CLUSTER))))
  t.ok(isCorrupt(file))
})

t.test('sound images with snapshots are written with all checks', { skip }, async (t) => {
  const { file } = made(t)
  mustQemuImg('bitmap', '--remove', file, 'changes')
  mustQemuImg('snapshot', '-c', 'again', file)
  const g = testGraph(t)
  const node = await openImage(g, file, { 'overlap-check': 'all' })
  for (let at = 0; at < 1024 * 1024; at += CLUSTER / 2)
    await g.write(node, at, new Uint8Array(CLUSTER / 2).fill(3))
  await node.flush()
  await node.zero(0, CLUSTER, { unmap: true, fast: false })
  await node.discard(2 * CLUSTER, CLUSTER)
  await g.graph.remove(node.name)
  t.match(oracle(file), { corruptions: 0, leaks: 0, checkErrors: 0 })
  t.match(qemuImg('snapshot', '-a', 'then', file), { status: 0, stderr: '' })
  qemuIo(file, 'read -P 1 0 128k')
})
