// SPDX-License-Identifier: Apache-2.0
// What a file is by its first bytes, told also of files that nobody could load: parts, packed ones, truncated ones.

import { FormatError } from '../../../protocol/format-error.js'
import { blockFields } from '../../../protocol/migration/block-list.js'
import { type Configuration, parseConfiguration } from '../../../protocol/migration/configuration.js'
import { isSaveImage, parseSaveImage, type SaveImage } from '../../../protocol/migration/libvirt-save.js'
import type { MappedBlock } from '../../../protocol/migration/mapped-layout.js'
import { MappedList } from '../../../protocol/migration/mapped-list.js'
import { Outline } from '../../../protocol/migration/outline.js'
import { PREAMBLE_LENGTH } from '../../../protocol/migration/preamble.js'
import type { FileBytes } from '../file-bytes.js'
import { type ImageFile, recognise } from '../image-file.js'

export interface Front {
  /** What it is; undefined: nothing that is known, or a part. */
  readonly format: 'stream' | 'mapped-ram' | `libvirt-${string}` | undefined
  /** libvirt's header and XML. */
  readonly save: SaveImage | undefined
  readonly configuration: Configuration | undefined
  /** undefined: it cannot be read any further, and `problem` says why. */
  readonly image: ImageFile | undefined
  readonly problem: string | undefined
}

/** @throws IoError */
export async function lookAtFront(file: FileBytes, offset: number): Promise<Front> {
  const nothing = { format: undefined, save: undefined, configuration: undefined, image: undefined }
  const [image, problem] = await attempt(() => recognise(file, offset))
  const [save] = await attempt(() => saveImageAt(file, offset))
  const packed = save === undefined ? nothing.format : (`libvirt-${save.header.format}` as const)
  if (image === undefined) return { ...nothing, format: packed, save, problem }
  const { value } = await file.parse(image.base + PREAMBLE_LENGTH, parseConfiguration, 'its configuration')
  return { format: packed ?? image.layout, save, configuration: value, image, problem: undefined }
}

async function saveImageAt(file: FileBytes, offset: number): Promise<SaveImage | undefined> {
  const start = await file.bytes(offset, Math.max(0, Math.min(16, file.length - offset)))
  if (!isSaveImage(start)) return undefined
  return (await file.parse(offset, parseSaveImage, 'the header of a libvirt save image')).value
}

/**
 * The list of blocks of a mapped-ram file that ends too early, as far as it can be read.
 * @returns also where the pages of the last of them end
 * @throws IoError
 */
export async function listedBlocks(
  file: FileBytes,
  base: number,
  configuration: Configuration,
): Promise<{ readonly blocks: readonly MappedBlock[]; readonly end: number }> {
  const blocks: MappedBlock[] = []
  await attempt(async () => {
    const config = await file.parse(base + PREAMBLE_LENGTH, parseConfiguration, 'its configuration')
    const start = base + PREAMBLE_LENGTH + config.length
    const outline = new Outline()
    const head = await file.parse(start, (bytes, origin) => outline.next(bytes, origin), 'the start of RAM')
    const at = start + head.length
    const place = { base, at, fileLength: Number.MAX_SAFE_INTEGER }
    const begin = (bytes: Uint8Array) => {
      const value = MappedList.begin(bytes, blockFields(configuration, false), place)
      return value === undefined ? undefined : { value, length: 0 }
    }
    const { value: list } = await file.parse(at, begin, 'the list of RAM blocks')
    for (let next = list.next; next !== undefined; next = list.next)
      blocks.push((await file.parse(next, (bytes) => list.add(bytes), 'the list of RAM blocks')).value)
  })
  const last = blocks.at(-1)
  return { blocks, end: last === undefined ? base : last.mapped.pagesOffset + last.usedLength }
}

/** What is wrong with a file is told, not thrown. */
export async function attempt<T>(work: () => Promise<T>): Promise<[T, undefined] | [undefined, string]> {
  try {
    return [await work(), undefined]
  } catch (error) {
    if (error instanceof FormatError) return [undefined, error.message]
    throw error
  }
}
