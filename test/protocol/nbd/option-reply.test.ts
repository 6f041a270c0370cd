// SPDX-License-Identifier: Apache-2.0

import fc from 'fast-check'
import t from 'tap'
import {
  formatOptionReply,
  OPTION_REPLY_HEADER_LENGTH,
  type OptionReply,
  parseOptionReply,
  parseOptionReplyHeader,
} from '../../../protocol/nbd/option-reply.js'
import { wire } from '../../helpers/nbd/hex.js'
import { text } from '../../helpers/nbd/texts.js'
import { holds } from '../../helpers/property.js'

const cases: readonly { name: string; reply: OptionReply; bytes: string }[] = [
  { name: 'ACK', reply: { kind: 'ACK' }, bytes: '00000001 00000000' },
  {
    name: 'SERVER with a description',
    reply: { kind: 'SERVER', name: 'disk', description: 'a disk' },
    bytes: "00000002 0000000e 00000004 'disk' 'a disk'",
  },
  {
    name: 'SERVER of the default export',
    reply: { kind: 'SERVER', name: '', description: '' },
    bytes: '00000002 00000004 00000000',
  },
  {
    name: 'INFO EXPORT',
    reply: { kind: 'INFO', info: { kind: 'EXPORT', size: 0x100000, flags: 0x58f } },
    bytes: '00000003 0000000c 0000 0000000000100000 058f',
  },
  {
    name: 'INFO NAME',
    reply: { kind: 'INFO', info: { kind: 'NAME', name: 'disk' } },
    bytes: "00000003 00000006 0001 'disk'",
  },
  {
    name: 'INFO DESCRIPTION',
    reply: { kind: 'INFO', info: { kind: 'DESCRIPTION', text: 'a disk' } },
    bytes: "00000003 00000008 0002 'a disk'",
  },
  {
    name: 'INFO BLOCK_SIZE',
    reply: {
      kind: 'INFO',
      info: { kind: 'BLOCK_SIZE', minimum: 512, preferred: 4096, maximumPayload: 0xffffffff },
    },
    bytes: '00000003 0000000e 0003 00000200 00001000 ffffffff',
  },
  {
    name: 'INFO that is not known',
    reply: { kind: 'INFO', info: { kind: 'unknown', info: 9 } },
    bytes: '00000003 00000002 0009',
  },
  {
    name: 'META_CONTEXT',
    reply: { kind: 'META_CONTEXT', id: 2, name: 'base:allocation' },
    bytes: "00000004 00000013 00000002 'base:allocation'",
  },
  {
    name: 'an error',
    reply: { kind: 'error', error: 'ERR_UNKNOWN', text: 'no export' },
    bytes: "80000006 00000009 'no export'",
  },
  {
    name: 'an error that is not known',
    reply: { kind: 'error', error: 0xffffffff, text: '' },
    bytes: 'ffffffff 00000000',
  },
]

for (const { name, reply, bytes } of cases) {
  t.test(`a reply is read and written: ${name}`, async (t) => {
    const whole = wire(`0003e889045565a9 00000007 ${bytes}`)
    t.same(formatOptionReply(7, reply), whole)
    const header = parseOptionReplyHeader(whole)
    t.match(header, { option: 7, length: whole.length - OPTION_REPLY_HEADER_LENGTH })
    t.same(parseOptionReply(header?.reply ?? 0, whole.subarray(OPTION_REPLY_HEADER_LENGTH)), reply)
    for (let length = 0; length < OPTION_REPLY_HEADER_LENGTH; length++)
      t.equal(parseOptionReplyHeader(whole.subarray(0, length)), undefined)
  })
}

const wrong: readonly { name: string; reply: number; data: string; says: RegExp }[] = [
  { name: 'ACK with data', reply: 1, data: '00', says: /option reply ACK: found 1 bytes, expected 0/ },
  { name: 'a name beyond the data', reply: 2, data: "00000005 'disk'", says: /expected at least 9 bytes/ },
  { name: 'INFO without its kind', reply: 3, data: '00', says: /expected at least 2/ },
  { name: 'INFO EXPORT too short', reply: 3, data: '0000 0000000000100000', says: /expected at least 12/ },
  {
    name: 'INFO EXPORT too long',
    reply: 3,
    data: '0000 0000000000100000 0001 00',
    says: /found 13 bytes, expected 12/,
  },
  {
    name: 'INFO EXPORT of 2^63 bytes',
    reply: 3,
    data: '0000 8000000000000000 0001',
    says: /less than 2\^53/,
  },
  {
    name: 'INFO BLOCK_SIZE too short',
    reply: 3,
    data: '0003 00000001 00000001',
    says: /expected at least 14/,
  },
  {
    name: 'a context that is not UTF-8',
    reply: 4,
    data: '00000000 ff',
    says: /found ff, expected text in UTF-8/,
  },
  {
    name: 'a reply that is not known',
    reply: 5,
    data: '',
    says: /option reply: found 5, expected 1 to 4, or an error/,
  },
]
for (const { name, reply, data, says } of wrong) {
  t.test(`a reply is refused: ${name}`, async (t) => {
    t.throws(() => parseOptionReply(reply, wire(data)), { name: 'PeerError', message: says })
  })
}

t.test('a header is refused: another magic number, too much data', async (t) => {
  t.throws(() => parseOptionReplyHeader(wire("'IHAVEOPT' 00000001 00000001 00000000")), { name: 'PeerError' })
  t.throws(() => parseOptionReplyHeader(wire('0003e889045565a9 00000003 00000002 00010001')), {
    name: 'PeerError',
    message: 'reply to option LIST: found 65537 bytes, expected at most 65536',
  })
})

t.test('texts for people may be anything; what is sent is cut at a character', async (t) => {
  t.same(parseOptionReply(0x80000001, wire("'a' ff 'b'")), {
    kind: 'error',
    error: 'ERR_UNSUP',
    text: 'a\ufffdb',
  })
  const sent = formatOptionReply(1, { kind: 'error', error: 'ERR_INVALID', text: `x${'ß'.repeat(3000)}` })
  t.equal(sent.length, OPTION_REPLY_HEADER_LENGTH + 4095)
  const back = parseOptionReply(0x80000003, sent.subarray(OPTION_REPLY_HEADER_LENGTH))
  t.same(back, { kind: 'error', error: 'ERR_INVALID', text: `x${'ß'.repeat(2047)}` })
})

const reply: fc.Arbitrary<OptionReply> = fc.oneof(
  fc.record({ kind: fc.constant('SERVER' as const), name: text, description: text }),
  fc.record({
    kind: fc.constant('META_CONTEXT' as const),
    id: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
    name: text,
  }),
  fc.record({
    kind: fc.constant('INFO' as const),
    info: fc.record({ kind: fc.constant('EXPORT' as const), size: fc.maxSafeNat(), flags: fc.nat(0xffff) }),
  }),
)

t.test('replies come back as they were written', async (t) => {
  const property = fc.property(reply, (one) => {
    const bytes = formatOptionReply(7, one)
    const number = parseOptionReplyHeader(bytes)?.reply ?? 0
    return (
      JSON.stringify(parseOptionReply(number, bytes.subarray(OPTION_REPLY_HEADER_LENGTH))) ===
      JSON.stringify(one)
    )
  })
  holds(t, property, 500)
})
