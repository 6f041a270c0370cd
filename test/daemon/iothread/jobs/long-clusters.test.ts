// SPDX-License-Identifier: Apache-2.0
// Compressed clusters that are longer than a buffer, 2 MiB: a backup and a mirror make them, and both we and qemu-img read them.

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { BlockNode } from '../../../../daemon/iothread/block/node.js'
import { mustQemuImg, oracle, qemuImg } from '../../../helpers/check-image.js'
import { newSeed, random, testGraph } from '../../../helpers/graph.js'
import { GraphJobs } from '../../../helpers/graph-jobs.js'
import { backupSpec, mirrorSpec } from '../../../helpers/iothread.js'
import { openImage } from '../../../helpers/opened-image.js'
import { installed } from '../../../helpers/program.js'

const MiB = 2 ** 20
const skip = installed('qemu-img') ? false : 'qemu-img is not installed'

/** Words, noise and holes; the last cluster is not whole. */
function content(): Buffer {
  const pick = random(newSeed())
  const bytes = Buffer.alloc(19 * MiB + 512, 'words that are shorter when compressed ')
  bytes.fill(0, 4 * MiB, 8 * MiB)
  bytes.fill(0, 9 * MiB, 10 * MiB)
  for (let at = 12 * MiB; at < 14 * MiB; at++) bytes[at] = pick(256)
  return bytes
}

async function disks(t: Test, compression: string) {
  const folder = t.testdir({})
  const [raw, image] = [join(folder, 'raw'), join(folder, 'image')]
  const bytes = content()
  writeFileSync(raw, bytes)
  const layout = `cluster_size=2M,compression_type=${compression}`
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', layout, image, `${bytes.length}`)
  const g = testGraph(t)
  const file = { driver: 'file', 'node-name': 'src-file', filename: raw }
  const source = await g.add({ driver: 'raw', 'node-name': 'src', file })
  const target = await openImage(g, image)
  return { folder, raw, image, bytes, g, source, target, jobs: new GraphJobs(g), layout }
}

type Disks = Awaited<ReturnType<typeof disks>>

async function finish({ jobs, g, target }: Disks): Promise<unknown> {
  const { outcome } = await jobs.report('job-ended', 'j')
  await jobs.verbs['job-finalize']({ id: 'j', commit: true })
  await g.graph.remove(target.name)
  return outcome
}

function compressedIn(image: string): unknown {
  return JSON.parse(mustQemuImg('check', '--output=json', image))['compressed-clusters']
}

const original = ({ folder, bytes }: Disks) => {
  const path = join(folder, 'original')
  writeFileSync(path, bytes)
  return path
}

for (const compression of ['zlib', 'zstd']) {
  t.test(`a backup compresses clusters of 2 MiB (${compression})`, { skip }, async (t) => {
    const d = await disks(t, compression)
    await d.jobs.start('j', backupSpec({ source: 'src', target: d.target.name, compress: true }))
    t.same(await finish(d), { kind: 'success' })
    const theirs = join(d.folder, 'theirs')
    mustQemuImg('convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', d.layout, d.raw, theirs)
    t.equal(qemuImg('compare', '-f', 'raw', d.raw, d.image).stdout, 'Images are identical.\n')
    t.match(oracle(d.image), { corruptions: 0, leaks: 0, checkErrors: 0 })
    // What is left behind the last whole cluster is compressed by qemu-img only.
    t.equal(compressedIn(d.image), 6)
    t.equal(compressedIn(theirs), 7)
  })

  t.test(`what qemu-img compressed in clusters of 2 MiB is read (${compression})`, { skip }, async (t) => {
    const d = await disks(t, compression)
    const theirs = join(d.folder, 'theirs')
    mustQemuImg('convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', d.layout, d.raw, theirs)
    const node = await openImage(d.g, theirs)
    const pick = random(newSeed())
    for (let round = 0; round < 40; round++) {
      const length = 1 + pick(MiB)
      const at = pick(d.bytes.length - length)
      t.ok(d.bytes.subarray(at, at + length).equals(await d.g.read(node, at, length)), `${length} at ${at}`)
    }
  })
}

t.test('a slow backup below a guest that writes is the disk as it was, compressed', { skip }, async (t) => {
  const d = await disks(t, 'zstd')
  await d.jobs.start('j', backupSpec({ source: 'src', target: d.target.name, compress: true, speed: 1 }))
  for (const at of [100, 3 * MiB - 10, 15 * MiB, d.bytes.length - 512])
    await d.g.write(d.source, at, Buffer.alloc(512, 9))
  await d.source.zero(16 * MiB, 3 * MiB, { unmap: false, fast: false })
  await d.jobs.verbs['job-set-speed']({ id: 'j', speed: 0 })
  t.same(await finish(d), { kind: 'success' })
  t.equal(qemuImg('compare', '-f', 'raw', original(d), d.image).stdout, 'Images are identical.\n')
  t.equal(compressedIn(d.image), 6)
})

t.test('a limit of speed and of pieces does not tear clusters', { skip }, async (t) => {
  const d = await disks(t, 'zlib')
  const how = { compress: true, speed: 30 * MiB, maxChunk: 3 * 65536 }
  await d.jobs.start('j', backupSpec({ source: 'src', target: d.target.name, ...how }))
  t.same(await finish(d), { kind: 'success' })
  t.equal(qemuImg('compare', '-f', 'raw', d.raw, d.image).stdout, 'Images are identical.\n')
  t.equal(compressedIn(d.image), 6)
})

t.test('a mirror through the driver compress keeps up with a guest', { skip }, async (t) => {
  const d = await disks(t, 'zlib')
  const packed: BlockNode = await d.g.add({ driver: 'compress', 'node-name': 'packed', file: d.target.name })
  await d.jobs.start('j', mirrorSpec({ source: 'src', target: packed.name, speed: 30 * MiB }))
  await d.g.write(d.source, 5 * MiB, Buffer.alloc(512, 9))
  await d.jobs.report('job-ready', 'j')
  await d.jobs.verbs['job-complete']({ id: 'j', pivot: false })
  const { outcome } = await d.jobs.report('job-ended', 'j')
  t.same(outcome, { kind: 'success' })
  await d.jobs.verbs['job-finalize']({ id: 'j', commit: true })
  await d.g.graph.close()
  t.equal(qemuImg('compare', '-f', 'raw', d.raw, d.image).stdout, 'Images are identical.\n')
  t.match(oracle(d.image), { corruptions: 0, leaks: 0, checkErrors: 0 })
  t.ok(
    readFileSync(d.raw)
      .subarray(5 * MiB, 5 * MiB + 512)
      .every((byte) => byte === 9),
  )
  t.equal(compressedIn(d.image), 7)
})
