// SPDX-License-Identifier: Apache-2.0
// Hostile images: a valid one with something in it that would hurt a reader who believes it. Each names what a checker
// must say, and what opening the image for use must do.

import { ImageFile, smallImage } from '../../../../../helpers/qcow2-image.js'

export interface Hostile {
  readonly name: string
  readonly make: (filename: string) => void
  /** What the check says: an error that ends it, or one of its lines. */
  readonly says: RegExp
  /** The image cannot even be opened; else it opens, and only touching the place may fail. */
  readonly refused: boolean
}

const CLUSTER = 4096
const COPIED = 1n << 63n
const COMPRESSED = 1n << 62n
const FAR = 1n << 50n
const BITMAPS = 0x23852875

/** Changes a small valid image. */
function hurt(change: (image: ImageFile) => void, more: Parameters<typeof smallImage>[0] = {}) {
  return (filename: string) => {
    const image = new ImageFile(filename, smallImage(more))
    change(image)
    image.save()
  }
}

function bitmapsExtension(count: number, size: bigint, offset: bigint) {
  const data = Buffer.alloc(24)
  data.writeUInt32BE(count, 0)
  data.writeBigUInt64BE(size, 8)
  data.writeBigUInt64BE(offset, 16)
  return { extensions: [{ type: BITMAPS, data }], autoclear: new Set([0]) }
}

const header: readonly Hostile[] = [
  ...[
    { name: 'another magic', at: 0, value: 0x12345678, says: /not in qcow2 format/ },
    { name: 'version 9', at: 4, value: 9, says: /Unsupported qcow2 version 9/ },
    { name: 'clusters of 256 bytes', at: 20, value: 8, says: /Unsupported cluster size/ },
    { name: 'clusters of 2 GiB', at: 20, value: 31, says: /Unsupported cluster size/ },
    { name: 'an unknown encryption', at: 32, value: 99, says: /Unsupported encryption method 99/ },
    { name: 'an L1 table of 32 GiB', at: 36, value: 0xffff_ffff, says: /Active L1 table too large/ },
    { name: 'an L1 table without entries', at: 36, value: 0, says: /L1 table is too small/ },
    {
      name: 'an L1 table that is not aligned',
      at: 44,
      value: 3 * CLUSTER + 8,
      says: /Active L1 table offset/,
    },
    { name: 'an L1 table beyond all files', at: 40, value: 0xffff_ffff, says: /Active L1 table offset/ },
    {
      name: 'a refcount table of 16 TiB',
      at: 56,
      value: 0xffff_ffff,
      says: /Reference count table too large/,
    },
    {
      name: 'a refcount table that is not aligned',
      at: 52,
      value: 513,
      says: /Reference count table offset/,
    },
    { name: 'refcounts of 2^32 bits', at: 96, value: 32, says: /may not exceed 64 bits/ },
    { name: 'a header of no length', at: 100, value: 0, says: /header too short/ },
    {
      name: 'a header longer than a cluster',
      at: 100,
      value: 0x7fff_fff8,
      says: /header exceeds cluster size/,
    },
    { name: 'a disk of 2^63 bytes', at: 24, value: 0x8000_0000, says: /Image size too large/ },
    { name: 'a disk larger than its L1 table can be', at: 24, value: 0x0010_0000, says: /Image is too big/ },
    { name: 'an unknown incompatible feature', at: 72, value: 1, says: /Unsupported qcow2 feature/ },
    { name: 'an extension longer than the header', at: 116, value: 0xffff_fff0, says: /extension too large/ },
    {
      name: 'a backing file name behind the cluster',
      at: 12,
      value: 2 ** 30,
      says: /Invalid backing file offset/,
    },
    {
      name: 'a compression without its feature bit',
      at: 104,
      value: 1 << 24,
      says: /feature bit must be set/,
    },
  ].map(({ name, at, value, says }): Hostile => {
    const change = (image: ImageFile) => {
      // The length of an extension counts only behind a type.
      if (at === 116) image.set32(112, BITMAPS)
      image.set32(at, value)
    }
    return { name, make: hurt(change), says, refused: true }
  }),
]

const tables: readonly Hostile[] = [
  ...[
    { name: 'an L2 table in the header', l1: COPIED },
    { name: 'an L2 table in the L1 table', l1: COPIED | BigInt(3 * CLUSTER) },
    { name: 'an L2 table in the refcount table', l1: COPIED | BigInt(CLUSTER) },
    { name: 'an L2 table in the refcount block', l1: COPIED | BigInt(2 * CLUSTER) },
  ]
    // Offset 0 means no table: what was there is then lost, which the refcounts show.
    .map(({ name, l1 }) => ({ name, l1, says: l1 === COPIED ? /Leaked cluster 4/ : /ERROR/ }))
    .map(({ name, l1, says }): Hostile => {
      return { name, make: hurt((image) => image.set64(image.l1At(0), l1)), says, refused: false }
    }),
  {
    name: 'an L2 table far behind the end',
    make: hurt((image) => image.set64(image.l1At(0), COPIED | FAR)),
    says: /exceeding the end of the file/,
    refused: false,
  },
  {
    name: 'an L2 table between two clusters',
    make: hurt((image) => image.set64(image.l1At(0), COPIED | BigInt(4 * CLUSTER + 512))),
    says: /Table is not cluster aligned/,
    refused: false,
  },
  {
    name: 'reserved bits in the L1 table',
    make: hurt((image) => image.set64(image.l1At(0), image.u64(image.l1At(0)) | 0xffn)),
    says: /L1 entry with reserved bits/,
    refused: false,
  },
  {
    name: 'reserved bits in an L2 table',
    make: hurt((image) => image.set64(image.l2At(0), image.u64(image.l2At(0)) | (1n << 56n))),
    says: /l2 entry with reserved bits/,
    refused: false,
  },
  {
    name: 'data in the header',
    make: hurt((image) => image.set64(image.l2At(1), COPIED | 1n | 0x200n)),
    says: /not properly aligned/,
    refused: false,
  },
  {
    name: 'data in the refcount block',
    make: hurt((image) => image.set64(image.l2At(1), COPIED | BigInt(2 * CLUSTER))),
    says: /ERROR refcount block 0 refcount=2/,
    refused: false,
  },
  {
    name: 'data far behind the end',
    make: hurt((image) => image.set64(image.l2At(1), COPIED | FAR)),
    says: /exceeding the end of the file/,
    refused: false,
  },
  {
    name: 'a compressed cluster behind the end',
    make: hurt((image) => image.set64(image.l2At(1), COMPRESSED | (FAR + 77n))),
    says: /exceeding the end of the file/,
    refused: false,
  },
  {
    name: 'a compressed cluster with COPIED',
    make: hurt((image) => image.set64(image.l2At(1), COPIED | COMPRESSED | BigInt(5 * CLUSTER))),
    says: /copied flag must never be set/,
    refused: false,
  },
  {
    name: 'a refcount block that is the refcount table',
    make: hurt((image) => image.set64(image.refTableAt(0), BigInt(CLUSTER))),
    says: /ERROR refcount block 0 refcount=2/,
    refused: false,
  },
  {
    name: 'a refcount block that is there twice',
    make: hurt((image) => image.set64(image.refTableAt(1), BigInt(2 * CLUSTER))),
    says: /ERROR refcount block 1 refcount=2/,
    refused: false,
  },
  {
    name: 'a refcount block behind the end',
    make: hurt((image) => image.set64(image.refTableAt(7), FAR)),
    says: /refcount block 7 is outside image/,
    refused: false,
  },
  {
    name: 'a refcount block between two clusters',
    make: hurt((image) => image.set64(image.refTableAt(0), BigInt(2 * CLUSTER + 512))),
    says: /refcount block 0 is not cluster aligned/,
    refused: false,
  },
  {
    name: 'a refcount table behind the end',
    make: hurt((image) => image.set32(52, 0x4000_0000)),
    says: /exceeding the end of the file/,
    refused: false,
  },
]

const others: readonly Hostile[] = [
  {
    name: 'four thousand million snapshots',
    make: hurt(() => undefined, { snapshotCount: 0xffff_ffff, snapshotsOffset: 5 * CLUSTER }),
    says: /Snapshot table too large/,
    refused: true,
  },
  {
    name: 'a snapshot table that is not aligned',
    make: hurt(() => undefined, { snapshotCount: 1, snapshotsOffset: 8 }),
    says: /Snapshot table offset invalid/,
    refused: true,
  },
  {
    name: 'a snapshot table behind the end',
    make: hurt(() => undefined, { snapshotCount: 65535, snapshotsOffset: 2 ** 40 }),
    says: /snapshot table entry 0 is incomplete/,
    refused: false,
  },
  {
    name: 'a snapshot with 2 GiB of other data',
    make: hurt((image) => image.set32(5 * CLUSTER + 36, 0x7fff_ffff), {
      snapshotCount: 1,
      snapshotsOffset: 5 * CLUSTER,
    }),
    says: /Too much extra metadata/,
    refused: true,
  },
  {
    name: 'a snapshot with an L1 table of 32 GiB',
    make: hurt(
      (image) => {
        image.bytes.fill(0, 5 * CLUSTER)
        image.set64(5 * CLUSTER, BigInt(3 * CLUSTER))
        image.set32(5 * CLUSTER + 8, 0xffff_ffff)
        image.set32(5 * CLUSTER + 36, 16)
      },
      { snapshotCount: 1, snapshotsOffset: 5 * CLUSTER },
    ),
    says: /L1 table is too large; snapshot table entry corrupted/,
    refused: false,
  },
  {
    name: 'no bitmaps, said by a bitmaps extension',
    make: hurt(() => undefined, bitmapsExtension(0, 24n, BigInt(5 * CLUSTER))),
    says: /zero bitmaps/,
    refused: true,
  },
  {
    name: 'a bitmap directory of 2^62 bytes',
    make: hurt(() => undefined, bitmapsExtension(1, 1n << 62n, BigInt(5 * CLUSTER))),
    says: /Bitmap directory is too large/,
    refused: true,
  },
  {
    name: 'a bitmap directory of rubbish',
    make: hurt(() => undefined, bitmapsExtension(1, 64n, BigInt(5 * CLUSTER))),
    says: /Invalid bitmap directory/,
    refused: true,
  },
  {
    name: 'a bitmap table of 32 GiB',
    make: hurt(
      (image) => {
        const at = 5 * CLUSTER
        image.bytes.fill(0, at, at + 32)
        image.set64(at, BigInt(4 * CLUSTER))
        image.set32(at + 8, 0xffff_ffff)
        image.set32(at + 16, 0x0110_0001)
        image.bytes[at + 24] = 0x61
      },
      bitmapsExtension(1, 32n, BigInt(5 * CLUSTER)),
    ),
    says: /Bitmap 'a' is too big/,
    refused: true,
  },
]

export const hostile: readonly Hostile[] = [...header, ...tables, ...others]
