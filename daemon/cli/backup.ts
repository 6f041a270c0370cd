// SPDX-License-Identifier: Apache-2.0
// `blockferry backup`: copies an image, or a node of a running daemon, as it is at one moment. To a file that the daemon makes
// or opens itself (drive-backup), or to a device or an export, which is opened as a node (blockdev-backup).

import type { CommandArguments } from './client.js'
import { type CopyTools, runCopy } from './copy-run.js'
import { findImage, type Image } from './image.js'
import { JsonResult } from './json-result.js'
import { startTarget } from './mirror.js'
import {
  checkNamed,
  type Ends,
  lookAt,
  lookAtImage,
  lookAtPath,
  type MirrorOptions,
} from './mirror-request.js'
import { usage } from './status.js'

export interface BackupOptions extends Omit<MirrorOptions, 'sync'> {
  readonly sync: 'full' | 'top' | 'incremental' | 'bitmap'
  /** The source is a node of the daemon. */
  readonly node: boolean
  readonly compress: boolean
  readonly bitmap?: string
  readonly bitmapMode?: 'on-success' | 'never' | 'always'
}

/** @throws CliError for every end but success */
export async function backup(sourceName: string, targetName: string, options: BackupOptions): Promise<void> {
  const result = options.json ? new JsonResult(sourceName, targetName) : undefined
  try {
    checkNamed(sourceName, targetName)
    check(options)
    const { source, ends } = await look(sourceName, targetName, options)
    const copy = { ...options, sync: 'full' } as const
    await runCopy(
      {
        ...{ verb: 'backup', done: 'backed up', quiet: false },
        ...{ source, target: ends.target, options: copy },
        ...(options.node && { node: sourceName }),
        // A bitmap is changed where the image keeps it.
        writable: options.bitmap !== undefined,
        job: (id, node) => jobArguments(options, id, node),
        start: (tools: CopyTools) => startTarget(ends, copy, tools, 'backup'),
      },
      result,
    )
  } catch (error) {
    result?.tellError(error)
    throw error
  }
}

/** @throws CliError (usage) */
function check({ node, socket, sync, bitmap, bitmapMode, compress, targetFormat }: BackupOptions): void {
  if (node && socket === undefined) throw usage('--node needs the --socket of the daemon that has the node')
  if ((sync === 'incremental' || sync === 'bitmap') && bitmap === undefined)
    throw usage(`--sync ${sync} needs a --bitmap`)
  if (bitmapMode !== undefined && bitmap === undefined) throw usage('--bitmap-mode needs a --bitmap')
  if (compress && targetFormat !== 'qcow2') throw usage('--compress needs -O qcow2')
}

async function look(
  sourceName: string,
  targetName: string,
  { node, existing, sourceFormat, targetFormat = 'raw' }: BackupOptions,
): Promise<{ source: Image; ends: Ends }> {
  if (node) {
    const source: Image = {
      end: { name: sourceName, path: sourceName, kind: 'missing' },
      format: 'raw',
      guessed: false,
    }
    const target = await (existing ? lookAtImage : lookAtPath)(targetName)
    return { source, ends: { source: source.end, target } }
  }
  const source = await findImage(sourceName, sourceFormat)
  const whole = source.options === undefined && source.format === 'raw'
  const sameSize = existing && whole && targetFormat === 'raw'
  return { source, ends: await lookAt(source.end, targetName, { existing, sameSize }) }
}

function jobArguments(options: BackupOptions, id: string, source: string): CommandArguments {
  const { bitmap, bitmapMode = options.sync === 'incremental' ? undefined : 'on-success' } = options
  return {
    'job-id': id,
    device: source,
    sync: options.sync,
    speed: options.speed,
    bitmap,
    'bitmap-mode': bitmap === undefined ? undefined : bitmapMode,
    compress: options.compress ? true : undefined,
    'on-source-error': options.onSourceError,
    'on-target-error': options.onTargetError,
    // The receipt is asked for after the end, so the job must still be known then.
    'auto-dismiss': false,
  }
}
