// SPDX-License-Identifier: Apache-2.0
// Reads the head and the block list of a mapped-ram file with the product's codecs, as whoever opens such a file does.

import { type BlockFields, blockFields } from '../../../protocol/migration/block-list.js'
import type { Parsed } from '../../../protocol/migration/bytes.js'
import { type Configuration, parseConfiguration } from '../../../protocol/migration/configuration.js'
import type { MappedLayout } from '../../../protocol/migration/mapped-layout.js'
import { MAX_ENTRY_LENGTH, MappedList } from '../../../protocol/migration/mapped-list.js'
import { Outline } from '../../../protocol/migration/outline.js'
import { parsePreamble } from '../../../protocol/migration/preamble.js'

/** Bytes of a file from an offset on; may be fewer than asked for only at its end. */
export type ReadAt = (offset: number, length: number) => Uint8Array

export interface MappedFile {
  readonly configuration: Configuration
  readonly fields: BlockFields
  readonly outline: Outline
  readonly ramId: number
  readonly layout: MappedLayout
}

/** @returns undefined when the file ends too early */
export function readMappedFile(readAt: ReadAt, fileLength: number, base: number): MappedFile | undefined {
  let at = base
  const head = readAt(base, 4096)
  const take = <T>(parse: (bytes: Uint8Array, origin: number) => Parsed<T> | undefined): T | undefined => {
    const parsed = parse(head.subarray(at - base), at)
    at += parsed?.length ?? 0
    return parsed?.value
  }
  if (parsePreamble(head, at) === undefined) return undefined
  at += 8
  const configuration = take(parseConfiguration)
  if (configuration === undefined) return undefined
  const outline = new Outline()
  let step = take((bytes, origin) => outline.next(bytes, origin))
  while (step !== undefined && step.kind !== 'ram') {
    if (step.kind === 'boundary' || step.kind === 'refuse') return undefined
    step = take((bytes, origin) => outline.next(bytes, origin))
  }
  if (step === undefined) return undefined
  const fields = blockFields(configuration, false)
  const list = MappedList.begin(head.subarray(at - base), fields, { base, at, fileLength })
  while (list?.next !== undefined)
    if (list.add(readAt(list.next, MAX_ENTRY_LENGTH)) === undefined) return undefined
  return list && { configuration, fields, outline, ramId: step.id, layout: list.finish() }
}

export function readAtOf(bytes: Uint8Array): ReadAt {
  return (offset, length) => bytes.subarray(offset, offset + length)
}
