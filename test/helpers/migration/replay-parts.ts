// SPDX-License-Identifier: Apache-2.0
// Pieces of the naive reader that stand alone: deltas, bodies of dirty-bitmap sections, the end of a stream.

import assert from 'node:assert'
import { Cursor } from './cursor.js'

/** @param page  changed in place: the page as it was sent before */
export function deltaInto(page: Buffer, delta: Buffer): void {
  const cursor = new Cursor(delta)
  const count = () => {
    const low = cursor.u8()
    return low < 128 ? low : low - 128 + cursor.u8() * 128
  }
  let at = 0
  while (cursor.at < delta.length) {
    at += count()
    const changed = cursor.take(count())
    assert(at + changed.length <= page.length)
    page.set(changed, at)
    at += changed.length
  }
}

/** Leaves the cursor behind the record with EOS. */
export function bitmapBody(cursor: Cursor): void {
  for (;;) {
    const flags = cursor.u8()
    assert(flags < 128, 'flags of one byte')
    if (flags & 0x08) cursor.counted()
    if (flags & 0x04) cursor.counted()
    if (flags & 0x10) cursor.take(5)
    if (flags & 0x40) cursor.take(12)
    if (flags & 0x40 && !(flags & 0x02)) cursor.take(cursor.u64())
    if (flags & 0x01) return
  }
}

/** EOF and the description, which are the last bytes. */
export function endOf(bytes: Buffer): { eofOffset: number; json: Buffer } {
  for (let at = bytes.length - 7; at >= 0; at--) {
    if (bytes[at] !== 0 || bytes[at + 1] !== 6) continue
    if (bytes.readUInt32BE(at + 2) === bytes.length - at - 6)
      return { eofOffset: at, json: bytes.subarray(at + 6) }
  }
  assert.fail('no description at the end')
}
