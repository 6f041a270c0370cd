// SPDX-License-Identifier: Apache-2.0
// Plan of a new qcow2 image: what is refused, and where its tables lie. Pure. Used by create.ts.
//
//   | header | refcount table | refcount blocks | L1 table | L2 tables, data clusters (preallocated images) |
//
// Every area is whole clusters, in this order, without gaps, so every cluster of the file has refcount 1.

import { MAX_L1, MAX_REFCOUNT_TABLE } from '../../../../../protocol/qcow2/header.js'
import {
  clusterProblem,
  dataClusters,
  imageClusters,
  l1Entries,
  l2EntrySize,
  refcountProblem,
} from '../../../../../protocol/qcow2/image-clusters.js'
import { CommandError } from '../../../../errors.js'
import type { Qcow2Options } from '../../../messages.js'

const SECTOR = 512
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
  const problem = problems(options, dataFile).find((text) => text !== undefined)
  if (problem !== undefined) throw new CommandError(problem)
}

function problems(options: Qcow2Options, dataFile: boolean): readonly (string | undefined)[] {
  const { size, version, backingFile, backingFormat } = options
  const old = version === 2
  const newer = 'compatibility level 1.1 and above (use version=v3 or greater)'
  const name = backingFile ?? ''
  const when = (wrong: boolean, text: string) => (wrong ? text : undefined)
  return [
    when(size % SECTOR !== 0, `Image size must be a multiple of ${SECTOR} bytes`),
    clusterProblem(options),
    when(
      backingFile !== undefined && options.preallocation !== 'off' && !options.extendedL2,
      'Backing file and preallocation can only be used at the same time if extended_l2 is on',
    ),
    when(
      backingFormat !== undefined && backingFile === undefined,
      'Backing format cannot be used without backing file',
    ),
    when(options.lazyRefcounts && old, `Lazy refcounts only supported with ${newer}`),
    refcountProblem(options),
    when(options.dataFileRaw && !dataFile, 'data-file-raw requires data-file'),
    when(
      options.dataFileRaw && backingFile !== undefined,
      'Backing file and data-file-raw cannot be used at the same time',
    ),
    when(dataFile && old, `External data files are only supported with ${newer}`),
    when(options.compression !== 'zlib' && old, `Non-zlib compression type is only supported with ${newer}`),
    when(
      Buffer.byteLength(name) > MAX_BACKING_NAME,
      `Could not assign backing file '${name}' with format '${backingFormat ?? '(null)'}': Invalid argument`,
    ),
    when(size < 0, 'Could not resize image: Image size cannot be negative'),
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
  const { clusterSize } = options
  const l1Size = l1Entries(options)
  if (l1Size * 8 > MAX_L1) throw tooLarge('L1 table')
  const preallocated = isPreallocated(options)
  const clusters = imageClusters(options, { l2: preallocated, data: preallocated && !dataFile })
  if (clusters.refcountTable * clusterSize > MAX_REFCOUNT_TABLE) throw tooLarge('refcount table')
  const areas = place(
    [clusters.refcountTable, clusters.refcountBlocks, clusters.l1, clusters.l2, clusters.data],
    clusterSize,
  )
  const [refcountTable, refcountBlocks, l1, l2, data] = areas
  return {
    ...{ clusterSize, refcountOrder: Math.log2(options.refcountBits), l2EntrySize: l2EntrySize(options) },
    ...{ l1Size, dataClusters: dataClusters(options) },
    ...{ refcountTable, refcountBlocks, l1, l2, data },
    end: data.offset + data.length,
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
