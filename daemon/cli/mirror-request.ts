// SPDX-License-Identifier: Apache-2.0
// What `blockferry mirror` was asked: options turned into values, and what the two paths are. Decides which driver
// and which command the job needs; talks to no daemon.

import type { Stats } from 'node:fs'
import { stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import { EIO, ENOENT, errnoNumber, errnoText } from '../common/errno.js'
import type { CommandArguments } from './client.js'
import type { Format } from './image.js'
import { isSameStorage } from './same-storage.js'
import { failed, usage } from './status.js'
import { type End, exportNamed } from './storage.js'

export type ErrorPolicy = 'report' | 'ignore' | 'enospc' | 'stop'

/** Options of the command line, parsed. Sizes in bytes. */
export interface MirrorOptions {
  /** Absent: guessed. */
  readonly sourceFormat?: Format
  /** Absent: raw. */
  readonly targetFormat?: Format
  /** top: only what the uppermost layer holds; default: everything. */
  readonly sync?: 'full' | 'top'
  readonly speed?: number
  /** true: O_DIRECT or fail; false: cached; undefined: O_DIRECT where it works. */
  readonly direct?: boolean
  readonly socket?: string
  readonly jobId?: string
  readonly granularity?: number
  readonly bufSize?: number
  readonly unmap: boolean
  /** Shortest run of zeroes among data that is not stored, bytes. */
  readonly sparse?: number
  readonly targetIsZero: boolean
  readonly existing: boolean
  /** The source may be in use by another program. */
  readonly forceShare: boolean
  readonly aio?: 'auto' | 'threads' | 'io_uring'
  readonly onSourceError: ErrorPolicy
  readonly onTargetError: ErrorPolicy
  readonly json: boolean
  readonly progress: boolean
  readonly logLevel?: string
}

export interface Ends {
  readonly source: End
  readonly target: End
}

/**
 * Looks at both paths.
 * @param how  existing: the target must be there; sameSize: as large as the source, when both are files
 * @throws CliError when they cannot be mirrored: missing, not an image, or one and the same
 */
export async function lookAt(
  sourceName: string,
  targetName: string,
  { existing, sameSize }: { readonly existing: boolean; readonly sameSize: boolean },
): Promise<Ends> {
  const [served, servedTarget] = [exportNamed(sourceName), exportNamed(targetName)]
  if (served !== undefined && served.path === servedTarget?.path)
    throw failed(`cannot copy '${sourceName}' onto itself: '${targetName}' is the same export`)
  if (served !== undefined || servedTarget !== undefined)
    return {
      source: served ?? (await lookAtImage(sourceName)),
      target: servedTarget ?? (await (existing ? lookAtImage : lookAtPath)(targetName)),
    }
  const [sourceStats, targetStats] = await Promise.all([statOf(sourceName), statOf(targetName)])
  const source = endOf(sourceName, sourceStats)
  const target = endOf(targetName, targetStats)
  if (sourceStats === 'missing') throw missing(sourceName)
  if (targetStats === 'missing' && existing) throw missing(targetName)
  if (targetStats !== 'missing' && (await isSameStorage(sourceStats, targetStats))) {
    const what = target.kind === 'block' ? 'device' : 'file'
    throw failed(`cannot copy '${sourceName}' onto itself: '${targetName}' is the same ${what}`)
  }
  if (sameSize && source.kind === 'file' && target.kind === 'file') {
    const [ours, theirs] = [sectors(sourceStats), sectors(targetStats)]
    if (ours !== theirs) {
      throw failed(
        `'${targetName}' has another size: ${theirs} bytes, '${sourceName}' has ${ours} bytes (in whole sectors)`,
      )
    }
  }
  return { source, target }
}

/** One image that is to be read. @throws CliError when it is missing or no image */
export async function lookAtImage(name: string): Promise<End> {
  const served = exportNamed(name)
  if (served !== undefined) return served
  const stats = await statOf(name)
  if (stats === 'missing') throw missing(name)
  return endOf(name, stats)
}

/** A file or device that is to be made, or may be there. @throws CliError when it is there and no image */
export async function lookAtPath(name: string): Promise<End> {
  return exportNamed(name) ?? endOf(name, await statOf(name))
}

/** The arguments that blockdev-mirror and drive-mirror share. */
export function jobArguments(options: MirrorOptions, jobId: string, source: string): CommandArguments {
  return {
    'job-id': jobId,
    device: source,
    sync: options.sync ?? 'full',
    speed: options.speed,
    granularity: options.granularity,
    'buf-size': options.bufSize,
    'on-source-error': options.onSourceError,
    'on-target-error': options.onTargetError,
    'x-sparse': options.sparse,
    'target-is-zero': options.targetIsZero ? true : undefined,
    // The receipt is asked for after the end, so the job must still be known then.
    'auto-dismiss': false,
    'x-auto-complete': true,
  }
}

/** Size of a file as a disk: whole sectors. Bytes. */
function sectors(stats: Stats | 'missing'): number {
  return stats === 'missing' ? 0 : Math.ceil(stats.size / 512) * 512
}

/** @throws CliError for a name that is empty */
export function checkNamed(...names: readonly string[]): void {
  if (names.includes('')) throw usage('an image needs a name, but one is empty')
}

/** @throws CliError when that cannot be told */
export async function statOf(name: string): Promise<Stats | 'missing'> {
  checkNamed(name)
  try {
    return await stat(name)
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? ''
    if (code === 'ENOENT') return 'missing'
    throw failed(`cannot open '${name}': ${errnoText(errnoNumber(code) ?? EIO)}`, { cause })
  }
}

function missing(name: string) {
  return failed(`cannot open '${name}': ${errnoText(ENOENT)}`)
}

function endOf(name: string, stats: Stats | 'missing'): End {
  return { name, path: resolve(name), kind: kindOf(name, stats) }
}

function kindOf(name: string, stats: Stats | 'missing'): End['kind'] {
  if (stats === 'missing') return 'missing'
  if (stats.isFile()) return 'file'
  if (stats.isBlockDevice()) return 'block'
  const what = stats.isDirectory()
    ? 'a directory'
    : stats.isFIFO()
      ? 'a pipe'
      : 'neither a file nor a block device'
  throw failed(`cannot open '${name}' as an image: it is ${what}`)
}
