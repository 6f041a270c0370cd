// SPDX-License-Identifier: Apache-2.0
// How many clusters the parts of a qcow2 image take, and which clusters there can be. Pure. Used by whoever makes an image
// (drivers/qcow2/layout.ts) and by whoever tells beforehand how large one will be (measure.ts).

const MIN_CLUSTER = 512
const MAX_CLUSTER = 2 ** 21
/** 32 subclusters of at least a sector. */
const MIN_EXTENDED_CLUSTER = 16384
/** Bytes of an entry of the L1 table and of the refcount table. */
const ENTRY = 8

export interface Geometry {
  readonly version: 2 | 3
  /** Bytes of the virtual disk; need not be whole clusters. */
  readonly size: number
  /** Bytes. */
  readonly clusterSize: number
  readonly refcountBits: number
  readonly extendedL2: boolean
}

/** Which parts are whole in the file: the L2 tables of all of the disk, and all of its data. */
export interface Stored {
  readonly l2: boolean
  readonly data: boolean
}

/** Clusters in the file, besides the one of the header. */
export interface ImageClusters {
  readonly refcountTable: number
  readonly refcountBlocks: number
  readonly l1: number
  readonly l2: number
  readonly data: number
}

/** What is wrong with the size of the clusters, in QEMU's words. */
export function clusterProblem({ version, clusterSize, extendedL2 }: Geometry): string | undefined {
  if (!isPowerOfTwo(clusterSize) || clusterSize < MIN_CLUSTER || clusterSize > MAX_CLUSTER)
    return 'Cluster size must be a power of two between 512 and 2048k'
  if (extendedL2 && version === 2)
    return 'Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or greater)'
  if (extendedL2 && clusterSize < MIN_EXTENDED_CLUSTER)
    return `Extended L2 entries are only supported with cluster sizes of at least ${MIN_EXTENDED_CLUSTER} bytes`
  return undefined
}

/** What is wrong with the width of the refcounts, in QEMU's words. */
export function refcountProblem({ version, refcountBits }: Geometry): string | undefined {
  if (!isPowerOfTwo(refcountBits) || refcountBits > 64)
    return 'Refcount width must be a power of two and may not exceed 64 bits'
  if (version === 2 && refcountBits !== 16)
    return 'Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)'
  return undefined
}

/** Bytes of an L2 entry. */
export function l2EntrySize({ extendedL2 }: Pick<Geometry, 'extendedL2'>): number {
  return extendedL2 ? 16 : 8
}

/** Clusters of the virtual disk. */
export function dataClusters({ size, clusterSize }: Geometry): number {
  return Math.ceil(size / clusterSize)
}

/** Entries of the L1 table: L2 tables of a disk that has all of them. */
export function l1Entries(geometry: Geometry): number {
  return Math.ceil(dataClusters(geometry) / (geometry.clusterSize / l2EntrySize(geometry)))
}

/** @param geometry  without problems; tables may be longer than an image can have */
export function imageClusters(geometry: Geometry, stored: Stored): ImageClusters {
  const { clusterSize, refcountBits } = geometry
  const entries = l1Entries(geometry)
  const l1 = Math.ceil((entries * ENTRY) / clusterSize)
  const l2 = stored.l2 ? entries : 0
  const data = stored.data ? dataClusters(geometry) : 0
  const { table, blocks } = refcountClusters(1 + l1 + l2 + data, clusterSize, refcountBits)
  return { refcountTable: table, refcountBlocks: blocks, l1, l2, data }
}

/**
 * Clusters of the refcount table and number of blocks that count `others` clusters and themselves. The numbers only
 * grow from round to round, and each block counts many clusters, so this ends after a few.
 */
function refcountClusters(
  others: number,
  clusterSize: number,
  bits: number,
): { readonly table: number; readonly blocks: number } {
  const perBlock = (clusterSize * 8) / bits
  let table = 1
  let blocks = 1
  for (;;) {
    const needed = Math.ceil((others + table + blocks) / perBlock)
    const neededTable = Math.ceil((needed * ENTRY) / clusterSize)
    if (needed === blocks && neededTable === table) return { table, blocks }
    blocks = Math.max(blocks, needed)
    table = Math.max(table, neededTable)
  }
}

function isPowerOfTwo(value: number): boolean {
  return value > 0 && Number.isInteger(Math.log2(value))
}
