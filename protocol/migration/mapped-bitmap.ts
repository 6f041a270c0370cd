// SPDX-License-Identifier: Apache-2.0
// Bitmaps of mapped-ram files. A set bit: the page is in the file. A clear one: it is zero, whatever stands at its place.
// Source: docs/devel/migration/mapped-ram.rst and ram_save_file_bmap() in QEMU 10.0.
//
// A bitmap is an array of 64-bit words in the byte order of the host that wrote it. On little-endian hosts that is the
// order used here: page n is bit n % 8 of byte n / 8. One from a big-endian host goes through swapBitmapWords() first;
// nothing in the file tells which it is. Bits past the last page mean nothing.

const WORD = 8

/** A run of pages whose bits are set. */
export interface PageRun {
  readonly page: number
  readonly count: number
}

export function isPageSet(bitmap: Uint8Array, page: number): boolean {
  return ((byteOf(bitmap, page) >> (page & 7)) & 1) !== 0
}

export function setPage(bitmap: Uint8Array, page: number): void {
  bitmap[Math.floor(page / 8)] = byteOf(bitmap, page) | (1 << (page & 7))
}

export function clearPage(bitmap: Uint8Array, page: number): void {
  bitmap[Math.floor(page / 8)] = byteOf(bitmap, page) & ~(1 << (page & 7))
}

/**
 * The next pages that are in the file.
 * @param from   page to begin at
 * @param pages  of the block
 * @param limit  longest run to return, pages
 */
export function nextRun(bitmap: Uint8Array, from: number, pages: number, limit: number): PageRun | undefined {
  const page = findBit(bitmap, from, pages, true)
  if (page === pages) return undefined
  return { page, count: findBit(bitmap, page, Math.min(pages, page + limit), false) - page }
}

/** How many of a block's pages are in the file. */
export function countPages(bitmap: Uint8Array, pages: number): number {
  let count = 0
  for (const byte of bitmap.subarray(0, Math.floor(pages / 8))) count += ones(byte)
  return count + ones(byteOf(bitmap, pages) & ((1 << (pages & 7)) - 1))
}

/**
 * From the order of big-endian hosts to that of little-endian ones, and back.
 * @param bitmap  changed in place; whole words
 */
export function swapBitmapWords(bitmap: Uint8Array): void {
  for (let at = 0; at + WORD <= bitmap.length; at += WORD) bitmap.subarray(at, at + WORD).reverse()
}

/** The first page at or after `from` whose bit is `set`, or `end`. Bytes that cannot have it are passed over whole. */
function findBit(bitmap: Uint8Array, from: number, end: number, set: boolean): number {
  const skip = set ? 0x00 : 0xff
  let page = from
  while (page < end) {
    if ((page & 7) === 0 && byteOf(bitmap, page) === skip) page += 8
    else if (isPageSet(bitmap, page) === set) return page
    else page += 1
  }
  return end
}

/** The byte that has the page's bit. A division, as there can be more than 2^32 pages. */
function byteOf(bitmap: Uint8Array, page: number): number {
  return bitmap[Math.floor(page / 8)] ?? 0
}

function ones(byte: number): number {
  let count = 0
  for (let rest = byte; rest !== 0; rest &= rest - 1) count += 1
  return count
}
