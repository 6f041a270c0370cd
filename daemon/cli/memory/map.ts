// SPDX-License-Identifier: Apache-2.0
// `blockferry memory map`: which pages of a file of memory are zero, and which changed against another; as text, JSON or a
// picture.

import { stat, writeFile } from 'node:fs/promises'
import type { JsonObject } from '../../../protocol/json-value.js'
import { spread } from '../indented.js'
import { formatPng } from '../png.js'
import { failed, usage } from '../status.js'
import { table } from '../table.js'
import { numberOf, objectsOf, textOf } from '../values.js'
import { type InspectOptions, inspect } from './inspect.js'
import { draw, type MappedBlock } from './picture.js'
import { placeOf } from './requests.js'

export interface MapOptions extends InspectOptions {
  /** File to write the picture to. */
  readonly png?: string
  readonly against?: string
  readonly againstOffset?: number
  readonly cells?: number
}

export async function memoryMap(file: string, options: MapOptions): Promise<void> {
  const { against, againstOffset, png, cells, json, quiet } = options
  if (against === undefined && againstOffset !== undefined)
    throw usage('--against-offset goes with --against')
  for (const image of [file, against])
    if (png !== undefined && image !== undefined && (await areSame(png, image)))
      throw usage(`the picture would replace '${image}', which it is to show`)
  const found = await inspect('map', file, options, {
    cells,
    ...(against !== undefined && { other: placeOf(against), 'other-offset': againstOffset }),
  })
  const [pageSize, unit] = [numberOf(found, 'page-size') ?? 0, numberOf(found, 'pages-per-cell') ?? 1]
  const blocks = objectsOf(found.blocks).map(blockOf)
  if (png !== undefined) await save(png, formatPng(draw(blocks)))
  const ranges = blocks.map((block) => ({ block, ranges: rangesOf(block, pageSize * unit) }))
  if (json) process.stdout.write(`${spread(jsonOf(found, ranges))}\n`)
  else if (!quiet)
    process.stdout.write(png === undefined ? mapText(ranges) : pictureText(png, pageSize * unit))
}

async function areSame(one: string, other: string): Promise<boolean> {
  const [a, b] = await Promise.all([one, other].map((path) => stat(path).catch(() => undefined)))
  return a !== undefined && b !== undefined && a.dev === b.dev && a.ino === b.ino
}

/** A row of cells of one kind. Bytes of the block. */
interface Range {
  readonly offset: number
  readonly length: number
  readonly set: Share
  readonly changed: Share
}

type Share = 'none' | 'some' | 'all'

function blockOf(
  block: JsonObject,
): MappedBlock & { readonly setPages: number; readonly changedPages?: number } {
  const [changed, changedPages] = [textOf(block, 'changed'), numberOf(block, 'changed-pages')]
  return {
    name: textOf(block, 'name') ?? '',
    length: numberOf(block, 'length') ?? 0,
    setPages: numberOf(block, 'set-pages') ?? 0,
    set: Buffer.from(textOf(block, 'set') ?? '', 'base64'),
    ...(changed !== undefined && { changed: Buffer.from(changed, 'base64') }),
    ...(changedPages !== undefined && { changedPages }),
  }
}

/** @param cell  bytes of a cell */
export function rangesOf({ length, set, changed }: MappedBlock, cell: number): Range[] {
  const ranges: Range[] = []
  for (const [index, share] of set.entries()) {
    const offset = index * cell
    const next = {
      offset,
      length: Math.min(cell, length - offset),
      set: shareOf(share),
      changed: shareOf(changed?.[index] ?? 0),
    }
    const last = ranges.at(-1)
    if (last !== undefined && last.set === next.set && last.changed === next.changed)
      ranges[ranges.length - 1] = { ...last, length: last.length + next.length }
    else ranges.push(next)
  }
  return ranges
}

function shareOf(share: number): Share {
  if (share === 0) return 'none'
  return share === 255 ? 'all' : 'some'
}

type Ranged = readonly { readonly block: ReturnType<typeof blockOf>; readonly ranges: readonly Range[] }[]

function jsonOf(found: JsonObject, all: Ranged): JsonObject {
  return {
    'page-size': numberOf(found, 'page-size') ?? 0,
    'pages-per-cell': numberOf(found, 'pages-per-cell') ?? 1,
    blocks: all.map(({ block: { name, length, setPages, changedPages }, ranges }) => ({
      ...{ name, length, 'set-pages': setPages },
      ...(changedPages !== undefined && { 'changed-pages': changedPages }),
      ranges: ranges.map(({ offset, length, set, changed }) => ({
        ...{ offset, length, set },
        ...(changedPages !== undefined && { changed }),
      })),
    })),
  }
}

function mapText(all: Ranged): string {
  const rows = all.flatMap(({ block: { name }, ranges }) =>
    ranges.map((range) => [name, String(range.offset), String(range.length), words(range)]),
  )
  return table(['block', 'offset', 'length', 'pages'], rows, ['left', 'right', 'right', 'left'])
}

function words({ set, changed }: Range): string {
  const data = { none: 'zero', some: 'some data', all: 'data' }[set]
  return data + { none: '', some: ', some changed', all: ', changed' }[changed]
}

function pictureText(path: string, cell: number): string {
  return `drew '${path}': ${cell} bytes of memory are one cell\n`
}

async function save(path: string, bytes: Buffer): Promise<void> {
  try {
    await writeFile(path, bytes)
  } catch (cause) {
    throw failed(`cannot write '${path}': ${(cause as Error).message}`, { cause })
  }
}
