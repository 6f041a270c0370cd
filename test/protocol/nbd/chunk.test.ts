// SPDX-License-Identifier: Apache-2.0

import fc from 'fast-check'
import t from 'tap'
import type { Agreed, ReplyStyle } from '../../../protocol/nbd/agreed.js'
import {
  parseDataHead,
  parseError,
  parseHole,
  parseReplyHeader,
  parseStatus,
  type ReplyHeader,
} from '../../../protocol/nbd/chunk.js'
import {
  dataHead,
  doneChunk,
  errorChunk,
  holeChunk,
  type ReplyTo,
  simpleReply,
  statusChunk,
} from '../../../protocol/nbd/reply.js'
import { PeerError } from '../../../protocol/peer-error.js'
import { mutate } from '../../helpers/mutate.js'
import { everything } from '../../helpers/nbd/agreed.js'
import { wire } from '../../helpers/nbd/hex.js'
import { holds } from '../../helpers/property.js'

const to: ReplyTo = { cookie: 0xfedcba9876543210n, wireOffset: 0x20000n }
const styled = (replies: ReplyStyle): Agreed => ({ ...everything, replies })

/** Heads of chunks up to their length: magic, flags, type, cookie, and the request's offset where it is told. */
const compact = (flagsAndType: string) => `668e33ef ${flagsAndType} fedcba9876543210`
const extended = (flagsAndType: string) => `6e8a278c ${flagsAndType} fedcba9876543210 0000000000020000`

const chunk = { kind: 'chunk', cookie: to.cookie, done: true } as const
const read: readonly { name: string; replies: ReplyStyle; bytes: string; header: Partial<ReplyHeader> }[] = [
  {
    name: 'simple',
    replies: 'simple',
    bytes: '67446698 00000005 fedcba9876543210',
    header: { kind: 'simple', headerLength: 16, cookie: to.cookie, error: 5 },
  },
  {
    name: 'simple, where chunks were agreed on too',
    replies: 'structured',
    bytes: '67446698 00000000 fedcba9876543210',
    header: { kind: 'simple', headerLength: 16, cookie: to.cookie, error: 0 },
  },
  {
    name: 'data',
    replies: 'structured',
    bytes: `${compact('0000 0001')} 00000208`,
    header: {
      ...chunk,
      done: false,
      headerLength: 20,
      type: 'OFFSET_DATA',
      payloadLength: 520,
      wireOffset: undefined,
    },
  },
  {
    name: 'the longest data',
    replies: 'extended',
    bytes: `${extended('0001 0001')} 0000000000010008`,
    header: {
      ...chunk,
      headerLength: 32,
      type: 'OFFSET_DATA',
      payloadLength: 65544,
      wireOffset: to.wireOffset,
    },
  },
  {
    name: 'flags that are not known',
    replies: 'structured',
    bytes: `${compact('ffff 0000')} 00000000`,
    header: { ...chunk, type: 'NONE' },
  },
  {
    name: 'an error that is not known',
    replies: 'structured',
    bytes: `${compact('0001 8063')} 00000010`,
    header: { ...chunk, type: 'ERROR' },
  },
  {
    name: 'the longest status',
    replies: 'structured',
    bytes: `${compact('0001 0005')} 00800004`,
    header: { ...chunk, payloadLength: 8388612 },
  },
  {
    name: 'the longest status, extended',
    replies: 'extended',
    bytes: `${extended('0001 0006')} 0000000001000008`,
    header: { ...chunk, type: 'BLOCK_STATUS_EXT', payloadLength: 16777224 },
  },
]
for (const { name, replies, bytes, header } of read) {
  t.test(`a header is read: ${name}`, async (t) => {
    const whole = wire(bytes)
    const found = parseReplyHeader(whole, 0, styled(replies))
    t.match(found, header)
    t.equal(found?.headerLength, whole.length)
    t.same(
      parseReplyHeader(Buffer.concat([Buffer.from('xyz'), whole, Buffer.from('more')]), 3, styled(replies)),
      found,
    )
    for (let length = 0; length < whole.length; length++)
      if (parseReplyHeader(whole.subarray(0, length), 0, styled(replies)) !== undefined)
        t.fail(`read from ${length} bytes`)
  })
}

const wrong: readonly { name: string; replies: ReplyStyle; bytes: string; says: RegExp }[] = [
  {
    name: 'a chunk where replies are simple',
    replies: 'simple',
    bytes: compact('0001 0000'),
    says: /found 0x668e33ef, expected 0x67446698/,
  },
  {
    name: 'a simple one where headers are extended',
    replies: 'extended',
    bytes: '67446698',
    says: /expected 0x6e8a278c/,
  },
  {
    name: 'a compact one where headers are extended',
    replies: 'extended',
    bytes: compact('0001 0000'),
    says: /found 0x668e33ef/,
  },
  {
    name: 'none',
    replies: 'structured',
    bytes: '00000000',
    says: /found 0x0, expected 0x668e33ef or 0x67446698/,
  },
  {
    name: 'a type that is not known',
    replies: 'structured',
    bytes: `${compact('0001 0003')} 00000000`,
    says: /type of a chunk: found 3/,
  },
  {
    name: 'NONE with payload',
    replies: 'structured',
    bytes: `${compact('0001 0000')} 00000001`,
    says: /chunk NONE: found 1 bytes of payload, expected 0/,
  },
  {
    name: 'NONE that is not the last',
    replies: 'structured',
    bytes: `${compact('0000 0000')} 00000000`,
    says: /flag DONE not set/,
  },
  {
    name: 'data without a byte',
    replies: 'structured',
    bytes: `${compact('0001 0001')} 00000008`,
    says: /expected 9 to 65544/,
  },
  {
    name: 'data that is too long',
    replies: 'structured',
    bytes: `${compact('0001 0001')} 00010009`,
    says: /found 65545/,
  },
  {
    name: 'a hole of another length',
    replies: 'structured',
    bytes: `${compact('0001 0002')} 0000000d`,
    says: /expected 12/,
  },
  {
    name: 'status without an extent',
    replies: 'structured',
    bytes: `${compact('0001 0005')} 00000004`,
    says: /4 and 8 for each/,
  },
  {
    name: 'status with half an extent',
    replies: 'structured',
    bytes: `${compact('0001 0005')} 00000010`,
    says: /found 16 bytes/,
  },
  {
    name: 'status of too many extents',
    replies: 'structured',
    bytes: `${compact('0001 0005')} 0080000c`,
    says: /up to 1048576 extents/,
  },
  {
    name: 'wide status with compact headers',
    replies: 'structured',
    bytes: `${compact('0001 0006')} 00000018`,
    says: /found BLOCK_STATUS_EXT, expected none with structured replies/,
  },
  {
    name: 'narrow status with extended headers',
    replies: 'extended',
    bytes: `${extended('0001 0005')} 000000000000000c`,
    says: /found BLOCK_STATUS, expected none with extended replies/,
  },
  {
    name: 'an error without its length',
    replies: 'structured',
    bytes: `${compact('0001 8001')} 00000005`,
    says: /expected 6 to 65536/,
  },
  {
    name: 'an error without its place',
    replies: 'structured',
    bytes: `${compact('0001 8002')} 0000000d`,
    says: /expected 14 to 65536/,
  },
  {
    name: 'a length of 2^64 - 1',
    replies: 'extended',
    bytes: `${extended('0001 8001')} ffffffffffffffff`,
    says: /chunk ERROR: found 18446744073709552000/,
  },
]
for (const { name, replies, bytes, says } of wrong) {
  t.test(`a header is refused: ${name}`, async (t) => {
    t.throws(() => parseReplyHeader(wire(bytes), 0, styled(replies)), { name: 'PeerError', message: says })
  })
}

t.test('payloads are read', async (t) => {
  t.equal(parseDataHead(wire('0000000000020200 070707')), 0x20200)
  t.same(parseHole(wire('0000000000020000 00000200')), { offset: 0x20000, length: 512 })
  t.same(parseStatus('BLOCK_STATUS', wire('00000002 00020000 00000003 00010000 ffffffff')), {
    contextId: 2,
    extents: [
      { length: 0x20000, status: 3 },
      { length: 0x10000, status: 0xffffffff },
    ],
  })
  t.same(parseStatus('BLOCK_STATUS_EXT', wire('00000002 00000001 0000010000000000 0000000100000001')), {
    contextId: 2,
    extents: [{ length: 2 ** 40, status: 2 ** 32 + 1 }],
  })
  t.same(parseError('ERROR', wire("0000001c 0004 'full'")), { error: 28, text: 'full', offset: undefined })
  t.same(
    parseError('ERROR', wire("00000005 0002 'io' 12345678")),
    { error: 5, text: 'io', offset: undefined },
    'of a type not known',
  )
  t.same(parseError('ERROR_OFFSET', wire("00000005 0002 'io' 0000000000020200")), {
    error: 5,
    text: 'io',
    offset: 0x20200,
  })
})

const wrongPayloads: readonly { name: string; parse: () => unknown; says: RegExp }[] = [
  {
    name: 'data at 2^63',
    parse: () => parseDataHead(wire('8000000000000000')),
    says: /offset of chunk OFFSET_DATA: .* less than 2\^53/,
  },
  {
    name: 'a hole of 0 bytes',
    parse: () => parseHole(wire('0000000000000000 00000000')),
    says: /length of a hole: found 0/,
  },
  {
    name: 'an extent of 0 bytes',
    parse: () => parseStatus('BLOCK_STATUS', wire('00000000 00000000 00000000')),
    says: /length of an extent: found 0/,
  },
  {
    name: 'fewer extents than it says',
    parse: () => parseStatus('BLOCK_STATUS_EXT', wire(`00000000 00000002 ${'01'.repeat(16)}`)),
    says: /found 1 extents, expected 2, as it says/,
  },
  {
    name: 'error 0',
    parse: () => parseError('ERROR', wire('00000000 0000')),
    says: /error of chunk ERROR: found 0/,
  },
  {
    name: 'a text beyond the payload',
    parse: () => parseError('ERROR', wire("00000005 0005 'full'")),
    says: /found 10 bytes, expected at least 11/,
  },
  {
    name: 'a place beyond the payload',
    parse: () => parseError('ERROR_OFFSET', wire("00000005 0004 'full' 00000000")),
    says: /expected at least 18/,
  },
]
for (const { name, parse, says } of wrongPayloads) {
  t.test(`a payload is refused: ${name}`, async (t) => {
    t.throws(parse, { name: 'PeerError', message: says })
  })
}

/** Reads one reply with its payload, if all of it is there. */
function readOne(bytes: Uint8Array, agreed: Agreed): void {
  const header = parseReplyHeader(bytes, 0, agreed)
  if (header?.kind !== 'chunk') return
  if (header.payloadLength > 16 * 2 ** 20 + 8) throw new Error('a payload that nobody can bear')
  const payload = bytes.subarray(header.headerLength, header.headerLength + header.payloadLength)
  if (payload.length < header.payloadLength) return
  const { type } = header
  if (type === 'OFFSET_DATA') parseDataHead(payload)
  else if (type === 'OFFSET_HOLE') parseHole(payload)
  else if (type === 'ERROR' || type === 'ERROR_OFFSET') parseError(type, payload)
  else if (type !== 'NONE') parseStatus(type, payload)
}

const whole = (['structured', 'extended'] as const).flatMap((style) => [
  simpleReply(to),
  doneChunk(style, to),
  Buffer.concat([dataHead(style, to, 0x20200, 8, true), Buffer.alloc(8)]),
  holeChunk(style, to, 0x20000, 512, true),
  statusChunk(
    style,
    to,
    2,
    [
      { length: 512, status: 3 },
      { length: 1024, status: 0 },
    ],
    true,
  ),
  errorChunk(style, to, 'EIO', 'text', true),
  errorChunk(style, to, 'EIO', 'text', true, 0x20200),
])

t.test('whatever is damaged, a reply is read, refused, or found too short', async (t) => {
  const property = fc.property(fc.nat(whole.length - 1), fc.infiniteStream(fc.nat()), (index, numbers) => {
    const damaged = Buffer.concat([whole[index] ?? wire(''), Buffer.alloc(8)])
    mutate(damaged, damaged.length, (below) => (numbers.next().value ?? 0) % below)
    return (['simple', 'structured', 'extended'] as const).every((replies) => {
      try {
        readOne(damaged, styled(replies))
        return true
      } catch (error) {
        return error instanceof PeerError
      }
    })
  })
  holds(t, property, 5000)
})
