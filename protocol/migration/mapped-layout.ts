// SPDX-License-Identifier: Apache-2.0
// Where everything lies in a mapped-ram file that is yet to be written: the same places that QEMU chooses.
// Source: mapped_ram_setup_ramblock() in QEMU 10.0, migration/ram.c.
//
//   base │ head │ entry, bitmap ┆ to a MiB │ pages │ entry, bitmap ┆ to a MiB │ pages │ tail
//
// Offsets are those of the file, so a layout cannot be moved: another base is another layout. What is between is sparse.

import { FormatError } from '../format-error.js'
import { formatBlock, formatMemSize, type RamBlock, totalOf } from './block-list.js'
import { concat } from './bytes.js'
import { type Configuration, mappedConfiguration, pageSizeOf } from './configuration.js'
import { bitmapLengthOf, MAPPED_HEADER_LENGTH, type MappedHeader } from './mapped-header.js'
import { formatEmptyRam, formatRamEos, formatStreamHead } from './ram-frame.js'

/** Pages of every block begin at a multiple of this, on which O_DIRECT can rely. */
export const PAGES_ALIGNMENT = 0x10_0000

/** A block of a file. Offsets are those of the file, bytes. */
export interface MappedBlock extends RamBlock {
  readonly mapped: MappedHeader
  /** Where its entry in the list begins, and the bytes of that. */
  readonly entryOffset: number
  readonly entryLength: number
  readonly bitmapLength: number
}

export interface MappedLayout {
  /** Where the stream begins. */
  readonly base: number
  /** In the order of the list, which is that of the file. */
  readonly blocks: readonly MappedBlock[]
  /** Behind the pages of the last block: EOS of START of RAM, and all that follows. */
  readonly tailOffset: number
}

/** Bytes that belong at a place of a file. */
export interface Piece {
  readonly offset: number
  readonly bytes: Uint8Array
}

/** What is taken over from a source. */
export interface MappedSource {
  /** Of the source: mappedConfiguration() is written. */
  readonly configuration: Configuration
  readonly ramId: number
  /** Names and used lengths; other fields are left out, QEMU would not read them. */
  readonly blocks: readonly RamBlock[]
}

/**
 * @param base  where the stream begins in the file
 * @throws FormatError when the file would be longer than 2^53
 */
export function planMappedRam(source: MappedSource, base: number): MappedLayout {
  const pageSize = pageSizeOf(source.configuration)
  const blocks: MappedBlock[] = []
  let at = base + mappedHead(source).length
  for (const { name, usedLength } of source.blocks) {
    const entryLength = formatBlock({ name, usedLength }).length + MAPPED_HEADER_LENGTH
    const bitmapOffset = at + entryLength
    const bitmapLength = bitmapLengthOf(usedLength, pageSize)
    const pagesOffset = alignUp(bitmapOffset + bitmapLength, PAGES_ALIGNMENT)
    const mapped = { pageSize, bitmapOffset, pagesOffset }
    blocks.push({ name, usedLength, mapped, entryOffset: at, entryLength, bitmapLength })
    at = pagesOffset + usedLength
  }
  if (!Number.isSafeInteger(at)) throw new FormatError('the RAM blocks are too long for one file')
  return { base, blocks, tailOffset: at }
}

/**
 * What is written apart from pages, bitmaps and the tail: the head, and every entry of the list, in the order of the file.
 * @param layout  of the same source
 */
export function mappedPieces(source: MappedSource, layout: MappedLayout): Piece[] {
  const head = { offset: layout.base, bytes: mappedHead(source) }
  const entries = layout.blocks.map((block) => ({ offset: block.entryOffset, bytes: formatBlock(block) }))
  return [head, ...entries]
}

/**
 * What stands at tailOffset in front of the device states: the end of START of RAM, what came early, and an END of RAM
 * without pages.
 * @param early  sections and commands that are kept, in their order
 */
export function mappedTailStart(ramId: number, early: readonly Uint8Array[]): Uint8Array {
  return concat([formatRamEos(ramId), ...early, formatEmptyRam('end', ramId)])
}

function mappedHead({ configuration, ramId, blocks }: MappedSource): Uint8Array {
  return concat([formatStreamHead(mappedConfiguration(configuration), ramId), formatMemSize(totalOf(blocks))])
}

function alignUp(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment
}
