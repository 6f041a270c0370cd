// SPDX-License-Identifier: Apache-2.0
// Plan of a new qcow2 image: what is refused, and where its tables lie. Pure. Used by create.ts.
//
//   | header | refcount table | refcount blocks | L1 table | L2 tables, data clusters (preallocated images) |
//
// Every area is whole clusters, in this order, without gaps, so every cluster of the file has refcount 1.

import { MAX_REFCOUNT_TABLE } from '../../../../../protocol/qcow2/header.js'
import { CommandError } from '../../../../errors.js'
import type { Qcow2Options } from '../../../messages.js'

const SECTOR = 512
const MIN_CLUSTER = 512
const MAX_CLUSTER = 2 ** 21
/** 32 subclusters of at least a sector. */
const MIN_EXTENDED_CLUSTER = 16384
/** Most bytes of a table that is read whole at open; that of QEMU, so that it can open what is made here. */
const MAX_L1 = 32 * 2 ** 20
const MAX_BACKING_NAME = 1023

/** Host offset and length, bytes; whole clusters. */
export interface Area {
  readonly offset: number
  readonly length: number
}

export interface Layout {
  /** Bytes. */
  readonly clusterSize: number
  readonly refcountOrder: number
  /** Bytes of an L2 entry: 8, or 16 of extended ones. */
  readonly l2EntrySize: number
  /** Entries. */
  readonly l1Size: number
  /** Clusters of the virtual disk. */
  readonly dataClusters: number
  readonly refcountTable: Area
  readonly refcountBlocks: Area
  readonly l1: Area
  /** Empty unless the image is preallocated. */
  readonly l2: Area
  /** Data clusters in the image's own file; empty without preallocation, and with an external data file. */
  readonly data: Area
  /** Bytes of the file. */
  readonly end: number
}

/**
 * What is refused, in QEMU's order with its texts.
 * @throws CommandError
 */
export function checkOptions(options: Qcow2Options, dataFile: boolean): void {
  const refuse = refusals(options, dataFile).find(([refused]) => refused)
  if (refuse !== undefined) throw new CommandError(refuse[1])
}

function refusals(options: Qcow2Options, dataFile: boolean): readonly (readonly [boolean, string])[] {
  const { size, clusterSize, version, refcountBits, backingFile, backingFormat } = options
  const old = version === 2
  const newer = 'compatibility level 1.1 and above (use version=v3 or greater)'
  const name = backingFile ?? ''
  return [
    [size % SECTOR !== 0, `Image size must be a multiple of ${SECTOR} bytes`],
    [
      !isPowerOfTwo(clusterSize) || clusterSize < MIN_CLUSTER || clusterSize > MAX_CLUSTER,
      'Cluster size must be a power of two between 512 and 2048k',
    ],
    [options.extendedL2 && old, `Extended L2 entries are only supported with ${newer}`],
    [
      options.extendedL2 && clusterSize < MIN_EXTENDED_CLUSTER,
      `Extended L2 entries are only supported with cluster sizes of at least ${MIN_EXTENDED_CLUSTER} bytes`,
    ],
    [
      backingFile !== undefined && options.preallocation !== 'off' && !options.extendedL2,
      'Backing file and preallocation can only be used at the same time if extended_l2 is on',
    ],
    [
      backingFormat !== undefined && backingFile === undefined,
      'Backing format cannot be used without backing file',
    ],
    [options.lazyRefcounts && old, `Lazy refcounts only supported with ${newer}`],
    [
      !isPowerOfTwo(refcountBits) || refcountBits > 64,
      'Refcount width must be a power of two and may not exceed 64 bits',
    ],
    [
      old && refcountBits !== 16,
      'Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)',
    ],
    [options.dataFileRaw && !dataFile, 'data-file-raw requires data-file'],
    [
      options.dataFileRaw && backingFile !== undefined,
      'Backing file and data-file-raw cannot be used at the same time',
    ],
    [dataFile && old, `External data files are only supported with ${newer}`],
    [options.compression !== 'zlib' && old, `Non-zlib compression type is only supported with ${newer}`],
    [
      Buffer.byteLength(name) > MAX_BACKING_NAME,
      `Could not assign backing file '${name}' with format '${backingFormat ?? '(null)'}': Invalid argument`,
    ],
    [size < 0, 'Could not resize image: Image size cannot be negative'],
  ]
}

/** A raw external data file shows the disk by itself: then every cluster has its place from the start. */
export function isPreallocated(options: Qcow2Options): boolean {
  return options.preallocation !== 'off' || options.dataFileRaw
}

/**
 * @param options   checked
 * @param dataFile  data clusters lie in an external file
 * @throws CommandError for images that are too large
 */
export function planLayout(options: Qcow2Options, dataFile: boolean): Layout {
  const { clusterSize, size } = options
  const l2EntrySize = options.extendedL2 ? 16 : 8
  const dataClusters = Math.ceil(size / clusterSize)
  const l1Size = Math.ceil(dataClusters / (clusterSize / l2EntrySize))
  if (l1Size * 8 > MAX_L1) throw tooLarge('L1 table')
  const preallocated = isPreallocated(options)
  const l1Clusters = Math.ceil((l1Size * 8) / clusterSize)
  const l2Clusters = preallocated ? l1Size : 0
  const ownClusters = preallocated && !dataFile ? dataClusters : 0
  const refcounts = planRefcounts(
    1 + l1Clusters + l2Clusters + ownClusters,
    clusterSize,
    options.refcountBits,
  )
  const areas = place([refcounts.table, refcounts.blocks, l1Clusters, l2Clusters, ownClusters], clusterSize)
  const [refcountTable, refcountBlocks, l1, l2, data] = areas
  return {
    ...{ clusterSize, refcountOrder: Math.log2(options.refcountBits), l2EntrySize, l1Size, dataClusters },
    ...{ refcountTable, refcountBlocks, l1, l2, data },
    end: data.offset + data.length,
  }
}

/**
 * Clusters of the refcount table and number of blocks that count `others` clusters and themselves. The numbers only
 * grow from round to round, and each block counts many clusters, so this ends after a few.
 */
function planRefcounts(
  others: number,
  clusterSize: number,
  bits: number,
): { readonly table: number; readonly blocks: number } {
  const perBlock = (clusterSize * 8) / bits
  let table = 1
  let blocks = 1
  for (;;) {
    const needed = Math.ceil((others + table + blocks) / perBlock)
    const neededTable = Math.max(1, Math.ceil((needed * 8) / clusterSize))
    if (neededTable * clusterSize > MAX_REFCOUNT_TABLE) throw tooLarge('refcount table')
    if (needed === blocks && neededTable === table) return { table, blocks }
    blocks = Math.max(blocks, needed)
    table = Math.max(table, neededTable)
  }
}

/** Areas of so many clusters one after the other, the first behind the header. */
function place(
  clusters: readonly [number, number, number, number, number],
  size: number,
): [Area, Area, Area, Area, Area] {
  let offset = size
  const next = (count: number): Area => {
    const area = { offset, length: count * size }
    offset += area.length
    return area
  }
  const [first, second, third, fourth, fifth] = clusters
  return [next(first), next(second), next(third), next(fourth), next(fifth)]
}

function tooLarge(table: string): CommandError {
  return new CommandError(`Could not resize image: Failed to grow the ${table}: File too large`)
}

function isPowerOfTwo(value: number): boolean {
  return value > 0 && Number.isInteger(Math.log2(value))
}
