// SPDX-License-Identifier: Apache-2.0
// Reads the directory of persistent bitmaps for a check, and counts what bitmaps occupy. Used by check.ts.

import { FormatError } from '../../../../../../protocol/format-error.js'
import {
  type BitmapsExtension,
  parseBitmapDirectory,
  parseBitmapsExtension,
  parseBitmapTableEntry,
  type StoredBitmap,
} from '../../../../../../protocol/qcow2/bitmaps.js'
import { viewOf } from '../../../../../../protocol/qcow2/bytes.js'
import { Autoclear, ExtensionType } from '../../../../../../protocol/qcow2/header.js'
import { type Checked, countRange } from './image.js'

const MAX_DIRECTORY_BYTES = 64 * 2 ** 20
const MAX_BITMAP_TABLE_BYTES = 64 * 2 ** 20

export interface BitmapTable {
  readonly directory: BitmapsExtension
  readonly bitmaps: readonly StoredBitmap[]
}

/**
 * The directory of persistent bitmaps, undefined where there is none.
 * @throws FormatError when it cannot be read: what bitmaps occupy must not pass for leaked then
 */
export async function readBitmaps({ bytes, header }: Checked): Promise<BitmapTable | undefined> {
  const data = header.extensions.find(({ type }) => type === ExtensionType.bitmaps)?.data
  // Without the bit somebody wrote the image who knows no bitmaps: what is left of them is garbage.
  if (data === undefined || !header.autoclear.has(Autoclear.bitmaps)) return undefined
  const directory = parseBitmapsExtension(data)
  const { directoryOffset, directorySize, count } = directory
  if (directorySize > MAX_DIRECTORY_BYTES) throw new FormatError('Bitmap directory is too large')
  const bitmaps = parseBitmapDirectory(await bytes.read(directoryOffset, directorySize), count)
  for (const { tableSize, name } of bitmaps)
    if (tableSize * 8 > MAX_BITMAP_TABLE_BYTES) throw new FormatError(`Bitmap '${name}' is too big`)
  return { directory, bitmaps }
}

/** Counts directory, tables and data of persistent bitmaps. */
export async function countBitmaps(checked: Checked, { directory, bitmaps }: BitmapTable): Promise<void> {
  const { bytes, clusterSize, findings } = checked
  countRange(checked, directory.directoryOffset, directory.directorySize)
  for (const { tableOffset, tableSize, name } of bitmaps) {
    countRange(checked, tableOffset, tableSize * 8)
    const view = viewOf(await bytes.read(tableOffset, tableSize * 8))
    for (let at = 0; at < view.byteLength; at += 8) {
      if (at % 8192 === 0 && bytes.tired) await bytes.rest()
      try {
        const { offset } = parseBitmapTableEntry(view, at)
        if (offset % clusterSize !== 0) throw new FormatError('Invalid bitmap table entry')
        if (offset !== 0) countRange(checked, offset, clusterSize)
      } catch (error) {
        if (!(error instanceof FormatError)) throw error
        findings.corruption(`ERROR bitmap '${name}': ${error.message}`)
      }
    }
  }
}
