// SPDX-License-Identifier: Apache-2.0
// Runtime options of a qcow2 node, with QEMU's defaults.

import { CommandError } from '../../../../errors.js'
import type { NodeSpec } from '../../../messages.js'
import { sizeOption } from '../../options.js'
import type { ShownSnapshot } from './image.js'

const KiB = 1024
const MiB = 1024 * KiB
const MAX_L2 = 32 * MiB
const DEFAULT_SLICE = 4 * KiB
/** QEMU counts the tables of a cache in a C int. */
const MAX_ENTRIES = 2 ** 31 - 1
/** 1 MiB in clusters of 64 KiB. Random clusters written by 16 took 0.88 of the time that 8 took, by 32 not less. */
const DEFAULT_TASKS = 16
const DEFAULT_CLEAN_INTERVAL = 600

/** Bytes. */
export interface CacheSizes {
  readonly l2: number
  readonly l2Slice: number
  readonly refcount: number
  readonly refcountSlice: number
}

/** Of the image that the caches are for. */
export interface CachedImage {
  readonly clusterSize: number
  /** Bytes of an entry of an L2 table. */
  readonly entrySize: number
}

/**
 * QEMU's rules: without options the L2 cache holds the tables of all of the disk, 32 MiB at most, and the refcount cache 4
 * blocks; of what both may have together the L2 cache gets what the disk needs first.
 * @param length  of the disk, bytes
 * @throws CommandError for sizes that contradict each other
 */
export function cacheSizes(spec: NodeSpec, image: CachedImage, length: number): CacheSizes {
  const { clusterSize, entrySize } = image
  const total = sizeOption(spec, 'cache-size', undefined)
  const l2Wanted = sizeOption(spec, 'l2-cache-size', undefined)
  const refcountWanted = sizeOption(spec, 'refcount-cache-size', undefined)
  const l2Slice = sizeOption(spec, 'l2-cache-entry-size', Math.min(DEFAULT_SLICE, clusterSize))
  if (l2Slice < 512 || l2Slice > clusterSize || !Number.isInteger(Math.log2(l2Slice)))
    throw new CommandError(
      `L2 cache entry size must be a power of two between 512 and the cluster size (${clusterSize})`,
    )
  const needed = Math.ceil((Math.ceil(length / clusterSize) * entrySize) / clusterSize) * clusterSize
  const leastRefcount = 4 * clusterSize
  const alone = { l2: Math.min(needed, l2Wanted ?? MAX_L2), refcount: refcountWanted ?? leastRefcount }
  const { l2, refcount } =
    total === undefined
      ? alone
      : share(total, { l2: l2Wanted, refcount: refcountWanted }, { l2: needed, refcount: leastRefcount })
  if (l2 / l2Slice > MAX_ENTRIES) throw new CommandError('L2 cache size too big')
  if (refcount / clusterSize > MAX_ENTRIES) throw new CommandError('Refcount cache size too big')
  return { l2, l2Slice, refcount, refcountSlice: Math.min(DEFAULT_SLICE, clusterSize) }
}

interface Sizes {
  readonly l2: number
  readonly refcount: number
}

/** @param needed  what both need at least */
function share(
  total: number,
  wanted: { readonly [K in keyof Sizes]: number | undefined },
  needed: Sizes,
): Sizes {
  if (wanted.l2 !== undefined && wanted.refcount !== undefined)
    throw new CommandError(
      'cache-size, l2-cache-size and refcount-cache-size may not be set at the same time',
    )
  if ((wanted.l2 ?? 0) > total) throw new CommandError('l2-cache-size may not exceed cache-size')
  if ((wanted.refcount ?? 0) > total) throw new CommandError('refcount-cache-size may not exceed cache-size')
  if (wanted.refcount !== undefined) return { l2: total - wanted.refcount, refcount: wanted.refcount }
  if (wanted.l2 === undefined && total < needed.l2 + needed.refcount) {
    const refcount = Math.min(total, needed.refcount)
    return { l2: total - refcount, refcount }
  }
  const l2 = Math.min(needed.l2, wanted.l2 ?? needed.l2)
  return { l2, refcount: total - l2 }
}

/** Pieces of one request under way at most. */
export function tasksOption(spec: NodeSpec): number {
  const tasks = (spec['x-tasks'] as number | undefined) ?? DEFAULT_TASKS
  if (tasks < 1 || tasks > 64) throw new CommandError("Parameter 'x-tasks' expects a value between 1 and 64")
  return tasks
}

/**
 * Seconds after which unused tables are forgotten; 0: never.
 * @throws CommandError
 */
export function cleanInterval(spec: NodeSpec): number {
  const seconds = (spec['cache-clean-interval'] as number | undefined) ?? DEFAULT_CLEAN_INTERVAL
  if (seconds < 0 || seconds > 0xffff_ffff) throw new CommandError('Cache clean interval too big')
  return seconds
}

/** Whether writes are kept away from L2 tables of snapshots, as they are from all other tables whatever the option says. */
export function guardsSnapshots(spec: NodeSpec): boolean {
  const wanted = spec['overlap-check'] as string | Readonly<Record<string, unknown>> | undefined
  if (typeof wanted !== 'object') return wanted === 'all'
  return (wanted['inactive-l2'] as boolean | undefined) ?? wanted.template === 'all'
}

/**
 * What is shown in place of the disk.
 * @throws CommandError where it could be written: its clusters are not for changing
 */
export function shownSnapshot(spec: NodeSpec, readOnly: boolean): ShownSnapshot | undefined {
  const name = spec['x-snapshot'] as string | undefined
  if (name === undefined) return undefined
  if (!readOnly) throw new CommandError(`Snapshot '${name}' can only be read: 'read-only' must be true`)
  return { name, by: (spec['x-snapshot-by'] as ShownSnapshot['by'] | undefined) ?? 'any' }
}

/** @throws CommandError for what an image of this kind cannot have */
export function checkFormatOptions(spec: NodeSpec, version: 2 | 3): void {
  const encrypt = spec.encrypt as { readonly format: string } | undefined
  if (encrypt !== undefined)
    throw new CommandError(`No encryption in image header, but options specified format '${encrypt.format}'`)
  if (version === 3) return
  if (spec['lazy-refcounts'] === true)
    throw new CommandError('Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level')
  if (spec['discard-no-unref'] === true)
    throw new CommandError('discard-no-unref is only supported since qcow2 version 3')
}
