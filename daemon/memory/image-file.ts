// SPDX-License-Identifier: Apache-2.0
// Finds out what an image file is: by what is in it, never by its name. Used for sources.

import { FormatError } from '../../protocol/format-error.js'
import { hasCapability, parseConfiguration } from '../../protocol/migration/configuration.js'
import {
  dataOffsetOf,
  isSaveImage,
  parseSaveImage,
  type SaveImage,
} from '../../protocol/migration/libvirt-save.js'
import { PREAMBLE_LENGTH, parsePreamble } from '../../protocol/migration/preamble.js'
import type { FileBytes } from './file-bytes.js'
import { PART_MARK } from './target-file.js'

export interface ImageFile {
  readonly layout: 'stream' | 'mapped-ram'
  /** Where the stream begins in the file, bytes. */
  readonly base: number
  /** What stands in front of it, of a libvirt image: as bytes, and what they say. */
  readonly front: { readonly bytes: Uint8Array; readonly image: SaveImage } | undefined
}

/**
 * @param offset  where the image begins, bytes
 * @throws FormatError when it is none, is not complete, or is packed
 */
export async function recognise(file: FileBytes, offset: number): Promise<ImageFile> {
  const start = await file.bytes(offset, Math.min(32, Math.max(0, file.length - offset)))
  if (PART_MARK.every((byte, index) => start[index] === byte))
    throw new FormatError(`${file.name} is a part of an image: its save did not come to an end`)
  if (!isSaveImage(start)) return { ...(await layoutAt(file, offset)), front: undefined }
  const { value: image, length } = await file.parse(
    offset,
    parseSaveImage,
    'the header of a libvirt save image',
  )
  const { format, complete } = image.header
  if (!complete)
    throw new FormatError(`${file.name} is a part of a libvirt save image: its save did not come to an end`)
  if (format !== 'raw' && format !== 'sparse')
    throw new FormatError(`${file.name} is packed with ${format}: unpack its data first`)
  const bytes = await file.bytes(offset, length)
  const found = await layoutAt(file, offset + dataOffsetOf(image.header))
  if ((found.layout === 'mapped-ram') !== (format === 'sparse'))
    throw new FormatError(`${file.name} has format ${format} and holds a ${found.layout}`)
  return { ...found, front: { bytes, image } }
}

async function layoutAt(file: FileBytes, base: number): Promise<Pick<ImageFile, 'layout' | 'base'>> {
  await file.parse(base, parsePreamble, 'its magic number')
  const { value } = await file.parse(base + PREAMBLE_LENGTH, parseConfiguration, 'its configuration')
  return { layout: hasCapability(value, 'mapped-ram') ? 'mapped-ram' : 'stream', base }
}
