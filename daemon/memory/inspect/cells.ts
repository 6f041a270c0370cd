// SPDX-License-Identifier: Apache-2.0
// A picture of the pages of an image, bounded whatever the size of the guest: cells of several pages, each with the share of
// pages that are set and of those that changed. Pure.
//
// A share is one byte: 0 none, 255 all, and in between no less than 1 and no more than 254, so that few are never none.

import { countPages, isPageSet } from '../../../protocol/migration/mapped-bitmap.js'

/** Pages of a cell: the smallest power of two with which there are at most `most` cells. @param pages  of each block */
export function pagesPerCell(pages: readonly number[], most: number): number {
  const cells = (unit: number) => pages.reduce((sum, count) => sum + Math.ceil(count / unit), 0)
  let unit = 1
  while (cells(unit) > Math.max(most, pages.length)) unit *= 2
  return unit
}

/** @param unit  pages of a cell, a power of two */
export function shares(bitmap: Uint8Array, pages: number, unit: number): Uint8Array {
  const cells = new Uint8Array(Math.ceil(pages / unit))
  for (const index of cells.keys()) {
    const from = index * unit
    const end = Math.min(pages, from + unit)
    cells[index] = share(count(bitmap, from, end), end - from)
  }
  return cells
}

function share(set: number, pages: number): number {
  if (set === 0) return 0
  if (set === pages) return 255
  return Math.min(254, Math.max(1, Math.round((255 * set) / pages)))
}

/** Pages that are set; cells of 8 pages or more have whole bytes. */
function count(bitmap: Uint8Array, from: number, end: number): number {
  if (from % 8 === 0) return countPages(bitmap.subarray(from / 8), end - from)
  let set = 0
  for (let page = from; page < end; page++) if (isPageSet(bitmap, page)) set += 1
  return set
}
