// SPDX-License-Identifier: Apache-2.0
// XBZRLE: a page as the difference to what was sent of it last. Source: xbzrle_decode_buffer() in QEMU 10.0,
// migration/xbzrle.c, and docs/xbzrle.txt.
//
//   pairs until the delta ends:  unchanged count | changed count | changed bytes
//
// Counts are ULEB128 of one or two bytes. An unchanged run at the end is not written.

import { unexpected } from './error-text.js'

/** A count and where the next thing begins. */
interface Count {
  readonly value: number
  readonly next: number
}

/**
 * @param page   the page as it was last received, all zero when it never was; changed in place. After an error its
 *   content means nothing.
 * @param delta  the payload of the record
 * @throws FormatError for every delta that QEMU's loader refuses
 */
export function applyDelta(page: Uint8Array, delta: Uint8Array): void {
  let from = 0
  let to = 0
  while (from < delta.length) {
    const unchanged = readCount(delta, from)
    if (from > 0 && unchanged.value === 0) throw unexpected(title(from), 'no unchanged bytes', 'at least 1')
    const changed = readCount(delta, unchanged.next)
    if (changed.value === 0) throw unexpected(title(unchanged.next), 'no changed bytes', 'at least 1')
    to += unchanged.value
    from = changed.next
    if (to + changed.value > page.length)
      throw unexpected(title(from), `bytes to ${to + changed.value}`, `at most ${page.length}`)
    if (changed.value > delta.length - from)
      throw unexpected(title(from), `${delta.length - from} bytes left`, `${changed.value} changed bytes`)
    page.set(delta.subarray(from, from + changed.value), to)
    to += changed.value
    from += changed.value
  }
}

function readCount(delta: Uint8Array, at: number): Count {
  const first = delta[at]
  if (first === undefined) throw unexpected(title(at), 'the end', 'a count')
  if (first < 0x80) return { value: first, next: at + 1 }
  const second = delta[at + 1]
  if (second === undefined) throw unexpected(title(at), 'half a count', 'two bytes')
  if (second >= 0x80) throw unexpected(title(at), 'a count of three bytes or more', 'at most two')
  return { value: (first & 0x7f) | (second << 7), next: at + 2 }
}

function title(at: number): string {
  return `XBZRLE delta, byte ${at}`
}
