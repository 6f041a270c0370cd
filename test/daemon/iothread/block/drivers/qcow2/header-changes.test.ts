// SPDX-License-Identifier: Apache-2.0
// Changes of the header of images that keep the name of their backing file, and bytes nobody knows here, where this
// project would not put them: all of it is there afterwards.

import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import type { BlockNode } from '../../../../../../daemon/iothread/block/node.js'
import { type Header, Incompatible, parseHeader } from '../../../../../../protocol/qcow2/header.js'
import { mustQemuImg, oracle, qemuIo } from '../../../../../helpers/check-image.js'
import { type TestGraph, testGraph } from '../../../../../helpers/graph.js'
import { openImage, refusedByDisk } from '../../../../../helpers/opened-image.js'
import { installed } from '../../../../../helpers/program.js'
import { ImageFile } from '../../../../../helpers/qcow2-image.js'

const KiB = 1024
const BASE = 256 * KiB
const skip = installed('qemu-img') && installed('qemu-io') ? false : 'qemu-img is not installed'
const UNKNOWN = 0x12345678

interface Made {
  readonly version: 2 | 3
  readonly cluster: number
  /** Where the name is put: behind the extensions, at an offset, or at the end of the cluster. */
  readonly place: 'behind' | number | 'end'
}

/** An overlay whose first bytes read as the base's 5s; its disk is as large as one L1 entry of small clusters shows. */
function overlay(t: Test, { version, cluster, place }: Made): string {
  const folder = t.testdir({})
  const [base, file] = [path.join(folder, 'b'), path.join(folder, 'top.qcow2')]
  mustQemuImg('create', '-q', '-f', 'raw', base, `${BASE}`)
  writeFileSync(base, Buffer.alloc(BASE, 5))
  const options = `compat=${version === 2 ? '0.10' : '1.1'},cluster_size=${cluster}`
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', options, '-b', 'b', '-F', 'raw', file, `${BASE}`)
  const image = new ImageFile(file)
  const { headerLength } = image.header
  const end = addExtension(image.bytes.subarray(0, cluster), headerLength)
  const at = place === 'behind' ? end : place === 'end' ? cluster - 1 : place
  image.bytes[at] = 'b'.charCodeAt(0)
  image.set64(8, BigInt(at))
  image.save()
  return file
}

/** One that is not known here, behind the one with the format. @returns the end of the extensions */
function addExtension(bytes: Buffer, from: number): number {
  const at = from + 16
  bytes.fill(0, at)
  bytes.writeUInt32BE(UNKNOWN, at)
  bytes.writeUInt32BE(11, at + 4)
  bytes.write('not known 1', at + 8)
  return at + 8 + 16 + 8
}

type Change = (g: TestGraph, node: BlockNode, image: ImageFile) => Promise<unknown>

const changes: readonly { name: string; only?: 3; before?: (image: ImageFile) => void; change: Change }[] = [
  { name: 'a larger disk', change: (_, node) => node.resize(BASE + 64 * KiB) },
  { name: 'a longer L1 table', change: (_, node) => node.resize(4 * 2 ** 20) },
  { name: 'a smaller disk', change: (_, node) => node.resize(BASE - 64 * KiB) },
  {
    name: 'a bit not known that the first write clears',
    only: 3,
    before: (image) => image.set64(88, 1n << 5n),
    change: (g, node) => g.write(node, 128 * KiB, new Uint8Array(512).fill(1)),
  },
  {
    name: 'the mark of a writer that did not finish',
    only: 3,
    before: (image) => image.set64(72, 1n << BigInt(Incompatible.dirty)),
    change: (g, node) => g.write(node, 128 * KiB, new Uint8Array(512).fill(1)),
  },
]

for (const version of [2, 3] as const)
  for (const cluster of [512, 4096, 65536])
    for (const place of ['behind', cluster === 512 ? 300 : 2048, 'end'] as const)
      for (const { name, only, before, change } of changes) {
        if (only !== undefined && version !== only) continue
        const title = `version ${version}, clusters of ${cluster}, name at ${place}: ${name}`
        t.test(title, { skip }, async (t) => {
          const file = overlay(t, { version, cluster, place })
          const image = new ImageFile(file)
          before?.(image)
          image.save()
          const old = readFileSync(file).subarray(0, cluster)
          const g = testGraph(t)
          const node = await openImage(g, file, backing(file))
          await change(g, node, image)
          await g.graph.remove(node.name)
          const now = readFileSync(file).subarray(0, cluster)
          t.not(now.compare(old), 0, 'it did change')
          t.same(withoutFields(now), withoutFields(old), 'what is no field is as it was')
          t.same(kept(parseHeader(now)), kept(parseHeader(old)))
          t.match(mustQemuImg('info', '--backing-chain', file), /backing file: b /)
          t.match(oracle(file), { corruptions: 0, leaks: 0, checkErrors: 0 })
          qemuIo(file, `read -P 5 0 ${64 * KiB}`, `read -P 5 ${BASE - 80 * KiB} 16k`)
        })
      }

t.test('an image that is marked corrupt keeps the name of its backing file', { skip }, async (t) => {
  const file = overlay(t, { version: 3, cluster: 65536, place: 2048 })
  qemuIo(file, 'write -P 1 0 64k')
  const image = new ImageFile(file)
  // That the write of qemu-io left the name in its place is not taken for granted.
  const at = Number(image.u64(8))
  image.set64(image.l2At(0), (1n << 63n) | 512n)
  image.save()
  const g = testGraph(t)
  const node = await openImage(g, file, backing(file))
  t.ok(await refusedByDisk(g.write(node, 0, new Uint8Array(512))))
  const header = parseHeader(readFileSync(file).subarray(0, 65536))
  t.ok(header.incompatible.has(Incompatible.corrupt))
  t.match(header, { backingFile: 'b' })
  t.equal(Number(new ImageFile(file).u64(8)), at)
})

t.test('the refcount table grows, and the name stays', { skip }, async (t) => {
  const file = overlay(t, { version: 2, cluster: 512, place: 'end' })
  const g = testGraph(t)
  const node = await openImage(g, file, backing(file))
  const before = new ImageFile(file).header.refcountTableOffset
  await node.resize(16 * 2 ** 20)
  for (let at = 4 * 2 ** 20; at < 12 * 2 ** 20; at += 2 ** 20)
    await g.write(node, at, new Uint8Array(2 ** 20))
  await g.graph.remove(node.name)
  const image = new ImageFile(file)
  t.not(image.header.refcountTableOffset, before)
  t.match(image.header, { backingFile: 'b' })
  t.equal(image.u64(8), 511n)
  t.match(oracle(file), { corruptions: 0, leaks: 0, checkErrors: 0 })
  qemuIo(file, `read -P 5 0 ${BASE}`)
})

/** The options of the node below. */
function backing(file: string): Record<string, unknown> {
  const filename = path.join(path.dirname(file), 'b')
  return {
    backing: { driver: 'file', 'node-name': `below${filename.length}`, filename, 'read-only': true },
  }
}

/** Without the fields that a change may concern, but with where the name lies. */
function withoutFields(bytes: Buffer): Buffer {
  const copy = Buffer.from(bytes)
  copy.fill(0, 24, 104)
  return copy
}

function kept(header: Header): Partial<Header> {
  const { backingFile, extensions, unknownFields, headerLength, compatible } = header
  return { backingFile, extensions, unknownFields, headerLength, compatible }
}
