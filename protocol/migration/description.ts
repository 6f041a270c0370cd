// SPDX-License-Identifier: Apache-2.0
// The end of a stream, and with it the only proof that it is whole: EOF and the description of the device states.
// Nothing in front says how long a stream is, and a source closes its connection on failure as it does on success.
// Source: qemu_savevm_state_complete_precopy_non_iterable() in QEMU 10.0, migration/savevm.c.
//
//   … | 00 EOF | 06 | be32 length | JSON | the connection closes

import { type DeviceDescription, parseDescription } from './device-description.js'
import { MAX_DESCRIPTION } from './section.js'
import { SectionType } from './section-type.js'

/** EOF, type and length in front of the JSON. */
export const HEAD_LENGTH = 6
/** How often a description may seem to begin where none does. */
export const MAX_TRIES = 64
const OPENING = 0x7b
const CLOSING = 0x7d

/**
 * `exact`: nothing follows the description. `padded`: other bytes may, as on a block device that is longer than what was
 * written to it.
 */
export type TailEnd = 'exact' | 'padded'

/** Offsets in the bytes that were searched. */
export interface FoundDescription {
  readonly eofOffset: number
  readonly jsonOffset: number
  readonly jsonLength: number
  readonly description: DeviceDescription
}

/** Something that looks like the beginning of a description. */
export interface Candidate {
  readonly eofOffset: number
  readonly jsonLength: number
}

/**
 * @param tail  the last bytes of a stream; with `padded` all from the boundary on
 * @returns undefined when the stream is not complete
 */
export function findDescription(tail: Uint8Array, end: TailEnd): FoundDescription | undefined {
  if (end === 'exact') {
    const last = lastCandidate(tail)
    return last !== undefined && last.jsonLength === jsonRoom(tail, last)
      ? readCandidate(tail, last)
      : undefined
  }
  let tries = 0
  for (const candidate of candidates(tail)) {
    if (!isClosed(tail, candidate)) continue
    const found = readCandidate(tail, candidate)
    tries += 1
    if (found !== undefined || tries === MAX_TRIES) return found
  }
  return undefined
}

/**
 * Why a stream with these last bytes is not complete; undefined: it is.
 * @param tail  as for findDescription()
 */
export function whyIncomplete(tail: Uint8Array, end: TailEnd): string | undefined {
  if (findDescription(tail, end) !== undefined) return undefined
  const behind = end === 'exact' ? findDescription(tail, 'padded') : undefined
  if (behind !== undefined) {
    const length = tail.length - behind.jsonOffset - behind.jsonLength
    return `${length} bytes follow the description of the device states, with which the stream should end`
  }
  const last = lastCandidate(tail)
  if (last === undefined) return 'the stream ends without a description of the device states'
  const room = jsonRoom(tail, last)
  if (last.jsonLength > room)
    return `the stream ends after ${room} of ${last.jsonLength} bytes of the description of the device states`
  return 'what should be the description of the device states is not one'
}

/** JSON has no byte 0, so the last one there is belongs to what stands in front of it. */
function lastCandidate(tail: Uint8Array): Candidate | undefined {
  const zero = tail.lastIndexOf(0)
  for (let eofOffset = zero; eofOffset >= 0 && eofOffset > zero - HEAD_LENGTH; eofOffset--) {
    const candidate = candidateAt(tail, eofOffset)
    if (candidate !== undefined) return candidate
  }
  return undefined
}

function* candidates(tail: Uint8Array): Generator<Candidate> {
  for (let at = tail.indexOf(0); at >= 0; at = tail.indexOf(0, at + 1)) {
    const candidate = candidateAt(tail, at)
    if (candidate !== undefined && candidate.jsonLength <= jsonRoom(tail, candidate)) yield candidate
  }
}

/** Whether its last byte is that of an object. All of it is there. */
export function isClosed(tail: Uint8Array, { eofOffset, jsonLength }: Candidate): boolean {
  return tail[eofOffset + HEAD_LENGTH + jsonLength - 1] === CLOSING
}

/** May be cut off behind its length. */
export function candidateAt(tail: Uint8Array, eofOffset: number): Candidate | undefined {
  if (tail[eofOffset] !== SectionType.eof || tail[eofOffset + 1] !== SectionType.description) return undefined
  if (eofOffset + HEAD_LENGTH > tail.length || (tail[eofOffset + HEAD_LENGTH] ?? OPENING) !== OPENING)
    return undefined
  const view = new DataView(tail.buffer, tail.byteOffset + eofOffset, HEAD_LENGTH)
  const jsonLength = view.getUint32(2)
  return jsonLength >= 2 && jsonLength <= MAX_DESCRIPTION ? { eofOffset, jsonLength } : undefined
}

/** Bytes there are for the JSON. */
function jsonRoom(tail: Uint8Array, { eofOffset }: Candidate): number {
  return tail.length - eofOffset - HEAD_LENGTH
}

/** @returns undefined when it is none. All of it is there. */
export function readCandidate(
  tail: Uint8Array,
  { eofOffset, jsonLength }: Candidate,
): FoundDescription | undefined {
  const jsonOffset = eofOffset + HEAD_LENGTH
  const description = parseDescription(tail.subarray(jsonOffset, jsonOffset + jsonLength))
  return description && { eofOffset, jsonOffset, jsonLength, description }
}
