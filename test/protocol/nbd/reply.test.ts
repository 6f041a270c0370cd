// SPDX-License-Identifier: Apache-2.0

import t from 'tap'
import { parseError } from '../../../protocol/nbd/chunk.js'
import {
  dataHead,
  doneChunk,
  doneReply,
  errorChunk,
  errorReply,
  holeChunk,
  type ReplyTo,
  simpleReply,
  statusChunk,
} from '../../../protocol/nbd/reply.js'
import { hexOf, wire } from '../../helpers/nbd/hex.js'

const to: ReplyTo = { cookie: 0xfedcba9876543210n, wireOffset: 0x20000n }
const style = 'structured'

/** Heads of chunks up to their length: magic, flags, type, cookie, and the request's offset where it is told. */
const compact = (flagsAndType: string) => `668e33ef ${flagsAndType} fedcba9876543210`
const extended = (flagsAndType: string) => `6e8a278c ${flagsAndType} fedcba9876543210 0000000000020000`

const written: readonly { name: string; bytes: Uint8Array; expected: string }[] = [
  { name: 'simple: done', bytes: simpleReply(to), expected: '67446698 00000000 fedcba9876543210' },
  { name: 'simple: EIO', bytes: simpleReply(to, 'EIO'), expected: '67446698 00000005 fedcba9876543210' },
  { name: 'done', bytes: doneChunk(style, to), expected: `${compact('0001 0000')} 00000000` },
  {
    name: 'done, extended',
    bytes: doneChunk('extended', to),
    expected: `${extended('0001 0000')} 0000000000000000`,
  },
  {
    name: 'what stands in front of data',
    bytes: dataHead(style, to, 0x20200, 512, false),
    expected: `${compact('0000 0001')} 00000208 0000000000020200`,
  },
  {
    name: 'what stands in front of data, extended',
    bytes: dataHead('extended', to, 0x20200, 512, true),
    expected: `${extended('0001 0001')} 0000000000000208 0000000000020200`,
  },
  {
    name: 'a hole',
    bytes: holeChunk(style, to, 0x20000, 0xffffffff, true),
    expected: `${compact('0001 0002')} 0000000c 0000000000020000 ffffffff`,
  },
  {
    name: 'status',
    bytes: statusChunk(
      style,
      to,
      2,
      [
        { length: 0x20000, status: 3 },
        { length: 0x10000, status: 0 },
      ],
      false,
    ),
    expected: `${compact('0000 0005')} 00000014 00000002 00020000 00000003 00010000 00000000`,
  },
  {
    name: 'status, extended',
    bytes: statusChunk('extended', to, 2, [{ length: 2 ** 40, status: 3 }], true),
    expected: `${extended('0001 0006')} 0000000000000018 00000002 00000001 0000010000000000 0000000000000003`,
  },
  {
    name: 'status of an extent that 32 bits cannot say: cut, and the last',
    bytes: statusChunk(
      style,
      to,
      0,
      [
        { length: 512, status: 0 },
        { length: 2 ** 40, status: 3 },
        { length: 1, status: 0 },
      ],
      true,
    ),
    expected: `${compact('0001 0005')} 00000014 00000000 00000200 00000000 ffff0000 00000003`,
  },
  {
    name: 'an error',
    bytes: errorChunk(style, to, 'ENOSPC', 'full', true),
    expected: `${compact('0001 8001')} 0000000a 0000001c 0004 'full'`,
  },
  {
    name: 'an error with its place, extended',
    bytes: errorChunk('extended', to, 'EIO', '', false, 0x20200),
    expected: `${extended('0000 8002')} 000000000000000e 00000005 0000 0000000000020200`,
  },
]
for (const { name, bytes, expected } of written) {
  t.test(`a reply is written: ${name}`, async (t) => {
    t.equal(hexOf(bytes), hexOf(wire(expected)))
  })
}

t.test('whole answers have the form that was agreed on', async (t) => {
  t.same(doneReply('simple', to), simpleReply(to))
  t.same(doneReply('structured', to), simpleReply(to))
  t.same(doneReply('extended', to), doneChunk('extended', to))
  t.same(errorReply('simple', to, 'EINVAL', 'why'), simpleReply(to, 'EINVAL'))
  t.same(errorReply('structured', to, 'EINVAL', 'why'), errorChunk('structured', to, 'EINVAL', 'why', true))
  t.same(errorReply('extended', to, 'EINVAL', 'why'), errorChunk('extended', to, 'EINVAL', 'why', true))
})

t.test('a chunk has no more extents than it may', async (t) => {
  const extents = Array.from({ length: 2 ** 20 + 1 }, () => ({ length: 512, status: 0 }))
  t.equal(statusChunk('structured', to, 0, extents, true).length, 20 + 4 + 8 * 2 ** 20)
  t.equal(statusChunk('extended', to, 0, extents, true).length, 32 + 8 + 16 * 2 ** 20)
})

t.test('the text of an error is cut', async (t) => {
  const bytes = errorChunk(style, to, 'EIO', 'ß'.repeat(4000), true)
  t.equal(bytes.length, 20 + 6 + 4096)
  t.equal(parseError('ERROR', bytes.subarray(20)).text, 'ß'.repeat(2048))
})
