// SPDX-License-Identifier: Apache-2.0

import fc from 'fast-check'
import t from 'tap'
import { FormatError } from '../../../protocol/format-error.js'
import { applyDelta } from '../../../protocol/migration/xbzrle.js'
import { bytesOf } from '../../helpers/migration/prefix.js'
import { holds } from '../../helpers/property.js'

const PAGE = 4096

/** As QEMU's encoder does it: runs to the next difference, no run of unchanged bytes at the end. */
function encode(before: Uint8Array, after: Uint8Array): Uint8Array {
  const delta: number[] = []
  const count = (value: number) => (value < 128 ? [value] : [(value & 127) | 128, value >> 7])
  for (let at = 0; at < after.length; ) {
    let changed = at
    while (changed < after.length && after[changed] === before[changed]) changed++
    let end = changed
    while (end < after.length && after[end] !== before[end]) end++
    if (end > changed)
      delta.push(...count(changed - at), ...count(end - changed), ...after.subarray(changed, end))
    at = end
  }
  return Uint8Array.from(delta)
}

t.test('a delta makes the page it was made from', (t) => {
  const changes = fc.array(fc.record({ at: fc.nat(PAGE - 1), bytes: fc.uint8Array({ maxLength: 400 }) }), {
    maxLength: 12,
  })
  const property = fc.property(fc.nat(255), changes, (fill, list) => {
    const before = new Uint8Array(PAGE).fill(fill)
    const after = before.slice()
    for (const { at, bytes } of list) after.set(bytes.subarray(0, PAGE - at), at)
    const page = before.slice()
    applyDelta(page, encode(before, after))
    return Buffer.from(page).equals(after)
  })
  holds(t, property, 500)
  t.end()
})

const good = [
  { name: 'nothing', delta: [], page: [1, 2, 3, 4] },
  { name: 'from the first byte on', delta: [0, 2, 8, 9], page: [8, 9, 3, 4] },
  { name: 'the last byte', delta: [3, 1, 9], page: [1, 2, 3, 9] },
  { name: 'everything', delta: [0, 4, 5, 6, 7, 8], page: [5, 6, 7, 8] },
  { name: 'two runs', delta: [0, 1, 7, 2, 1, 8], page: [7, 2, 3, 8] },
  { name: 'counts of two bytes that would fit into one', delta: [0x80, 0, 0x81, 0, 9], page: [9, 2, 3, 4] },
]
for (const { name, delta, page } of good) {
  t.test(`a delta changes: ${name}`, (t) => {
    const found = bytesOf([1, 2, 3, 4])
    applyDelta(found, bytesOf(delta))
    t.same([...found], page)
    t.end()
  })
}

const bad = [
  { name: 'a count alone', delta: [1], says: 'byte 1: found the end, expected a count' },
  { name: 'no changed bytes', delta: [1, 0], says: 'found no changed bytes' },
  { name: 'fewer bytes than said', delta: [0, 2, 1], says: 'found 1 bytes left, expected 2' },
  { name: 'no unchanged bytes between runs', delta: [0, 1, 7, 0, 1, 8], says: 'found no unchanged bytes' },
  { name: 'unchanged bytes at the end', delta: [0, 1, 7, 3], says: 'found the end' },
  {
    name: 'a run past the end of the page',
    delta: [3, 2, 7, 8],
    says: 'found bytes to 5, expected at most 4',
  },
  { name: 'a gap past the end of the page', delta: [0xff, 0x7f, 1, 7], says: 'found bytes to 16384' },
  { name: 'half a count', delta: [0x80], says: 'found half a count' },
  { name: 'a count of three bytes', delta: [0x80, 0x80, 1], says: 'three bytes or more' },
]
for (const { name, delta, says } of bad) {
  t.test(`a delta is refused: ${name}`, (t) => {
    t.throws(() => applyDelta(new Uint8Array(4), bytesOf(delta)), {
      name: 'FormatError',
      message: new RegExp(says),
    })
    t.end()
  })
}

t.test(
  'no bytes make anything but a page or a format error, and nothing outside of the page is touched',
  (t) => {
    const count = fc.oneof(fc.nat(20), fc.nat(255))
    const property = fc.property(fc.array(count, { maxLength: 60 }), (delta) => {
      const around = new Uint8Array(300).fill(0xee)
      try {
        applyDelta(around.subarray(100, 200), Uint8Array.from(delta))
      } catch (error) {
        if (!(error instanceof FormatError)) throw error
      }
      return (
        around.subarray(0, 100).every((byte) => byte === 0xee) &&
        around.subarray(200).every((byte) => byte === 0xee)
      )
    })
    holds(t, property, 3000)
    t.end()
  },
)
