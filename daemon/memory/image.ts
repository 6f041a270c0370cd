// SPDX-License-Identifier: Apache-2.0
// One image of VM memory as it passes from a source to a sink. See docs/memory.md.
//
//   begin(head)  ( pages | zero pages | early | barrier )*  tail*  finish        or abort at any time

import type { Range } from '../../native/types.js'
import { FormatError } from '../../protocol/format-error.js'
import type { Configuration } from '../../protocol/migration/configuration.js'
import type { FileBytes } from './file-bytes.js'

export interface ImageBlock {
  readonly name: string
  /** Bytes, a multiple of the page size. */
  readonly length: number
}

/** Bytes of RAM. No machine has more, and already one bit for each page of it is a lot of memory. */
const MOST_RAM = 2 ** 46

/** @throws FormatError  @param name  of the source */
export function checkTotal(name: string, blocks: readonly ImageBlock[]): void {
  const total = blocks.reduce((sum, { length }) => sum + length, 0)
  if (total > MOST_RAM)
    throw new FormatError(`${name} is of a guest with ${total} bytes of RAM: ${MOST_RAM} are possible`)
}

/** Sections in front of the end of RAM that are kept, bytes altogether: bitmaps of some TiB. */
const MOST_EARLY = 64 * 2 ** 20

/** @throws FormatError  @param name  of the source  @param bytes  of what is kept so far */
export function checkEarly(name: string, bytes: number): void {
  if (bytes > MOST_EARLY)
    throw new FormatError(`${name}: sections before the end of memory have more than ${MOST_EARLY} bytes`)
}

/** Everything that is known before the first page. */
export interface ImageHead {
  /** Without the capabilities that only say how this stream or file is laid out. */
  readonly configuration: Configuration
  readonly pageSize: number
  /** Id of the section of RAM: the tail may name it. */
  readonly section: number
  readonly blocks: readonly ImageBlock[]
  /** Multifd's sync points stand in the stream once per walk, as machine types since 8.1 have it. */
  readonly syncPerWalk: boolean
}

/** Where a block's pages go, as the sink has it: a page at `offset` of the block belongs at `place + offset`. */
export interface BlockPlace {
  readonly place: number
  /** Bit n, of byte n / 8 from the lowest: page n has been given and is not zero. The source's to set and to clear. */
  readonly bitmap: Uint8Array
  /** CRC-32C of each page, where they are wanted; the source's to write. */
  readonly digests: Uint32Array | undefined
}

/** Pages that lie one behind the other at the start of a slot. */
export interface PageBatch {
  readonly slot: number
  /** In places of the sink (BlockPlace), each within one block. */
  readonly pieces: readonly Range[]
  /** Bytes: the sum of the pieces. */
  readonly length: number
}

/** Pages in a file that is in the page cache. */
export interface FilePages {
  readonly file: FileBytes
  /** In places of the sink (BlockPlace), each within one block. */
  readonly pieces: readonly Range[]
  /** What is added to a place for its offset in the file, bytes. */
  readonly shift: number
}

export interface MemorySink {
  begin(head: ImageHead): Promise<readonly BlockPlace[]>
  /**
   * Takes the slot over and gives it back itself. Answers when the next batch may come; a failure is thrown by this or a
   * later call.
   */
  pages(batch: PageBatch): Promise<void>
  /** The same for pages that need not be read into a slot. Only some sinks can. */
  readonly filePages?: ((pages: FilePages) => Promise<void>) | undefined
  /**
   * All memory of one block from a file, by sharing its storage; the bits of its pages are the source's to set. Only some
   * sinks can.
   * @returns whether it was done; otherwise the pages are to be given
   */
  share?(file: FileBytes, place: number): Promise<boolean>
  /** Everything before is in its place: pages that come now may be the same pages again. */
  barrier(): Promise<void>
  /** Sections and commands that stand between the beginning and the end of RAM. The bytes are the sink's. */
  early(bytes: Uint8Array): Promise<void>
  /** All pages were given. */
  pagesDone(): Promise<void>
  /** What follows RAM, in pieces of any length. The bytes are the sink's. */
  tail(bytes: Uint8Array): Promise<void>
  /** Of those that came as they are (OpenedSink.tap) so many are the image's, and the others are not to stay. */
  endsAfter?(bytes: number): void
  /** The image is complete. Answers when it is as durable as was asked, and under its name. */
  finish(): Promise<void>
  /** The digests of some pages are not known and will not be. @param why  for users */
  undigested?(why: string): void
  /** Nothing of it is to be left. Called at most once, also amid other calls, never after finish() has answered. */
  abort(): Promise<void>
}
