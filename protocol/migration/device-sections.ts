// SPDX-License-Identifier: Apache-2.0
// Walks the device states of a stream by its description: the strictest look at a tail there is without knowing devices.
// For tools that look at files and for tests; who stores a stream only asks whyIncomplete().

import { FormatError } from '../format-error.js'
import type { Parsed } from './bytes.js'
import { findDescription, type TailEnd, whyIncomplete } from './description.js'
import type { DeviceSection } from './device-description.js'
import { parseDirtyBitmapBody } from './dirty-bitmap.js'
import { quoted, unexpected } from './error-text.js'
import { type FurtherHead, type NamedHead, parseFooter, parseHead, titleOf } from './section.js'
import { isVirtioMemEarly } from './section-role.js'

/** A section of the tail, with its head and footer. */
export interface TailSection {
  readonly name: string
  readonly instance: number
  /** Bytes into the tail, and bytes. */
  readonly offset: number
  readonly length: number
}

/**
 * @param tail  from the boundary on
 * @param open  sections that began in front of it and end in it, see Outline
 * @throws FormatError where a section is not where the description has it
 */
export function walkTail(tail: Uint8Array, open: ReadonlyMap<number, string>, end: TailEnd): TailSection[] {
  const found = findDescription(tail, end)
  if (found === undefined) throw new FormatError(whyIncomplete(tail, end) ?? 'the stream is not complete')
  const states = tail.subarray(0, found.eofOffset + 1)
  const rest = [...found.description.sections]
  const sections: TailSection[] = []
  for (let at = 0; at < found.eofOffset; ) {
    const { value: head, length } = there(parseHead(states.subarray(at), at), at)
    const bodyAt = at + length
    if (head.kind === 'eof' || head.kind === 'description')
      throw unexpected('end of the device states', `offset ${at}`, found.eofOffset)
    if (head.kind === 'command') {
      at = bodyAt
      continue
    }
    const section = 'name' in head ? nextOf(rest, head) : furtherOf(states, bodyAt, head, open)
    const footerAt = bodyAt + section.length
    const behind =
      footerAt + there(parseFooter(states.subarray(footerAt), head.id, footerAt), footerAt).length
    sections.push({ ...section, offset: at, length: behind - at })
    at = behind
  }
  skipEarly(rest, undefined)
  if (rest[0] !== undefined) throw unexpected('device states', 'EOF', `section ${quoted(rest[0].name)}`)
  return sections
}

/**
 * What began in front of the tail.
 * @returns its length is that of the body
 */
function furtherOf(
  states: Uint8Array,
  bodyAt: number,
  { kind, id }: FurtherHead,
  open: ReadonlyMap<number, string>,
): DeviceSection {
  const name = open.get(id)
  if (name !== 'dirty-bitmap')
    throw unexpected(`${kind.toUpperCase()} of section ${id}`, name ?? 'no such section', 'dirty-bitmap')
  const { length } = there(parseDirtyBitmapBody(states.subarray(bodyAt), bodyAt), bodyAt)
  return { name, instance: 0, length }
}

/** @param rest  what the description has yet; the section is taken from it */
function nextOf(rest: DeviceSection[], head: NamedHead): DeviceSection {
  skipEarly(rest, head)
  const next = rest.shift()
  if (head.kind === 'full' && next?.name === head.name && next.instance === head.instance) return next
  throw unexpected('device states', `${titleOf(head)} instance ${head.instance}`, quoted(next?.name ?? 'EOF'))
}

/** Early sections stood in front of the pages. */
function skipEarly(rest: DeviceSection[], head: NamedHead | undefined): void {
  while (rest[0] !== undefined && rest[0].name !== head?.name && isVirtioMemEarly(rest[0].name)) rest.shift()
}

function there<T>(parsed: Parsed<T> | undefined, at: number): Parsed<T> {
  if (parsed !== undefined) return parsed
  throw unexpected('device states', 'EOF within a section', `more bytes at ${at}`)
}
