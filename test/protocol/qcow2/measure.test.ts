// SPDX-License-Identifier: Apache-2.0
// Sizes of qcow2 images: figures that QEMU's tools tell, and what must hold for all.

import t from 'tap'
import type { Geometry } from '../../../protocol/qcow2/image-clusters.js'
import { measureBitmaps, measureImage, TouchedClusters } from '../../../protocol/qcow2/measure.js'
import { newSeed, random } from '../../helpers/graph.js'

const [KiB, MiB, GiB] = [2 ** 10, 2 ** 20, 2 ** 30]
const usual: Geometry = { version: 3, size: 0, clusterSize: 65536, refcountBits: 16, extendedL2: false }

/** Of qemu-img measure 7.2 and 10, of empty images. */
const figures: readonly (readonly [string, Partial<Geometry>, number, number])[] = [
  ['no disk', {}, 196608, 196608],
  ['less than a cluster', { size: 1000 }, 327680, 393216],
  ['10 MiB', { size: 10 * MiB }, 327680, 10813440],
  ['1 GiB', { size: GiB }, 393216, 1074135040],
  ['100 GiB', { size: 100 * GiB }, 16646144, 107390828544],
  ['100 GiB in small clusters', { size: 100 * GiB, clusterSize: 512 }, 2138404352, 109512586752],
  ['100 GiB in clusters of 4 KiB', { size: 100 * GiB, clusterSize: 4 * KiB }, 262795264, 107636977664],
  ['100 GiB in large clusters', { size: 100 * GiB, clusterSize: 2 * MiB }, 10485760, 107384668160],
  ['narrow refcounts', { size: 10 * MiB, refcountBits: 1 }, 327680, 10813440],
  ['1 PiB, wide refcounts', { size: 2 ** 50, refcountBits: 64 }, 274945212416, 1126174852055040],
  ['2 PiB', { size: 2 ** 51 }, 343650009088, 2252143463694336],
]

for (const [name, options, required, fullyAllocated] of figures)
  t.test(`an empty image takes what it takes in QEMU: ${name}`, async (t) => {
    t.same(measureImage({ ...usual, ...options }, 0), { required, fullyAllocated })
  })

for (const [name, options] of [
  ['4 PiB', { size: 2 ** 52 }],
  ['2 PiB with entries twice as long', { size: 2 ** 51, extendedL2: true }],
  ['256 GiB in small clusters', { size: 256 * GiB, clusterSize: 512 }],
] as const)
  t.test(`the disk is too large: ${name}`, async (t) => {
    t.equal(measureImage({ ...usual, ...options }, 0), undefined)
  })

t.test('data add what they are, and all of them make the image fully allocated', async (t) => {
  const empty = measureImage({ ...usual, size: GiB }, 0)
  t.equal(measureImage({ ...usual, size: GiB }, 7)?.required, Number(empty?.required) + 7 * 65536)
  const whole = measureImage({ ...usual, size: GiB })
  t.equal(whole?.required, whole?.fullyAllocated)
  t.same(measureImage({ ...usual, size: GiB }, GiB / 65536), whole)
})

const many = ['b1', 'b2', 'b3', 'b4', 'b5'].map((name) => ({ name, granularity: 4 * KiB }))
for (const [name, bitmaps, size, clusterSize, bytes] of [
  ['none', [], 10 * MiB, 65536, 0],
  ['one', [{ name: 'b', granularity: 65536 }], 10 * MiB, 65536, 196608],
  ['another long name', [...many, { name: 'x'.repeat(1000), granularity: 65536 }], 100 * GiB, 512, 16849920],
  [
    'in large clusters',
    [...many, { name: 'x'.repeat(1000), granularity: 65536 }],
    100 * GiB,
    2 * MiB,
    37748736,
  ],
] as const)
  t.test(`bitmaps take what they take in QEMU: ${name}`, async (t) => {
    t.equal(measureBitmaps(bitmaps, size, clusterSize), bytes)
  })

t.test('a cluster that several ranges touch counts once', async (t) => {
  const seed = newSeed()
  t.comment(`SEED=${seed}`)
  const below = random(seed)
  const wrong: string[] = []
  for (let round = 0; round < 200; round++) {
    const touched = new TouchedClusters(64)
    const model = new Set<number>()
    const ranges: string[] = []
    for (let at = below(200); at < 2000; ) {
      const length = 1 + below(150)
      touched.add(at, length)
      ranges.push(`${at}+${length}`)
      for (let byte = at; byte < at + length; byte++) model.add(Math.floor(byte / 64))
      at += length + below(3) * below(100)
    }
    if (touched.count !== model.size) wrong.push(`${touched.count}, not ${model.size}: ${ranges.join(' ')}`)
  }
  t.same(wrong, [])
})
