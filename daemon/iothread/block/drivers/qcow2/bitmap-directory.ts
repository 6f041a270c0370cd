// SPDX-License-Identifier: Apache-2.0
// The persistent bitmaps that an image names: read with the image, distrusted, and told to users. Without the autoclear
// bit somebody wrote the image who knows no bitmaps: what is left of them counts as nothing.
// Limits are QEMU's: granularities of 512 bytes to 2 GiB, tables of 64 MiB, a directory of 64 MiB.

import { FormatError } from '../../../../../protocol/format-error.js'
import {
  type BitmapsExtension,
  formatBitmapDirectory,
  parseBitmapDirectory,
  parseBitmapsExtension,
  type StoredBitmap,
} from '../../../../../protocol/qcow2/bitmaps.js'
import { Autoclear, ExtensionType } from '../../../../../protocol/qcow2/header.js'
import { CommandError } from '../../../../errors.js'
import type { BitmapFacts } from '../../../messages.js'
import type { Image } from './image.js'

const MAX_DIRECTORY = 64 << 20
const MAX_TABLE = 64 << 20
const MAX_BITMAPS = 65535
const MAX_NAME = 1023
const MIN_GRANULARITY_BITS = 9
const MAX_GRANULARITY_BITS = 31

export interface StoredBitmaps {
  readonly directory: BitmapsExtension
  readonly list: readonly StoredBitmap[]
}

/** @throws CommandError when the directory, or an entry of it, is not sound */
export async function loadBitmaps(image: Image): Promise<StoredBitmaps | undefined> {
  const { extensions, autoclear } = image.header
  const data = extensions.find(({ type }) => type === ExtensionType.bitmaps)?.data
  if (data === undefined || !autoclear.has(Autoclear.bitmaps)) return undefined
  try {
    const directory = parseBitmapsExtension(data)
    const { directoryOffset, directorySize, count } = directory
    if (directorySize > MAX_DIRECTORY) throw new FormatError('Bitmap directory is too large')
    if (directoryOffset % image.clusterSize !== 0 || directoryOffset >= image.env.file.length())
      throw new FormatError('Invalid bitmap directory offset')
    const list = parseBitmapDirectory(await image.read(directoryOffset, directorySize), count)
    for (const bitmap of list) checkBitmap(bitmap, image)
    return { directory, list }
  } catch (error) {
    if (error instanceof FormatError) throw new CommandError(error.message, 'GenericError', { cause: error })
    throw error
  }
}

/** Entries of the table that the whole disk needs. */
export function tableEntries(granularityBits: number, image: Image): number {
  const bits = Math.ceil(image.header.size / 2 ** granularityBits)
  return Math.ceil(bits / 8 / image.clusterSize)
}

export function bitmapFacts(bitmaps: StoredBitmaps | undefined): BitmapFacts[] {
  return (bitmaps?.list ?? []).map(({ name, granularityBits, inUse, auto }) => {
    return { name, granularity: 2 ** granularityBits, inUse, auto }
  })
}

/**
 * @param list  what the directory would have, the new one among them
 * @throws CommandError when the image could not hold the new one
 */
export function checkNewBitmap(
  name: string,
  granularity: number,
  list: readonly StoredBitmap[],
  image: Image,
): void {
  const bits = Math.log2(granularity)
  if (image.header.version < 3) throw new CommandError('Cannot store dirty bitmaps in qcow2 v2 files')
  if (bits > MAX_GRANULARITY_BITS)
    throw new CommandError(`Granularity exceeds maximum (${2 ** MAX_GRANULARITY_BITS} bytes)`)
  if (Buffer.byteLength(name) > MAX_NAME)
    throw new CommandError(`Name length exceeds maximum (${MAX_NAME} characters)`)
  if (tableEntries(bits, image) * 8 > MAX_TABLE)
    throw new CommandError('Too much space will be occupied by the bitmap. Use larger granularity')
  if (list.length > MAX_BITMAPS)
    throw new CommandError('Maximum number of persistent bitmaps is already reached')
  if (formatBitmapDirectory(list).length > MAX_DIRECTORY)
    throw new CommandError('Not enough space in the bitmap directory')
}

function checkBitmap(bitmap: StoredBitmap, image: Image): void {
  const { name, granularityBits, tableOffset, tableSize } = bitmap
  if (tableSize * 8 > MAX_TABLE) throw new FormatError(`Bitmap '${name}' is too big`)
  if (bitmap.extra.length > 0)
    throw new FormatError(`Bitmap '${name}' has extra data, which is not supported`)
  const good =
    granularityBits >= MIN_GRANULARITY_BITS &&
    granularityBits <= MAX_GRANULARITY_BITS &&
    tableOffset % image.clusterSize === 0 &&
    (tableOffset !== 0 || tableSize === 0) &&
    Number.isSafeInteger(tableOffset)
  if (!good) throw new FormatError(`Bitmap '${name}' doesn't satisfy the constraints`)
  // One that was not saved may be of another size than the disk; it is not trusted anyway.
  if (!bitmap.inUse && tableSize !== tableEntries(granularityBits, image))
    throw new FormatError(`Bitmap '${name}' is not as long as the disk`)
}
