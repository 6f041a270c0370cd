// SPDX-License-Identifier: Apache-2.0
// Runtime options of a qcow2 node, with QEMU's defaults.

import { CommandError } from '../../../../errors.js'
import type { NodeSpec } from '../../../messages.js'
import { sizeOption } from '../../options.js'

const KiB = 1024
const MiB = 1024 * KiB
const MAX_L2 = 32 * MiB
const DEFAULT_SLICE = 4 * KiB
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

/**
 * @param l2Size  bytes of all L2 tables of the disk: the cache never needs more
 * @throws CommandError for sizes that contradict each other
 */
export function cacheSizes(spec: NodeSpec, clusterSize: number, l2Size: number): CacheSizes {
  for (const name of ['cache-size', 'l2-cache-size', 'l2-cache-entry-size', 'refcount-cache-size']) {
    if (((spec[name] as number | undefined) ?? 0) < 0)
      throw new CommandError(`Parameter '${name}' expects a non-negative number below 2^64`)
  }
  const total = sizeOption(spec, 'cache-size', undefined)
  const l2Wanted = sizeOption(spec, 'l2-cache-size', undefined)
  const refcountWanted = sizeOption(spec, 'refcount-cache-size', undefined)
  const entry = sizeOption(spec, 'l2-cache-entry-size', Math.min(DEFAULT_SLICE, clusterSize))
  if (entry < 512 || entry > clusterSize || !Number.isInteger(Math.log2(entry)))
    throw new CommandError(
      `L2 cache entry size must be a power of two between 512 and the cluster size (${clusterSize})`,
    )
  if (total !== undefined) {
    if (l2Wanted !== undefined && refcountWanted !== undefined)
      throw new CommandError(
        'cache-size, l2-cache-size and refcount-cache-size may not be set at the same time',
      )
    if ((l2Wanted ?? 0) > total) throw new CommandError('l2-cache-size may not exceed cache-size')
    if ((refcountWanted ?? 0) > total) throw new CommandError('refcount-cache-size may not exceed cache-size')
  }
  const leastRefcount = 4 * clusterSize
  const beside = total === undefined || l2Wanted === undefined ? leastRefcount : total - l2Wanted
  const refcount = refcountWanted ?? Math.min(beside, total ?? beside)
  const l2 = l2Wanted ?? (total === undefined ? Math.min(MAX_L2, l2Size) : Math.max(0, total - refcount))
  return { l2, l2Slice: entry, refcount, refcountSlice: Math.min(DEFAULT_SLICE, clusterSize) }
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
