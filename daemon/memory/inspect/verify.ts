// SPDX-License-Identifier: Apache-2.0
// Whether an image is what it was when it was written: its structure as a loader needs it, and its pages and states by the
// checksums beside it, where there are some.

import type { JsonObject } from '../../../protocol/json-value.js'
import type { DigestHead } from '../../../protocol/migration/digests.js'
import { DigestReader } from '../digest-file.js'
import type { Slots } from '../slots.js'
import { attempt } from './front.js'
import type { Inspection } from './inspection.js'
import { deviceSections } from './sections.js'

/** Ranges told of one block; the others are counted. */
const MOST_RANGES = 16
/** Digests that are compared in one go before they are looked at one by one. */
const STEP = 1024

interface BlockResult {
  readonly name: string
  readonly pages: number
  differing: number
  /** In the block, bytes. */
  readonly ranges: { offset: number; length: number }[]
  /** There are others. */
  more: boolean
}

/** @param path  of the checksums; undefined: there are none. @throws IoError, Cancelled */
export async function verify(
  inspection: Inspection,
  path: string | undefined,
  slots: Slots,
): Promise<JsonObject> {
  const [digests, damage] =
    path === undefined ? [undefined, undefined] : await attempt(() => DigestReader.open(slots, path))
  try {
    await inspection.read(digests !== undefined)
    const { problem, front } = inspection
    const base = { ...(front.format !== undefined && { format: front.format }), sound: problem === undefined }
    if (problem !== undefined) return { ...base, problem }
    const checked = digests === undefined ? noDigests(path, damage) : await compare(inspection, digests)
    return { ...base, ...structure(inspection, checked), ...checked }
  } finally {
    await digests?.close()
  }
}

/** States that have their checksum are what they were, whatever their description says. */
function structure(inspection: Inspection, checked: JsonObject): JsonObject {
  const tail = inspection.tailBytes()
  if (tail === undefined || checked.states === 'alike') return {}
  const offset = inspection.ends?.tailOffset ?? 0
  const { problem } = deviceSections(tail, offset, inspection.openSections())
  return problem === undefined ? {} : { sound: false, problem: `the states of devices: ${problem}` }
}

function noDigests(path: string | undefined, damage: string | undefined): JsonObject {
  const where = path === undefined ? {} : { 'digests-file': path }
  if (damage !== undefined) return { ...where, checksums: 'damaged', 'checksums-problem': damage }
  return { ...where, checksums: 'none' }
}

async function compare(inspection: Inspection, digests: DigestReader): Promise<JsonObject> {
  const { states, changed } = inspection
  const base = { 'digests-file': digests.name }
  if (changed > 0) return { ...base, checksums: 'impossible' }
  const alike = states !== undefined && Buffer.compare(states, digests.head.states) === 0
  const unlike = whyUnlike(inspection, digests.head)
  const told = { ...base, states: alike ? 'alike' : 'different' }
  if (unlike !== undefined) return { ...told, checksums: 'other', 'checksums-problem': unlike }
  const [blocks, damage] = await attempt(() => comparePages(inspection, digests))
  if (blocks === undefined) return { ...told, checksums: 'damaged', 'checksums-problem': damage ?? '' }
  return {
    ...told,
    checksums: 'checked',
    'pages-checked': blocks.reduce((sum, { pages }) => sum + pages, 0),
    'pages-different': blocks.reduce((sum, { differing }) => sum + differing, 0),
    blocks: blocks
      .filter(({ differing }) => differing > 0)
      .map(({ name, differing, ranges, more }) => {
        return { name, 'pages-different': differing, ranges, ...(more && { 'more-ranges': true }) }
      }),
  }
}

/** Why the checksums are certainly another image's. */
function whyUnlike({ head }: Inspection, digests: DigestHead): string | undefined {
  if (head === undefined) return 'there are no blocks'
  if (head.pageSize !== digests.pageSize) return `they are of pages of ${digests.pageSize} bytes`
  if (head.blocks.length !== digests.blocks.length) return `they are of ${digests.blocks.length} blocks`
  const odd = head.blocks.find(({ name, length }, index) => {
    const other = digests.blocks[index]
    return other?.name !== name || other.length !== length
  })
  return odd && `they have no block "${odd.name}" of ${odd.length} bytes at its place`
}

async function comparePages(inspection: Inspection, digests: DigestReader): Promise<BlockResult[]> {
  const { pageSize, blocks } = digests.head
  const results = blocks.map(({ name, length }): BlockResult => {
    return { name, pages: length / pageSize, differing: 0, ranges: [], more: false }
  })
  for await (const { block, page, digests: wanted } of digests.steps()) {
    const found = inspection.places[block]?.digests?.subarray(page, page + wanted.length)
    const result = results[block]
    if (found === undefined || result === undefined) throw new RangeError(`block ${block}`)
    for (const index of differences(found, wanted)) add(result, (page + index) * pageSize, pageSize)
  }
  return results
}

/** Numbers of the elements that differ. What is alike is passed over a step at once. */
export function* differences(one: Uint32Array, other: Uint32Array): Generator<number> {
  for (let from = 0; from < one.length; from += STEP) {
    const [mine, theirs] = [one.subarray(from, from + STEP), other.subarray(from, from + STEP)]
    if (Buffer.compare(bytesOf(mine), bytesOf(theirs)) === 0) continue
    for (const [index, digest] of mine.entries()) if (digest !== theirs[index]) yield from + index
  }
}

function add(result: BlockResult, offset: number, length: number): void {
  result.differing += 1
  const last = result.ranges.at(-1)
  if (last !== undefined && last.offset + last.length === offset) last.length += length
  else if (result.ranges.length < MOST_RANGES) result.ranges.push({ offset, length })
  else result.more = true
}

function bytesOf({ buffer, byteOffset, byteLength }: Uint32Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength)
}
