// SPDX-License-Identifier: Apache-2.0

import t from 'tap'
import {
  exportHeadLength,
  formatClientFlags,
  formatExportHead,
  formatHello,
  type Hello,
  parseClientFlags,
  parseExportHead,
  parseHello,
} from '../../../protocol/nbd/hello.js'
import { wire } from '../../helpers/nbd/hex.js'

const zeroes = '00'.repeat(124)
const hellos: readonly { name: string; hello: Hello; bytes: Uint8Array }[] = [
  {
    name: 'fixed newstyle',
    hello: { kind: 'newstyle', fixed: true, noZeroes: true },
    bytes: wire("'NBDMAGIC' 'IHAVEOPT' 0003"),
  },
  {
    name: 'newstyle that is not fixed',
    hello: { kind: 'newstyle', fixed: false, noZeroes: false },
    bytes: wire("'NBDMAGIC' 'IHAVEOPT' 0000"),
  },
  {
    name: 'oldstyle',
    hello: { kind: 'oldstyle', size: 0x100000, flags: 0xd6d },
    bytes: wire(`'NBDMAGIC' 0000420281861253 0000000000100000 00000d6d ${zeroes}`),
  },
]

for (const { name, hello, bytes } of hellos) {
  t.test(`a hello is read and written: ${name}`, async (t) => {
    t.same(parseHello(bytes), { hello, length: bytes.length })
    t.same(formatHello(hello), bytes)
    for (let length = 0; length < bytes.length; length++)
      if (parseHello(bytes.subarray(0, length)) !== undefined) t.fail(`read from ${length} bytes`)
  })
}

t.test('flags of a server that are not known are ignored', async (t) => {
  const hello = { kind: 'newstyle', fixed: true, noZeroes: false }
  t.same(parseHello(wire("'NBDMAGIC' 'IHAVEOPT' fffd")), { hello, length: 18 })
})

const wrong = [
  { name: 'another server', bytes: wire("'SSH-2.0-'"), says: /found 53 53 48 .*, expected "NBDMAGIC"/ },
  {
    name: 'another second number',
    bytes: wire("'NBDMAGIC' 0000420281861254"),
    says: /found 0x420281861254, expected 0x49/,
  },
  {
    name: 'an export of 2^53 bytes',
    bytes: wire(`'NBDMAGIC' 0000420281861253 0020000000000000 00000001 ${zeroes}`),
    says: /size of oldstyle hello: found 9007199254740992, expected less than 2\^53/,
  },
]
for (const { name, bytes, says } of wrong) {
  t.test(`a hello is refused: ${name}`, async (t) => {
    t.throws(() => parseHello(bytes), { name: 'PeerError', message: says })
  })
}

t.test('client flags are read and written; unknown ones are refused', async (t) => {
  for (const [flags, bytes] of [
    [{ fixed: false, noZeroes: false }, '00000000'],
    [{ fixed: true, noZeroes: false }, '00000001'],
    [{ fixed: true, noZeroes: true }, '00000003'],
  ] as const) {
    t.same(parseClientFlags(wire(bytes)), flags)
    t.same(formatClientFlags(flags), wire(bytes))
  }
  t.throws(() => parseClientFlags(wire('00000004')), {
    name: 'PeerError',
    message: /found 0x4, expected at most 0x3/,
  })
  t.throws(() => parseClientFlags(wire('80000001')), { name: 'PeerError', message: /found 0x80000001/ })
})

t.test('the answer to EXPORT_NAME has 124 zeroes unless they were agreed away', async (t) => {
  const head = { size: 0x0123456789ab, flags: 0x8f }
  t.same(formatExportHead(head, true), wire('00000123456789ab 008f'))
  t.same(formatExportHead(head, false), wire(`00000123456789ab 008f ${zeroes}`))
  for (const noZeroes of [true, false]) {
    t.equal(formatExportHead(head, noZeroes).length, exportHeadLength(noZeroes))
    t.same(parseExportHead(formatExportHead(head, noZeroes)), head)
  }
  t.throws(() => parseExportHead(wire('ffffffffffffffff 0001')), {
    name: 'PeerError',
    message: 'size of the export: found 18446744073709551615, expected less than 2^53',
  })
})
