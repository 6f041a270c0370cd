// SPDX-License-Identifier: Apache-2.0
// What `blockferry memory diff` and `map` are told.

import { FormatError } from '../../../protocol/format-error.js'
import type { JsonObject } from '../../../protocol/json-value.js'
import { countPages, nextRun } from '../../../protocol/migration/mapped-bitmap.js'
import type { TransferContext } from '../context.js'
import { pagesPerCell, shares } from './cells.js'
import { type Changes, changesBetween } from './changes.js'
import type { Inspection, Meter } from './inspection.js'

/** @throws FormatError, IoError, Cancelled */
export async function diff(
  one: Inspection,
  other: Inspection,
  context: TransferContext,
  meter: Meter,
): Promise<JsonObject> {
  const { method, pageSize, blocks } = await changesBetween(one, other, context, meter)
  const counted = blocks.map((block) => {
    const pages = block.length / pageSize
    return {
      ...block,
      different: countPages(block.bits, pages),
      first: nextRun(block.bits, 0, pages, 1)?.page,
    }
  })
  const alike = counted.every(({ different, lengths: [mine, theirs] }) => different === 0 && mine === theirs)
  const [states, others] = [one.states, other.states]
  return {
    identical: alike,
    method,
    'page-size': pageSize,
    states: states && others && Buffer.compare(states, others) === 0 ? 'alike' : 'different',
    blocks: counted.map(({ name, lengths: [mine, theirs], different, first }) => ({
      name,
      ...(mine !== undefined && { length: mine }),
      ...(theirs !== undefined && { 'other-length': theirs }),
      'pages-different': different,
      ...(first !== undefined && { 'first-offset': first * pageSize }),
    })),
  }
}

/**
 * @param other  what changes are told against; undefined: none
 * @param most   cells at most
 * @throws FormatError, IoError, Cancelled
 */
export async function map(
  one: Inspection,
  other: Inspection | undefined,
  most: number,
  context: TransferContext,
  meter: Meter,
): Promise<JsonObject> {
  const changes = other && (await changesBetween(one, other, context, meter))
  if (changes === undefined) await one.read(false)
  const { head, places, problem } = one
  if (problem !== undefined || head === undefined)
    throw new FormatError(problem ?? 'there is no memory in it')
  const { pageSize, blocks } = head
  const unit = pagesPerCell(
    blocks.map(({ length }) => length / pageSize),
    most,
  )
  return {
    'page-size': pageSize,
    'pages-per-cell': unit,
    ...(changes !== undefined && { method: changes.method }),
    blocks: blocks.map(({ name, length }, index) => {
      const [pages, bitmap] = [length / pageSize, places[index]?.bitmap ?? new Uint8Array()]
      const set = shares(bitmap, pages, unit)
      const changed = changedPart(changes, name, pages, unit)
      return { name, length, 'set-pages': countPages(bitmap, pages), set: base64(set), ...changed }
    }),
  }
}

/** Of the pages the first image has. */
function changedPart(changes: Changes | undefined, name: string, pages: number, unit: number): JsonObject {
  const bits = changes?.blocks.find((block) => block.name === name)?.bits
  if (bits === undefined) return {}
  return { 'changed-pages': countPages(bits, pages), changed: base64(shares(bits, pages, unit)) }
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64')
}
