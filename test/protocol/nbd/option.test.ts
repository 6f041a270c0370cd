// SPDX-License-Identifier: Apache-2.0

import fc from 'fast-check'
import t from 'tap'
import {
  formatOption,
  OPTION_HEADER_LENGTH,
  type OptionRequest,
  parseOption,
  parseOptionHeader,
} from '../../../protocol/nbd/option.js'
import { PeerError } from '../../../protocol/peer-error.js'
import { wire } from '../../helpers/nbd/hex.js'
import { text } from '../../helpers/nbd/texts.js'
import { holds } from '../../helpers/property.js'

const cases: readonly { name: string; request: OptionRequest; bytes: string }[] = [
  { name: 'EXPORT_NAME', request: { kind: 'EXPORT_NAME', name: 'disk' }, bytes: "00000001 00000004 'disk'" },
  {
    name: 'EXPORT_NAME of the default',
    request: { kind: 'EXPORT_NAME', name: '' },
    bytes: '00000001 00000000',
  },
  { name: 'ABORT', request: { kind: 'ABORT' }, bytes: '00000002 00000000' },
  { name: 'LIST', request: { kind: 'LIST' }, bytes: '00000003 00000000' },
  { name: 'STARTTLS', request: { kind: 'STARTTLS' }, bytes: '00000005 00000000' },
  {
    name: 'INFO without requests',
    request: { kind: 'INFO', name: 'disk', infos: [] },
    bytes: "00000006 0000000a 00000004 'disk' 0000",
  },
  {
    name: 'GO with requests',
    request: { kind: 'GO', name: 'ß', infos: [3, 1, 77] },
    bytes: "00000007 0000000e 00000002 'ß' 0003 0003 0001 004d",
  },
  { name: 'STRUCTURED_REPLY', request: { kind: 'STRUCTURED_REPLY' }, bytes: '00000008 00000000' },
  {
    name: 'LIST_META_CONTEXT without queries',
    request: { kind: 'LIST_META_CONTEXT', name: '', queries: [] },
    bytes: '00000009 00000008 00000000 00000000',
  },
  {
    name: 'SET_META_CONTEXT',
    request: { kind: 'SET_META_CONTEXT', name: 'disk', queries: ['base:allocation', ''] },
    bytes: "0000000a 00000023 00000004 'disk' 00000002 0000000f 'base:allocation' 00000000",
  },
  { name: 'EXTENDED_HEADERS', request: { kind: 'EXTENDED_HEADERS' }, bytes: '0000000b 00000000' },
  { name: 'one that is not listed', request: { kind: 'unknown', option: 4 }, bytes: '00000004 00000000' },
]

function parse(bytes: Uint8Array): OptionRequest | undefined {
  const header = parseOptionHeader(bytes)
  if (header === undefined) return undefined
  t.equal(bytes.length, OPTION_HEADER_LENGTH + header.length)
  return parseOption(header.option, bytes.subarray(OPTION_HEADER_LENGTH))
}

for (const { name, request, bytes } of cases) {
  t.test(`an option is read and written: ${name}`, async (t) => {
    const whole = wire(`'IHAVEOPT' ${bytes}`)
    t.same(formatOption(request), whole)
    t.same(parse(whole), request)
    for (let length = 0; length < OPTION_HEADER_LENGTH; length++)
      t.equal(parseOptionHeader(whole.subarray(0, length)), undefined)
  })
}

t.test('data of ABORT is ignored', async (t) => {
  t.same(parseOption(2, wire('00')), { kind: 'ABORT' })
})

const long = 'x'.repeat(4097)
const hex = (value: number) => value.toString(16).padStart(8, '0')
const wrong: readonly { name: string; option: number; data: string; says: RegExp }[] = [
  {
    name: 'LIST with data',
    option: 3,
    data: '00',
    says: /option LIST: found 1 bytes, expected 0 bytes of data/,
  },
  {
    name: 'a name that is not UTF-8',
    option: 1,
    data: 'c328',
    says: /export name .*: found c3 28, expected text/,
  },
  { name: 'a name with NUL', option: 1, data: "'a' 00", says: /found 61 00/ },
  { name: 'a long name', option: 1, data: `'${long}'`, says: /found 4097 bytes, expected at most 4096/ },
  {
    name: 'a name beyond the data',
    option: 7,
    data: "00000005 'disk'",
    says: /found 8 bytes, expected at least 9 bytes/,
  },
  { name: 'a name beyond everything', option: 7, data: "ffffffff 'disk'", says: /found 4294967295 bytes/ },
  {
    name: 'requests beyond the data',
    option: 6,
    data: '00000000 0002 0001',
    says: /found 8 bytes, expected at least 10/,
  },
  {
    name: 'data behind the requests',
    option: 6,
    data: '00000000 0000 00',
    says: /found 7 bytes, expected 6/,
  },
  {
    name: '65 requests',
    option: 6,
    data: `00000000 0041 ${'0001'.repeat(65)}`,
    says: /found 65 information requests/,
  },
  {
    name: 'a query beyond the data',
    option: 10,
    data: '00000000 00000001 00000002 41',
    says: /expected at least 14/,
  },
  { name: 'queries that are not there', option: 9, data: '00000000 00000002', says: /expected at least 12/ },
  {
    name: '257 queries',
    option: 10,
    data: `00000000 ${hex(257)}`,
    says: /found 257 queries, expected at most 256/,
  },
  {
    name: 'a long query',
    option: 10,
    data: `00000000 00000001 ${hex(4097)} '${long}'`,
    says: /query of option SET_/,
  },
]
for (const { name, option, data, says } of wrong) {
  t.test(`data of an option is refused: ${name}`, async (t) => {
    t.throws(() => parseOption(option, wire(data)), { name: 'PeerError', message: says })
  })
}

t.test('a header is refused: another magic number, too much data', async (t) => {
  t.throws(() => parseOptionHeader(wire('4948415645 4f5055 00000001 00000000')), {
    name: 'PeerError',
    message: /magic/,
  })
  t.ok(parseOptionHeader(wire("'IHAVEOPT' 00000007 00010000")))
  t.throws(() => parseOptionHeader(wire("'IHAVEOPT' 00000007 00010001")), {
    name: 'PeerError',
    message: 'data of option GO: found 65537 bytes, expected at most 65536',
  })
})

const request: fc.Arbitrary<OptionRequest> = fc.oneof(
  fc.record({ kind: fc.constant('EXPORT_NAME' as const), name: text }),
  fc.record({
    kind: fc.constantFrom('INFO' as const, 'GO' as const),
    name: text,
    infos: fc.array(fc.nat(0xffff), { maxLength: 64 }),
  }),
  fc.record({
    kind: fc.constantFrom('LIST_META_CONTEXT' as const, 'SET_META_CONTEXT' as const),
    name: text,
    queries: fc.array(text, { maxLength: 40 }),
  }),
)

t.test('options come back as they were written', async (t) => {
  const property = fc.property(request, (one) => {
    const bytes = formatOption(one)
    const header = parseOptionHeader(bytes)
    const back = parseOption(header?.option ?? 0, bytes.subarray(OPTION_HEADER_LENGTH))
    return JSON.stringify(back) === JSON.stringify(one)
  })
  holds(t, property, 500)
})

t.test('data that is cut or has more behind it is refused, but for names alone', async (t) => {
  const named = request.filter(({ kind }) => kind !== 'EXPORT_NAME')
  const property = fc.property(named, fc.nat(), fc.boolean(), (one, place, cut) => {
    const bytes = formatOption(one)
    const option = parseOptionHeader(bytes)?.option ?? 0
    const data = bytes.subarray(OPTION_HEADER_LENGTH)
    const damaged = cut ? data.subarray(0, place % data.length) : Buffer.concat([data, Buffer.alloc(1)])
    try {
      parseOption(option, damaged)
      return false
    } catch (error) {
      return error instanceof PeerError
    }
  })
  holds(t, property, 500)
})
