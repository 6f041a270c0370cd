// SPDX-License-Identifier: Apache-2.0
// Draws memory as memory map has it: one square per cell, rows from left to right, blocks below each other with a line between
// them. Pure. The colours are explained in docs/guide.md.

import type { Colour, Picture } from '../png.js'

export interface MappedBlock {
  readonly name: string
  /** Bytes. */
  readonly length: number
  /** Share of the pages of each cell that are not zero: 0 none, 255 all. */
  readonly set: Uint8Array
  /** Share of those that changed, where that was asked for. */
  readonly changed?: Uint8Array
}

/** Shades of a share. */
const SHADES = 8
/** Numbers of colours. */
export const colour = { nothing: 0, zero: 1, data: 2, changed: 2 + SHADES } as const

/** Sides of a picture: squares grow until one side is so long, and are not larger than that; pixels. */
const SIDE = 1024
const MOST_SQUARE = 8
const MIN_COLUMNS = 16

export function draw(blocks: readonly MappedBlock[]): Picture {
  const cells = blocks.reduce((sum, { set }) => sum + set.length, 0)
  const columns = Math.max(MIN_COLUMNS, 2 ** Math.ceil(Math.log2(Math.sqrt(Math.max(1, cells)))))
  const rows = blocks.flatMap((block, index) => [
    ...(index > 0 ? [new Uint8Array(columns)] : []),
    ...rowsOf(block, columns),
  ])
  const square = Math.max(1, Math.min(MOST_SQUARE, Math.floor(SIDE / Math.max(columns, rows.length))))
  const [width, height] = [columns * square, rows.length * square]
  const pixels = new Uint8Array(width * height)
  for (const [y, row] of rows.entries()) {
    const line = new Uint8Array(width)
    for (const [x, number] of row.entries()) line.fill(number, x * square, (x + 1) * square)
    for (let copy = 0; copy < square; copy++) pixels.set(line, (y * square + copy) * width)
  }
  return { width, height, palette: PALETTE, pixels }
}

/** Colours of the cells, row by row; what is left of the last row stays nothing. */
function rowsOf({ set, changed }: MappedBlock, columns: number): Uint8Array[] {
  const rows = Array.from({ length: Math.ceil(set.length / columns) }, () => new Uint8Array(columns))
  for (const [index, share] of set.entries()) {
    const row = rows[Math.floor(index / columns)]
    if (row !== undefined) row[index % columns] = colourOf(share, changed?.[index] ?? 0)
  }
  return rows
}

function colourOf(share: number, changed: number): number {
  if (changed > 0) return colour.changed + shade(changed)
  return share > 0 ? colour.data + shade(share) : colour.zero
}

/** 0 for the smallest share, SHADES - 1 for all. */
function shade(share: number): number {
  return share === 255 ? SHADES - 1 : Math.floor((share / 255) * (SHADES - 1))
}

function shades(full: Colour): Colour[] {
  return Array.from({ length: SHADES }, (_, index): Colour => {
    const part = 0.3 + (0.7 * index) / (SHADES - 1)
    return [Math.round(full[0] * part), Math.round(full[1] * part), Math.round(full[2] * part)]
  })
}

const PALETTE: readonly Colour[] = [
  [200, 200, 200],
  [16, 16, 24],
  ...shades([90, 170, 255]),
  ...shades([255, 150, 40]),
]
