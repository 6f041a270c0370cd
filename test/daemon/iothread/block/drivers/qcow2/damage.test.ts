// SPDX-License-Identifier: Apache-2.0
// Damage met in use: what a write finds is marked and told once, and the rest of the image can still be read. An image
// whose writer did not finish is repaired before it is written.

import { closeSync, openSync, readFileSync, readSync, truncateSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { Incompatible } from '../../../../../../protocol/qcow2/header.js'
import { mustQemuImg, oracle, qemuIo } from '../../../../../helpers/check-image.js'
import { testGraph } from '../../../../../helpers/graph.js'
import { openImage, refusedByDisk } from '../../../../../helpers/opened-image.js'
import { installed } from '../../../../../helpers/program.js'
import { ImageFile, smallImage } from '../../../../../helpers/qcow2-image.js'

const CLUSTER = 4096
const skip = installed('qemu-img') ? false : 'qemu-img is not installed'

t.test('a write that meets damage marks the image, and is told of once', async (t) => {
  const file = path.join(t.testdir({}), 'a.qcow2')
  const image = new ImageFile(file, smallImage())
  image.set64(image.l2At(1), (1n << 63n) | BigInt(5 * CLUSTER + 512))
  image.save()
  const g = testGraph(t)
  const node = await openImage(g, file)
  const bytes = new Uint8Array(CLUSTER).fill(9)
  t.ok(await refusedByDisk(g.read(node, CLUSTER, CLUSTER)), 'reading it fails')
  t.notOk(new ImageFile(file).header.incompatible.has(Incompatible.corrupt), 'and marks nothing')
  for (let round = 0; round < 3; round++) t.ok(await refusedByDisk(g.write(node, CLUSTER, bytes)))
  t.ok(new ImageFile(file).header.incompatible.has(Incompatible.corrupt))
  t.ok(await refusedByDisk(g.write(node, 0, bytes)), 'other writes fail from then on')
  t.same(await g.read(node, 0, CLUSTER), new Uint8Array(CLUSTER).fill(0x5a), 'reads go on')
  t.equal(g.log.filter((line) => line.startsWith('corrupted')).length, 2, 'by the read, and by the write')
  await g.graph.remove(node.name)
  await t.rejects(openImage(g, file), { message: 'qcow2: Image is corrupt; cannot be opened read/write' })
  await openImage(g, file, { 'read-only': true })
})

for (const count of [2n ** 53n, 2n ** 64n - 1n])
  t.test(`a refcount of ${count} is damage, and is not written over`, async (t) => {
    const file = path.join(t.testdir({}), 'a.qcow2')
    const image = new ImageFile(file, smallImage({ refcountOrder: 6 }))
    for (let cluster = 0; cluster < 6; cluster++) image.set64(2 * CLUSTER + cluster * 8, 1n)
    const at = 2 * CLUSTER + 5 * 8
    image.set64(at, count)
    image.save()
    const g = testGraph(t)
    const node = await openImage(g, file)
    await refusedByDisk(node.discard(0, CLUSTER))
    await refusedByDisk(node.flush())
    t.ok(await refusedByDisk(g.write(node, 0, new Uint8Array(CLUSTER))), 'nothing is written any more')
    await refusedByDisk(g.graph.remove(node.name))
    const after = new ImageFile(file)
    t.equal(after.u64(at), count)
    t.ok(after.header.incompatible.has(Incompatible.corrupt))
  })

t.test('a dirty image is repaired before it is written, and left alone before', { skip }, async (t) => {
  const file = path.join(t.testdir({}), 'a.qcow2')
  const image = new ImageFile(file, smallImage({ incompatible: new Set([Incompatible.dirty]) }))
  image.setRefcount(5, 0)
  image.save()
  const before = readFileSync(file)
  const g = testGraph(t)
  const node = await openImage(g, file)
  t.same(await g.read(node, 0, CLUSTER), new Uint8Array(CLUSTER).fill(0x5a))
  t.ok(readFileSync(file).equals(before), 'reading changes nothing')
  await g.write(node, 7 * CLUSTER, new Uint8Array(CLUSTER).fill(3))
  t.notOk(new ImageFile(file).header.incompatible.has(Incompatible.dirty))
  t.same(await g.read(node, 0, CLUSTER), new Uint8Array(CLUSTER).fill(0x5a), 'nothing was lost')
  await g.graph.remove(node.name)
  t.match(oracle(file), { corruptions: 0, leaks: 0, checkErrors: 0 })
})

t.test('encrypted images are refused by the name of their encryption', async (t) => {
  const g = testGraph(t)
  for (const encryption of ['aes', 'luks'] as const) {
    const file = path.join(t.testdir({}), 'a.qcow2')
    new ImageFile(file, smallImage({ encryption })).save()
    await t.rejects(openImage(g, file), { message: `Encrypted images (${encryption}) are not supported` })
  }
})

t.test('an entry that leads into the snapshot table is not written through', async (t) => {
  const file = path.join(t.testdir({}), 'a.qcow2')
  const table = 6 * CLUSTER
  const bytes = smallImage({ snapshotCount: 1, snapshotsOffset: table })
  const image = new ImageFile(file, Buffer.concat([bytes, Buffer.alloc(CLUSTER)]))
  image.setRefcount(6, 1)
  image.bytes.writeUInt16BE(1, table + 12)
  image.set32(table + 36, 16)
  image.bytes.write('1', table + 56)
  image.set64(image.l2At(1), (1n << 63n) | BigInt(table))
  image.save()
  const g = testGraph(t)
  const node = await openImage(g, file)
  t.ok(await refusedByDisk(g.write(node, CLUSTER, new Uint8Array(CLUSTER).fill(9))))
  t.same(readFileSync(file).subarray(table), image.bytes.subarray(table))
})

t.test('allocated subclusters without a host cluster are not read', { skip }, async (t) => {
  const file = path.join(t.testdir({}), 'a.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', 'extended_l2=on,cluster_size=16k', file, '1M')
  qemuIo(file, 'write -P 1 0 16k')
  const image = new ImageFile(file)
  image.set64(image.l2At(1, 16) + 8, 1n)
  image.save()
  const g = testGraph(t)
  const node = await openImage(g, file)
  t.ok(await refusedByDisk(g.read(node, 16384, 512)))
  t.ok(await refusedByDisk(g.write(node, 16384, new Uint8Array(512))))
})

t.test("a data file is not written at another cluster's place", { skip }, async (t) => {
  const folder = t.testdir({})
  const [file, data] = [path.join(folder, 'a.qcow2'), path.join(folder, 'data')]
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', `data_file=${data}`, file, '1M')
  qemuIo(file, 'write -P 1 0 128k')
  const image = new ImageFile(file)
  image.set64(image.l2At(1), 1n << 63n)
  image.save()
  const g = testGraph(t)
  const node = await openImage(g, file, {
    'data-file': { driver: 'file', 'node-name': 'data', filename: data },
  })
  t.ok(await refusedByDisk(g.write(node, 65536, new Uint8Array(65536).fill(9))))
  t.same(await g.read(node, 0, 65536), new Uint8Array(65536).fill(1))
})

t.test('an image with more tables than can be kept in mind is read, not written', async (t) => {
  const file = path.join(t.testdir({}), 'a.qcow2')
  const [count, table] = [600, 6 * CLUSTER]
  const bytes = smallImage({ snapshotCount: count, snapshotsOffset: table })
  const image = new ImageFile(file, Buffer.concat([bytes, Buffer.alloc(count * 64)]))
  for (let index = 0; index < count; index++) {
    const at = table + index * 64
    image.set64(at, BigInt(2 ** 30 + index * 2 ** 26))
    image.set32(at + 8, 2 ** 22)
    image.bytes.writeUInt16BE(1, at + 12)
    image.set32(at + 36, 16)
    image.bytes.write('1', at + 56)
  }
  image.save()
  truncateSync(file, 2 ** 36)
  const g = testGraph(t)
  const node = await openImage(g, file)
  t.same(await g.read(node, 0, CLUSTER), new Uint8Array(CLUSTER).fill(0x5a))
  await t.rejects(g.write(node, 0, new Uint8Array(CLUSTER)), { code: 'EFBIG' })
  t.notOk(new ImageFile(file, readStart(file)).header.incompatible.has(Incompatible.corrupt))
})

function readStart(file: string): Buffer<ArrayBuffer> {
  const fd = openSync(file, 'r')
  const bytes = Buffer.alloc(CLUSTER)
  readSync(fd, bytes)
  closeSync(fd)
  return bytes
}
