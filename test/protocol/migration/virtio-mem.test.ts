// SPDX-License-Identifier: Apache-2.0

import t from 'tap'
import { parseHead } from '../../../protocol/migration/section.js'
import { parseVirtioMemEarly } from '../../../protocol/migration/virtio-mem.js'
import { streamNamed, unpack } from '../../helpers/migration/fixtures.js'
import { be32, be64, bytesOf, parsesWhenWhole } from '../../helpers/migration/prefix.js'

const MIB = 2 ** 20
const body = (region: number, block: number, plugged: number, words: number) =>
  bytesOf(be64(2 ** 32), be64(region), be64(block), be32(1), be64(plugged), new Uint8Array(8 * words).fill(1))

const sizes = [
  { name: 'one word for up to 64 blocks', region: 64 * MIB, block: 2 * MIB, words: 1 },
  { name: 'exactly 64 blocks', region: 128 * MIB, block: 2 * MIB, words: 1 },
  { name: '65 blocks', region: 130 * MIB, block: 2 * MIB, words: 2 },
  { name: '4 GiB in blocks of 1 MiB', region: 4096 * MIB, block: MIB, words: 64 },
]
for (const { name, region, block, words } of sizes) {
  t.test(`the length follows from region and block size: ${name}`, (t) => {
    const found = parsesWhenWhole(t, body(region, block, block, words), parseVirtioMemEarly)
    t.same(found, { address: 2 ** 32, regionSize: region, blockSize: block, node: 1, pluggedSize: block })
    t.end()
  })
}

t.test('the recorded section is read from any prefix', (t) => {
  const { file, early_section } = streamNamed('q10-pc-q35-10.0-stopped-virtio-mem.stream')
  if (early_section === undefined) throw new Error('no early section')
  const section = unpack(file).subarray(early_section.offset)
  const head = parseHead(section)
  t.match(head?.value, { kind: 'full', name: early_section.idstr })
  const whole = section.subarray(head?.length, early_section.length_with_header_and_footer - 5)
  t.match(parsesWhenWhole(t, whole, parseVirtioMemEarly), { regionSize: 64 * MIB, pluggedSize: 0 })
  t.end()
})

const wrong = [
  { name: 'blocks of no bytes', bytes: body(MIB, 0, 0, 0), says: 'found 0, expected a power of two' },
  { name: 'blocks of 3 bytes', bytes: body(3 * MIB, 3, 0, 0), says: 'found 3, expected a power of two' },
  { name: 'part of a block', bytes: body(MIB + 4096, MIB, 0, 0), says: 'that divides 1052672' },
  { name: 'a bitmap of 2^43 bits', bytes: body(2 ** 52, 512, 0, 0), says: 'found 512' },
  {
    name: 'more plugged than there is',
    bytes: body(MIB, MIB, 2 * MIB, 0),
    says: 'found 2097152, expected at most',
  },
]
for (const { name, bytes, says } of wrong) {
  t.test(`a section is refused: ${name}`, (t) => {
    t.throws(() => parseVirtioMemEarly(bytes), { name: 'FormatError', message: new RegExp(says) })
    t.end()
  })
}
