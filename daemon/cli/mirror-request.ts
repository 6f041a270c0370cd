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
import { type End, exportNamed, pathNamed } from './storage.js'

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
 * Looks at both ends.
 * @param from  as it was found
 * @param to    a name, or an image that is there as it was found
 * @param how   existing: the target must be there; sameSize: as large as the source, when both are files
 * @throws CliError when they cannot be mirrored: missing, not an image, or one and the same
 */
export async function lookAt(
  from: End,
  to: string | End,
  { existing, sameSize }: { readonly existing: boolean; readonly sameSize: boolean },
): Promise<Ends> {
  const target = typeof to !== 'string' ? to : await (existing ? lookAtImage : lookAtPath)(to)
  const ends = { source: from, target }
  for (const one of [from, ...(from.others ?? [])])
    for (const other of [target, ...(target.others ?? [])]) await checkDifferent(one, other)
  const [sourceStats, targetStats] = await Promise.all([from, target].map(statOfEnd))
  if (sourceStats === undefined || targetStats === undefined) return ends
  if (sameSize && sourceStats.isFile() && targetStats.isFile()) {
    const [ours, theirs] = [sectors(sourceStats), sectors(targetStats)]
    if (ours !== theirs) {
      throw failed(
        `'${target.name}' has another size: ${theirs} bytes, '${from.name}' has ${ours} bytes (in whole sectors)`,
      )
    }
  }
  return ends
}

/** @throws CliError when both are one */
async function checkDifferent(from: End, to: End): Promise<void> {
  const same = (what: string) =>
    failed(`cannot copy '${from.name}' onto itself: '${to.name}' is the same ${what}`)
  if (from.kind === 'nbd' && from.path === to.path) throw same('export')
  const [stats, others] = await Promise.all([from, to].map(statOfEnd))
  if (stats === undefined || others === undefined || !(await isSameStorage(stats, others))) return
  throw same(others.isBlockDevice() ? 'device' : 'file')
}

/** @returns undefined for what is no file or device */
async function statOfEnd({ kind, path }: End): Promise<Stats | undefined> {
  if (kind === 'nbd' || kind === 'missing') return undefined
  const stats = await statOf(path)
  return stats === 'missing' ? undefined : stats
}

/** One image that is to be read. @throws CliError when it is missing or no image */
export async function lookAtImage(name: string): Promise<End> {
  const end = await lookAtPath(name)
  if (end.kind === 'missing') throw failed(`cannot open '${name}': ${errnoText(ENOENT)}`)
  return end
}

/** A file or device that is to be made, or may be there. @throws CliError when it is there and no image */
export async function lookAtPath(name: string): Promise<End> {
  const served = exportNamed(name)
  if (served !== undefined) return served
  const path = pathNamed(name)
  return { name, path: resolve(path), kind: kindOf(name, await statOf(path)) }
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
function sectors({ size }: Stats): number {
  return Math.ceil(size / 512) * 512
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

function kindOf(name: string, stats: Stats | 'missing'): End['kind'] {
  if (stats === 'missing') return 'missing'
  if (stats.isFile()) return 'file'
  if (stats.isBlockDevice()) return 'block'
  throw failed(`cannot open '${name}' as an image: it is ${otherKind(stats)}`)
}

/** What is no image, and why. */
function otherKind(stats: Stats): string {
  if (stats.isDirectory()) return 'a directory'
  if (!stats.isFIFO() && !stats.isSocket()) return 'neither a file nor a block device'
  const places = 'an image is read and written at places, not from start to end'
  return `${stats.isFIFO() ? 'a pipe' : 'a socket'}, and ${places}; expected a file, block device or NBD URI`
}
