// SPDX-License-Identifier: Apache-2.0
// What blockdev-backup and drive-backup refuse, in QEMU's order with its texts, before anything is changed.

import type { Arguments } from '../../../protocol/schema/index.js'
import { CommandError } from '../../errors.js'
import type { Directory, Node } from '../directory.js'
import { busyText, userAbove } from './nodes.js'

export type BackupArguments = Arguments<'blockdev-backup'> | Arguments<'drive-backup'>

const INT_MAX = 2 ** 31 - 1
/** What a job copies at once when nobody says: chunks of images are that large. */
const CHUNK = 65536

/**
 * @param added  names of bitmaps that the source will have
 * @throws CommandError unless bitmap, its mode and the sync mode fit together
 */
export function checkBitmap(
  directory: Directory,
  source: Node,
  { sync, bitmap, 'bitmap-mode': mode }: BackupArguments,
  added: ReadonlySet<string> = new Set(),
): void {
  if ((sync === 'incremental' || sync === 'bitmap') && bitmap === undefined)
    throw new CommandError(`must provide a valid bitmap name for '${sync}' sync mode`)
  if (sync === 'incremental' && mode !== undefined && mode !== 'on-success')
    throw new CommandError("Bitmap sync mode must be 'on-success' when using sync mode 'incremental'")
  if (bitmap !== undefined) {
    const known = directory.report(source)?.dirtyBitmaps.some(({ name }) => name === bitmap) === true
    if (!known && !added.has(bitmap)) throw new CommandError(`Bitmap '${bitmap}' could not be found`)
    if (mode === undefined && sync !== 'incremental')
      throw new CommandError('Bitmap sync mode must be given when providing a bitmap')
    if (sync === 'none')
      throw new CommandError(`sync mode '${sync}' does not produce meaningful bitmap outputs`)
    if (mode === 'never' && sync !== 'bitmap')
      throw new CommandError(
        `Bitmap sync mode '${mode}' has no meaningful effect when combined with sync mode '${sync}'`,
      )
  } else if (mode !== undefined) throw new CommandError('Cannot specify bitmap sync mode without a bitmap')
}

/** @throws CommandError unless the source may be backed up now */
export function checkSource(directory: Directory, source: Node): void {
  if (userAbove(directory, source) !== undefined) throw new CommandError(busyText(directory, source))
}

/** @throws CommandError unless the target can take the backup */
export function checkTarget(
  directory: Directory,
  source: Node,
  target: Node,
  args: Arguments<'blockdev-backup'>,
): void {
  if (target === source) throw new CommandError('Source and target cannot be the same')
  if (args.compress === true && directory.report(target)?.driver !== 'qcow2')
    throw new CommandError(`Compression is not supported for this drive ${target.name}`)
  checkSource(directory, source)
  if (userAbove(directory, target) !== undefined) throw new CommandError(busyText(directory, target))
  checkPerf(args)
  if (directory.report(source)?.size !== directory.report(target)?.size)
    throw new CommandError('Source and target image have different sizes')
}

/** @throws CommandError for numbers that no job can work with */
export function checkPerf({ 'x-perf': perf, 'x-cbw-timeout': timeout }: BackupArguments): void {
  const { 'max-workers': workers, 'max-chunk': chunk = 0, 'min-cluster-size': cluster = 0 } = perf ?? {}
  if (workers !== undefined && (workers < 1 || workers > INT_MAX))
    throw new CommandError(`max-workers must be between 1 and ${INT_MAX}`)
  if (chunk < 0) throw new CommandError('max-chunk must be zero (which means no limit) or positive')
  if (cluster < 0 || (cluster > 0 && !Number.isInteger(Math.log2(cluster))))
    throw new CommandError('min-cluster-size needs to be a power of 2')
  const least = Math.max(CHUNK, cluster)
  if (chunk > 0 && chunk < least)
    throw new CommandError(`Required max-chunk (${chunk}) is less than backup cluster size (${least})`)
  if (timeout !== undefined && timeout < 0)
    throw new CommandError("Parameter 'x-cbw-timeout' expects a non-negative value")
}
