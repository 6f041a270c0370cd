// SPDX-License-Identifier: Apache-2.0
// Reads the block list of a mapped-ram file, and checks that a loader can go by it. The entries lie apart, each behind the
// pages of the one before: whoever reads the file gives the bytes at `next` until there is none.
// QEMU 10.0 dies of some damaged files (page size 0, pages cut off with multifd) and silently loads others wrongly (a page
// size that is not the guest's): nothing is handed to it that did not pass here.

import { FormatError } from '../format-error.js'
import { type BlockFields, checkNewBlock, readBlock, readMemSize } from './block-list.js'
import { type Parsed, parsePrefix } from './bytes.js'
import { quoted, unexpected } from './error-text.js'
import { countPages } from './mapped-bitmap.js'
import { bitmapLengthOf } from './mapped-header.js'
import type { MappedBlock, MappedLayout } from './mapped-layout.js'
import { refusals } from './refusals.js'

/** More bytes than an entry has: a name, two numbers, a header. */
export const MAX_ENTRY_LENGTH = 1 + 255 + 8 + 8 + 28

/** Part of a file. */
interface Region {
  readonly what: string
  readonly offset: number
  readonly end: number
}

export class MappedList {
  readonly #fields: BlockFields
  readonly #base: number
  readonly #headEnd: number
  readonly #fileLength: number
  readonly #blocks: MappedBlock[] = []
  readonly #names = new Set<string>()
  #left: number
  #next: number

  /**
   * @param bytes       at the body of START of RAM
   * @param fields      of the configuration, which lists mapped-ram
   * @param base        where the stream begins in the file
   * @param at          where `bytes` begin in the file
   * @param fileLength  bytes
   * @returns undefined when more bytes are needed
   * @throws FormatError
   */
  static begin(
    bytes: Uint8Array,
    fields: BlockFields,
    { base, at, fileLength }: { readonly base: number; readonly at: number; readonly fileLength: number },
  ): MappedList | undefined {
    if (fields.addresses) throw new FormatError(refusals.ignoreSharedMapped)
    const parsed = parsePrefix(bytes, at, (reader) => readMemSize(reader, fields.pageSize))
    if (parsed === undefined) return undefined
    return new MappedList(fields, base, at + parsed.length, fileLength, parsed.value)
  }

  private constructor(fields: BlockFields, base: number, next: number, fileLength: number, total: number) {
    this.#fields = fields
    this.#base = base
    this.#headEnd = next
    this.#next = next
    this.#fileLength = fileLength
    this.#left = total
  }

  /** Where the next entry begins in the file; undefined when the list is complete. */
  get next(): number | undefined {
    return this.#left > 0 ? this.#next : undefined
  }

  /**
   * The entry at `next`.
   * @param bytes  of the file from there on; MAX_ENTRY_LENGTH are enough
   * @returns undefined when more bytes are needed
   * @throws FormatError
   */
  add(bytes: Uint8Array): Parsed<MappedBlock> | undefined {
    const parsed = parsePrefix(bytes, this.#next, (reader) => readBlock(reader, this.#fields, this.#left))
    if (parsed === undefined) return undefined
    const { name, usedLength, mapped } = parsed.value
    if (mapped === undefined) throw new FormatError(`RAM block ${quoted(name)} has no mapped-ram header`)
    checkNewBlock(this.#names, name)
    const bitmapLength = bitmapLengthOf(usedLength, this.#fields.pageSize)
    const block = {
      name,
      usedLength,
      mapped,
      entryOffset: this.#next,
      entryLength: parsed.length,
      bitmapLength,
    }
    this.#checkHeader(block)
    this.#blocks.push(block)
    this.#names.add(name)
    this.#left -= usedLength
    this.#next = mapped.pagesOffset + usedLength
    return { value: block, length: parsed.length }
  }

  /**
   * The whole layout, once the list is complete.
   * @throws FormatError when two things lie at one place, or nothing follows the last pages
   */
  finish(): MappedLayout {
    if (this.#left > 0) throw new Error('the list is not complete')
    const tailOffset = this.#next
    if (tailOffset >= this.#fileLength)
      throw unexpected(
        'end of the pages',
        `offset ${tailOffset} of ${this.#fileLength} bytes`,
        'device states behind it',
      )
    checkApart(this.#regions(tailOffset))
    return { base: this.#base, blocks: this.#blocks, tailOffset }
  }

  /** What one header says, without the others. */
  #checkHeader({ name, usedLength, mapped, bitmapLength }: MappedBlock): void {
    const { pageSize } = this.#fields
    const title = `RAM block ${quoted(name)}`
    if (mapped.pageSize !== pageSize) throw unexpected(`page size of ${title}`, mapped.pageSize, pageSize)
    if (mapped.pagesOffset % pageSize !== 0)
      throw unexpected(`pages offset of ${title}`, mapped.pagesOffset, `a multiple of ${pageSize}`)
    this.#checkInside(`bitmap of ${title}`, mapped.bitmapOffset, bitmapLength)
    this.#checkInside(`pages of ${title}`, mapped.pagesOffset, usedLength)
  }

  #checkInside(what: string, offset: number, length: number): void {
    if (length <= this.#fileLength - offset) return
    throw unexpected(
      what,
      `${length} bytes at offset ${offset}`,
      `nothing behind ${this.#fileLength}, the file's end`,
    )
  }

  /** All that has a place, by offset. */
  #regions(tailOffset: number): Region[] {
    const regions = [
      { what: 'what lies in front of the stream', offset: 0, end: this.#base },
      { what: 'the head of the stream', offset: this.#base, end: this.#headEnd },
      { what: 'the device states', offset: tailOffset, end: this.#fileLength },
    ]
    for (const { name, usedLength, mapped, entryOffset, entryLength, bitmapLength } of this.#blocks) {
      const title = `RAM block ${quoted(name)}`
      regions.push(region(`entry of ${title}`, entryOffset, entryLength))
      regions.push(region(`bitmap of ${title}`, mapped.bitmapOffset, bitmapLength))
      regions.push(region(`pages of ${title}`, mapped.pagesOffset, usedLength))
    }
    return regions.filter(({ offset, end }) => end > offset).sort((one, other) => one.offset - other.offset)
  }
}

/**
 * Not all clear: that is what a file looks like whose bitmaps were never written, and no guest runs without memory.
 * @param bitmaps  of all blocks, in their order
 * @throws FormatError
 */
export function checkBitmaps(layout: MappedLayout, bitmaps: readonly Uint8Array[]): void {
  let pages = 0
  for (const [index, { name, usedLength, mapped, bitmapLength }] of layout.blocks.entries()) {
    const bitmap = bitmaps[index]
    if (bitmap?.length !== bitmapLength)
      throw unexpected(
        `bitmap of RAM block ${quoted(name)}`,
        `${bitmap?.length ?? 0} bytes`,
        `${bitmapLength} bytes`,
      )
    pages += countPages(bitmap, usedLength / mapped.pageSize)
  }
  if (pages === 0) throw new FormatError('all bits of all RAM blocks are clear: the file was never finished')
}

function checkApart(regions: readonly Region[]): void {
  for (const [index, { what, offset }] of regions.entries()) {
    const before = regions[index - 1]
    if (before !== undefined && before.end > offset)
      throw unexpected(what, `offset ${offset}`, `at least ${before.end}, the end of ${before.what}`)
  }
}

function region(what: string, offset: number, length: number): Region {
  return { what, offset, end: offset + length }
}
