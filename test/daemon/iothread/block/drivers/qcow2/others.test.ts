// SPDX-License-Identifier: Apache-2.0
// Images that other programs change while a node is there that nobody uses, or while it is being opened.

import { writeFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { PERMISSIONS, type Permissions } from '../../../../../../daemon/iothread/block/driver.js'
import { Incompatible } from '../../../../../../protocol/qcow2/header.js'
import { mustQemuImg, oracle, qemuIo } from '../../../../../helpers/check-image.js'
import { type TestGraph, testGraph } from '../../../../../helpers/graph.js'
import { openImage } from '../../../../../helpers/opened-image.js'
import { installed } from '../../../../../helpers/program.js'
import { ImageFile } from '../../../../../helpers/qcow2-image.js'

const KiB = 1024
const skip = installed('qemu-img') && installed('qemu-io') ? false : 'qemu-img is not installed'
/** Where the header has the incompatible features. */
const INCOMPATIBLE = 72
const READER: Permissions = { use: ['consistent read'], share: PERMISSIONS }
const WRITER: Permissions = { use: ['consistent read', 'write'], share: PERMISSIONS }
const IN_USE = { message: 'Failed to get shared "write" lock', hint: /disk\.qcow2/ }

/** An image with a bitmap whose directory is the last of it. */
function imageWithBitmap(t: Test): string {
  const filename = path.join(t.testdir({}), 'disk.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', filename, '8M')
  mustQemuImg('bitmap', '--add', filename, 'b')
  return filename
}

/** Runs once, after the next read of a file, before its reader goes on. */
function afterNextRead({ engine }: TestGraph, work: () => Promise<void>): void {
  const read = engine.read.bind(engine)
  engine.read = async (...args) => {
    engine.read = read
    const result = await read(...args)
    await work()
    return result
  }
}

/** Another program that may change the image: whoever reads its header finds there what is gone when he reads on. */
async function other(t: Test, filename: string) {
  const g = testGraph(t)
  const node = await openImage(g, filename)
  return {
    removeBitmap: () => g.graph.bitmaps.change([{ kind: 'remove', node: node.name, name: 'b' }]),
    use: () => g.graph.claim('a guest', node, WRITER),
  }
}

t.test('an image that changes while it is opened is opened as it is then', { skip }, async (t) => {
  const filename = imageWithBitmap(t)
  const they = await other(t, filename)
  const g = testGraph(t)
  afterNextRead(g, they.removeBitmap)
  const node = await openImage(g, filename)
  t.same(g.reports.get(node.name)?.dirtyBitmaps, [])
})

t.test('an image that is in use is told so when it cannot be opened', { skip }, async (t) => {
  const filename = imageWithBitmap(t)
  const they = await other(t, filename)
  const g = testGraph(t)
  let claim: Awaited<ReturnType<typeof they.use>> | undefined
  afterNextRead(g, async () => {
    await they.removeBitmap()
    claim = await they.use()
  })
  await t.rejects(openImage(g, filename), IN_USE)
  t.same(g.graph.nodes(), [], 'nothing of it stays')
  await claim?.release()
  await openImage(g, filename)
})

t.test('an image that is broken is told so, in use or not', { skip }, async (t) => {
  const filename = path.join(t.testdir({}), 'disk.qcow2')
  writeFileSync(filename, Buffer.alloc(4096, 1))
  const g = testGraph(t)
  const message = 'Image is not in qcow2 format'
  await t.rejects(openImage(g, filename), { message })
  const shared = { 'read-only': true, 'force-share': true }
  const file = await g.add({ driver: 'file', 'node-name': 'f', filename })
  await g.graph.claim('a guest', file, WRITER)
  await t.rejects(openImage(g, filename, shared), { message })
})

t.test('an image that changes while it is looked at is seen as it is then', { skip }, async (t) => {
  const filename = imageWithBitmap(t)
  const they = await other(t, filename)
  const g = testGraph(t)
  const node = await openImage(g, filename)
  afterNextRead(g, they.removeBitmap)
  await g.graph.freshen(node.name)
  t.same(g.reports.get(node.name)?.dirtyBitmaps, [])
})

t.test('who uses an image makes known what others made of it', { skip }, async (t) => {
  const filename = imageWithBitmap(t)
  const g = testGraph(t)
  const node = await openImage(g, filename)
  mustQemuImg('resize', '-q', filename, '16M')
  mustQemuImg('bitmap', '--add', filename, 'c')
  await (await g.graph.claim('a test', node, READER)).release()
  t.match(g.reports.get(node.name), { size: 16384 * KiB, dirtyBitmaps: [{ name: 'c' }, { name: 'b' }] })
})

t.test('an image that was made another one is not used any more', { skip }, async (t) => {
  const folder = t.testdir({})
  const filename = path.join(folder, 'disk.qcow2')
  const [one, two] = [path.join(folder, 'one.raw'), path.join(folder, 'two.raw')]
  mustQemuImg('create', '-q', '-f', 'raw', one, '8M')
  mustQemuImg('create', '-q', '-f', 'raw', two, '8M')
  const make = (...options: string[]) => {
    mustQemuImg('create', '-q', '-f', 'qcow2', ...options, filename, '8M')
    qemuIo(filename, 'write -P 7 64k 64k')
  }
  const cases: { what: string; before: string[]; after: string[] }[] = [
    { what: 'cluster size', before: [], after: ['-o', 'cluster_size=4k'] },
    { what: 'width of refcounts', before: [], after: ['-o', 'refcount_bits=64'] },
    { what: 'size of L2 entries', before: [], after: ['-o', 'extended_l2=on'] },
    { what: 'data file', before: [], after: ['-o', `data_file=${folder}/data.raw`] },
    { what: 'backing file', before: [], after: ['-b', one, '-F', 'raw'] },
    { what: 'backing file', before: ['-b', one, '-F', 'raw'], after: ['-b', two, '-F', 'raw'] },
    { what: 'format of the backing file', before: ['-b', one, '-F', 'raw'], after: ['-b', one] },
  ]
  for (const { what, before, after } of cases) {
    make(...before)
    const g = testGraph(t)
    const below = { driver: 'file', 'node-name': 'below', filename: one, 'read-only': true }
    const node = await openImage(g, filename, before.length > 0 ? { backing: below } : {})
    if (what === 'format of the backing file')
      mustQemuImg('rebase', '-q', '-u', '-b', one, '-F', 'qcow2', filename)
    else make(...after)
    const refusal = {
      message: `Another program has changed the ${what} of the image while node '${node.name}' was not in use: open it anew`,
    }
    await t.rejects(g.graph.claim('a guest', node, WRITER), refusal)
    await t.rejects(g.graph.claim('a reader', node, READER), refusal)
    await g.graph.remove(node.name)
    if (what === 'format of the backing file')
      mustQemuImg('rebase', '-q', '-u', '-b', one, '-F', 'raw', filename)
    t.match(oracle(filename), { corruptions: 0, leaks: 0, checkErrors: 0 }, what)
  }
})

t.test('a node without what its image names follows no names', { skip }, async (t) => {
  const folder = t.testdir({})
  const filename = path.join(folder, 'disk.qcow2')
  mustQemuImg('create', '-q', '-f', 'raw', path.join(folder, 'one.raw'), '8M')
  mustQemuImg('create', '-q', '-f', 'qcow2', filename, '8M')
  const g = testGraph(t)
  const node = await openImage(g, filename, { backing: null })
  mustQemuImg('rebase', '-q', '-u', '-b', 'one.raw', '-F', 'raw', filename)
  await g.graph.claim('a reader', node, READER)
})

t.test('the backing file that was opened is the one that the image names', { skip }, async (t) => {
  const folder = t.testdir({ 'one.raw': '1', 'two.raw': '2' })
  const filename = path.join(folder, 'disk.qcow2')
  mustQemuImg('create', '-q', '-u', '-f', 'qcow2', '-b', 'one.raw', '-F', 'raw', filename, '8M')
  const g = testGraph(t)
  const file = { driver: 'file', 'node-name': 'f', filename }
  const below = { driver: 'file', 'node-name': 'below', filename: path.join(folder, 'one.raw') }
  const { named } = await g.graph.resolve({ driver: 'qcow2', 'node-name': 'top', file })
  const spec = { driver: 'qcow2', 'node-name': 'top', file, backing: below, named }
  await g.add(spec)
  await g.graph.remove('top')
  mustQemuImg('rebase', '-q', '-u', '-b', 'two.raw', '-F', 'raw', filename)
  await t.rejects(g.add(spec), { message: /has changed the backing file of the image/ })
})

t.test('an image that was made another one is not reopened', { skip }, async (t) => {
  const filename = path.join(t.testdir({}), 'disk.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', filename, '8M')
  const g = testGraph(t)
  const file = { driver: 'file', 'node-name': 'f', filename }
  await g.add({ driver: 'qcow2', 'node-name': 'top', file, 'read-only': true })
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', filename, '8M')
  await t.rejects(g.graph.reopen([{ driver: 'qcow2', 'node-name': 'top', file }]), {
    message: /has changed the cluster size of the image/,
  })
  t.equal(g.graph.node('top').readOnly, true)
})

t.test('an image that was marked corrupt is not written', { skip }, async (t) => {
  const filename = path.join(t.testdir({}), 'disk.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', filename, '8M')
  const g = testGraph(t)
  const node = await openImage(g, filename)
  const image = new ImageFile(filename)
  image.set64(INCOMPATIBLE, 1n << BigInt(Incompatible.corrupt))
  image.save()
  const claim = await g.graph.claim('a guest', node, WRITER)
  await t.rejects(g.write(node, 0, new Uint8Array(512).fill(1)), {
    message: 'qcow2: Image is corrupt; cannot be opened read/write',
  })
  t.same(await g.read(node, 0, 512), new Uint8Array(512))
  await claim.release()
})

t.test(
  'a file that readers left to others is known truly when an image on it is used',
  { skip },
  async (t) => {
    const filename = path.join(t.testdir({}), 'disk.qcow2')
    mustQemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', filename, '8M')
    const g = testGraph(t)
    const file = await g.add({ driver: 'file', 'node-name': 'f', filename })
    const node = await g.add({ driver: 'qcow2', 'node-name': 'top', file: 'f' })
    const reader = await g.graph.claim('a reader of the file', file, READER)
    qemuIo(filename, 'write -P 7 64k 1M')
    const claim = await g.graph.claim('a guest', node, WRITER)
    t.ok(
      Buffer.alloc(1024 * KiB, 7).equals(await g.read(node, 64 * KiB, 1024 * KiB)),
      'what they wrote is there',
    )
    await g.write(node, 4096 * KiB, new Uint8Array(64 * KiB).fill(2))
    await claim.release()
    await reader.release()
    await g.graph.remove('top')
    t.match(oracle(filename), { corruptions: 0, leaks: 0, checkErrors: 0 })
    qemuIo(filename, 'read -P 7 64k 1M', 'read -P 2 4M 64k')
  },
)

t.test('whether others may change an image is not changed by opening it anew', { skip }, async (t) => {
  const filename = path.join(t.testdir({}), 'disk.qcow2')
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', filename, '8M')
  const g = testGraph(t)
  const file = { driver: 'file', 'node-name': 'f', filename }
  const spec = { driver: 'qcow2', 'node-name': 'top', file }
  const node = await g.add({ ...spec, 'read-only': true, 'force-share': true })
  await g.graph.claim('a reader', node, READER)
  qemuIo(filename, 'write -P 7 64k 64k')
  await t.rejects(g.graph.reopen([spec]), {
    message: "Option 'force-share' cannot be reset to its default value",
  })
  await t.rejects(g.graph.reopen([{ ...spec, 'force-share': false }]), {
    message: "Cannot change the option 'force-share'",
  })
  const off = { ...file, 'node-name': 'off', locking: 'off' }
  await g.add(off)
  await t.rejects(g.graph.reopen([{ ...off, locking: 'auto' }]), {
    message: "Cannot change the option 'locking'",
  })
})
