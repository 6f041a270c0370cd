// SPDX-License-Identifier: Apache-2.0
// The checker and `qemu-img check` find the same, line by line, and a repair leaves an image that is clean to both.

import { copyFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import { ReferenceCounts } from '../../../../../../../daemon/iothread/block/drivers/qcow2/check/reference-counts.js'
import { Incompatible } from '../../../../../../../protocol/qcow2/header.js'
import { checker, comparable, mustQemuImg, oracle, qemuIo } from '../../../../../../helpers/check-image.js'
import { installed } from '../../../../../../helpers/program.js'
import { ImageFile, smallImage } from '../../../../../../helpers/qcow2-image.js'

const skip = installed('qemu-img') && installed('qemu-io') ? false : 'no qemu-img or qemu-io'

interface Kind {
  readonly name: string
  readonly options: string
  readonly more?: (file: string) => void
}

const kinds: readonly Kind[] = [
  { name: 'version 2', options: 'compat=0.10' },
  { name: 'version 3', options: 'compat=1.1' },
  { name: 'clusters of 512 bytes', options: 'cluster_size=512' },
  { name: 'clusters of 2 MiB', options: 'cluster_size=2M' },
  ...[1, 2, 4, 8, 32, 64].map((bits) => ({
    name: `refcounts of ${bits} bits`,
    options: `refcount_bits=${bits},cluster_size=4k`,
  })),
  { name: 'extended L2 entries', options: 'extended_l2=on,cluster_size=64k' },
  {
    name: 'snapshots',
    options: 'cluster_size=4k',
    more: (file) => {
      mustQemuImg('snapshot', '-c', 'one', file)
      qemuIo(file, 'write -P 9 64k 64k')
      mustQemuImg('snapshot', '-c', 'two', file)
      qemuIo(file, 'write -P 8 96k 64k')
    },
  },
  {
    name: 'bitmaps',
    options: 'cluster_size=4k',
    more: (file) => {
      mustQemuImg('bitmap', '--add', '-g', '512', file, 'b0')
      qemuIo(file, 'write -P 9 64k 64k')
      mustQemuImg('bitmap', '--add', '-g', '64k', file, 'b1')
    },
  },
]

function make(file: string, { options, more }: Kind): void {
  mustQemuImg('create', '-q', '-f', 'qcow2', '-o', options, file, '8M')
  qemuIo(file, 'write -P 1 0 300k', 'write -P 2 5M 100k', 'write -P 3 3M 64k', 'write -z 6M 256k')
  more?.(file)
}

function file(t: Test): string {
  return path.join(t.testdir({}), 'a.qcow2')
}

for (const kind of kinds) {
  t.test(`a clean image: ${kind.name}`, { skip }, async (t) => {
    const image = file(t)
    make(image, kind)
    const found = await checker(t)(image)
    t.same(comparable(found), oracle(image))
    t.match(found, { corruptions: 0, leaks: 0, checkErrors: 0 })
  })
}

t.test('an image with an external data file has no data to count', { skip }, async (t) => {
  const image = file(t)
  make(image, { name: '', options: `data_file=${image}.data` })
  const found = await checker(t)(image)
  t.same(comparable(found), oracle(image))
  t.match(found, { corruptions: 0, leaks: 0 })
})

t.test(
  'a repair takes the dirty and the corrupt mark off an image that is clean, a check does not',
  async (t) => {
    const image = file(t)
    const marks = new Set([Incompatible.dirty, Incompatible.corrupt])
    writeFileSync(image, smallImage({ incompatible: marks }))
    const check = checker(t)
    t.match(await check(image), { corruptions: 0, leaks: 0 })
    t.same(new ImageFile(image).header.incompatible, marks)
    await check(image, 'all')
    t.same(new ImageFile(image).header.incompatible, new Set())
  },
)

t.test('nothing that a damaged snapshot may refer to is freed by a repair', { skip }, async (t) => {
  const image = file(t)
  make(image, kinds.find(({ name }) => name === 'snapshots') ?? { name: '', options: '' })
  const broken = new ImageFile(image)
  // The offset of its L1 table.
  broken.set64(broken.header.snapshotsOffset, 12_345n)
  broken.save()
  const found = await checker(t)(image, 'all')
  t.ok(found.leaks > 0 && found.leaksFixed === 0)
  t.ok(new ImageFile(image).bytes.equals(broken.bytes))
})

t.test('an image whose references need more memory than there may be is refused in one line', async (t) => {
  const counts = new ReferenceCounts(3 * 4096)
  for (const cluster of [0, 2 ** 30, 2 ** 40]) counts.add(cluster)
  t.throws(() => counts.add(2 ** 20), { message: /need more than .* MiB to be counted/ })
})

t.test('a counter grows as wide as it needs to, and keeps its neighbours', async (t) => {
  const counts = new ReferenceCounts()
  counts.add(7)
  counts.add(8, 255)
  counts.add(8)
  counts.add(9, 70_000)
  t.same(
    [6, 7, 8, 9].map((cluster) => counts.get(cluster)),
    [0, 1, 256, 70_000],
  )
})

t.test('compressed clusters count as qemu-img counts them', { skip }, async (t) => {
  const image = file(t)
  const from = `${image}.from`
  make(from, { name: '', options: 'cluster_size=64k' })
  mustQemuImg('convert', '-c', '-O', 'qcow2', from, image)
  const found = await checker(t)(image)
  t.same(comparable(found), oracle(image))
  t.ok(found.compressedClusters > 0)
})

interface Damage {
  readonly name: string
  readonly options?: string
  readonly snapshot?: true
  /** The disk reads as before. */
  readonly harmless?: true
  readonly damage: (image: ImageFile) => void
}

const COPIED = 1n << 63n

const damages: readonly Damage[] = [
  { name: 'a leaked cluster', harmless: true, damage: (image) => image.setRefcount(3, 2) },
  { name: 'a refcount that is 0', harmless: true, damage: (image) => image.setRefcount(6, 0) },
  {
    name: 'a refcount that is too low',
    harmless: true,
    snapshot: true,
    damage: (image) => image.setRefcount(Number(image.u64(image.l2At(0)) / 4096n), 1),
  },
  {
    name: 'a COPIED flag missing in an L2 entry',
    harmless: true,
    damage: (image) => image.set64(image.l2At(0), image.u64(image.l2At(0)) & ~COPIED),
  },
  {
    name: 'a COPIED flag missing in an L1 entry',
    harmless: true,
    damage: (image) => image.set64(image.l1At(0), image.u64(image.l1At(0)) & ~COPIED),
  },
  {
    name: 'two guest clusters in one host cluster',
    damage: (image) => image.set64(image.l2At(1), image.u64(image.l2At(0))),
  },
  {
    name: 'reserved bits in an L2 entry',
    damage: (image) => image.set64(image.l2At(0), image.u64(image.l2At(0)) | 4n),
  },
  {
    name: 'reserved bits in an L1 entry',
    damage: (image) => image.set64(image.l1At(0), image.u64(image.l1At(0)) | (1n << 57n)),
  },
  {
    name: 'data that is not aligned',
    damage: (image) => image.set64(image.l2At(0), image.u64(image.l2At(0)) + 512n),
  },
  {
    name: 'a preallocated cluster that is not aligned',
    damage: (image) => image.set64(image.l2At(0), image.u64(image.l2At(0)) + 513n),
  },
  {
    name: 'an L2 table that is not aligned',
    damage: (image) => image.set64(image.l1At(0), image.u64(image.l1At(0)) + 512n),
  },
  { name: 'data far behind the end', damage: (image) => image.set64(image.l2At(0), COPIED | (1n << 40n)) },
  {
    name: 'an L2 table far behind the end',
    damage: (image) => image.set64(image.l1At(0), COPIED | (1n << 40n)),
  },
  { name: 'an L2 table in the header', damage: (image) => image.set64(image.l2At(3), COPIED | 4096n) },
  {
    name: 'a refcount block with reserved bits',
    harmless: true,
    damage: (image) => image.set64(image.refTableAt(0), image.u64(image.refTableAt(0)) | 1n),
  },
  { name: 'no refcount block', harmless: true, damage: (image) => image.set64(image.refTableAt(0), 0n) },
  {
    name: 'data in the refcount block',
    damage: (image) => image.set64(image.l2At(2), COPIED | image.u64(image.refTableAt(0))),
  },
  {
    name: 'a compressed cluster with COPIED',
    damage: (image) => image.set64(image.l2At(0), COPIED | (1n << 62n) | 0x9000n),
  },
  {
    name: 'a subcluster both allocated and zero',
    options: 'extended_l2=on,cluster_size=64k',
    damage: (image) => image.set64(image.l2At(0, 16) + 8, 0x0000_0001_ffff_ffffn),
  },
  {
    name: 'subclusters of no cluster',
    options: 'extended_l2=on,cluster_size=64k',
    damage: (image) => image.set64(image.l2At(40, 16) + 8, 0xffn),
  },
  {
    name: 'a leak with refcounts of 1 bit',
    harmless: true,
    options: 'refcount_bits=1,cluster_size=4k',
    damage: (image) => image.setRefcount(100, 1),
  },
]

for (const { name, options, snapshot, harmless, damage } of damages) {
  t.test(`${name}: found as qemu-img finds it`, { skip }, async (t) => {
    const image = file(t)
    make(image, { name, options: options ?? 'cluster_size=4k' })
    if (snapshot) mustQemuImg('snapshot', '-c', 'one', image)
    copyFileSync(image, `${image}.whole`)
    const broken = new ImageFile(image)
    damage(broken)
    broken.save()
    const found = comparable(await checker(t)(image))
    t.same(found, oracle(image))

    for (const repair of ['leaks', 'all'] as const) {
      const [ours, theirs] = [`${image}.${repair}`, `${image}.${repair}-qemu`]
      copyFileSync(image, ours)
      copyFileSync(image, theirs)
      const fixed = await checker(t)(ours, repair)
      let wanted: ReturnType<typeof oracle> | undefined
      try {
        wanted = oracle(theirs, '-r', repair)
      } catch (error) {
        t.match(String(error), /Check failed/)
      }
      const left = oracle(ours)
      if (harmless) t.match(mustQemuImg('compare', '-s', `${image}.whole`, ours), /identical/)
      if (wanted === undefined) {
        const mended = left.corruptions === 0 && left.leaks === 0
        t.ok(fixed.checkErrors > 0 || mended, `-r ${repair}: qemu-img cannot; refused or mended here`)
        continue
      }
      t.equal(left.checkErrors, wanted.checkErrors, `-r ${repair}: errors of the check`)
      t.equal(left.corruptions, wanted.corruptions, `-r ${repair}: corruptions left`)
      t.equal(left.leaks, wanted.leaks, `-r ${repair}: leaks left`)
      t.equal(fixed.corruptionsFixed, wanted.corruptionsFixed, `-r ${repair}: corruptions fixed`)
      t.equal(fixed.leaksFixed, wanted.leaksFixed, `-r ${repair}: leaks fixed`)
    }
  })
}
