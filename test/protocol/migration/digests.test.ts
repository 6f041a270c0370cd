// SPDX-License-Identifier: Apache-2.0

import t from 'tap'
import {
  type DigestHead,
  digestsLengthOf,
  digestsNameOf,
  formatDigestHead,
  parseDigestHead,
} from '../../../protocol/migration/digests.js'
import { be32, be64, bytesOf, counted, outcome, parsesWhenWhole } from '../../helpers/migration/prefix.js'
import { mutate } from '../../helpers/mutate.js'

/** Any function of the bytes will do here. */
const checksum = (bytes: Uint8Array) => bytes.reduce((sum, byte) => (sum * 31 + byte) % 2 ** 32, 7)
const parse = (bytes: Uint8Array) => parseDigestHead(bytes, checksum)

const states = Uint8Array.from({ length: 32 }, (_, index) => index)
const head: DigestHead = {
  pageSize: 4096,
  states,
  blocks: [
    { name: 'pc.ram', length: 2 ** 40 },
    { name: '/rom@etc/acpi/tables', length: 131072 },
  ],
}

function made(blocks: readonly Uint8Array[], { version = 1, pageSize = 4096, count = blocks.length } = {}) {
  const bytes = bytesOf(
    'BFerryDigests\0\0\0',
    ...[be32(version), be32(pageSize), states, be32(count)],
    ...blocks,
  )
  return bytesOf(bytes, be32(checksum(bytes)))
}

const block = (name: string, length: number) => bytesOf(counted(name), be64(length))

t.test('a head is read from any prefix as it was written', async (t) => {
  const bytes = formatDigestHead(head, checksum)
  t.same(bytes, made([block('pc.ram', 2 ** 40), block('/rom@etc/acpi/tables', 131072)]))
  t.same(parsesWhenWhole(t, bytes, parse), head)
})

t.test('each page has four bytes', async (t) => {
  t.equal(digestsLengthOf(head), 4 * (2 ** 28 + 32))
  t.equal(digestsNameOf('/vm/a.mem'), '/vm/a.mem.digests')
})

const wrong = [
  { name: 'another magic', bytes: bytesOf('BFerryDigestz'), says: /magic number .* found 0x7a/ },
  { name: 'another version', bytes: made([], { version: 2 }), says: /version .* found 2, expected 1/ },
  { name: 'pages of 512 bytes', bytes: made([], { pageSize: 512 }), says: /found 512, expected a power/ },
  { name: 'pages of 5000 bytes', bytes: made([], { pageSize: 5000 }), says: /found 5000, expected a power/ },
  { name: 'too many blocks', bytes: made([], { count: 4097 }), says: /found 4097, expected at most 4096/ },
  { name: 'half a page', bytes: made([block('a', 2048)]), says: /"a" .* found 2048/ },
  { name: 'no page', bytes: made([block('a', 0)]), says: /"a" .* found 0/ },
  { name: 'a name twice', bytes: made([block('a', 4096), block('a', 4096)]), says: /"a" twice/ },
  {
    name: 'more than can be addressed',
    bytes: made([block('a', 2 ** 52), block('b', 2 ** 52)]),
    says: /too long/,
  },
  {
    name: 'a wrong checksum',
    bytes: Uint8Array.from(made([block('a', 4096)]), (byte, index) => (index === 30 ? byte ^ 1 : byte)),
    says: /checksum of the head/,
  },
]
for (const { name, bytes, says } of wrong) {
  t.test(`a head is refused: ${name}`, async (t) => {
    t.throws(() => parse(bytes), { name: 'FormatError', message: says })
  })
}

t.test('damage is refused or waited for, whatever it is', async (t) => {
  let seed = 1
  const random = (below: number) => {
    seed = (seed * 1103515245 + 12345) % 2 ** 31
    return Math.floor((seed / 2 ** 31) * below)
  }
  const whole = Buffer.from(formatDigestHead(head, checksum))
  for (let round = 0; round < 2000; round++) {
    const bytes = Buffer.from(whole)
    mutate(bytes, bytes.length, random)
    if (!bytes.equals(whole)) t.not(outcome(parse, bytes), 'value')
  }
})
