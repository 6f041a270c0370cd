// SPDX-License-Identifier: Apache-2.0

import t from 'tap'
import { FormatError } from '../../../protocol/format-error.js'
import { connectionKind, formatPreamble, parsePreamble } from '../../../protocol/migration/preamble.js'
import { refusals } from '../../../protocol/migration/refusals.js'
import { channelsOf, fixtures, isStream, unpack } from '../../helpers/migration/fixtures.js'
import { bytesOf, parsesWhenWhole } from '../../helpers/migration/prefix.js'

t.test('a preamble is read from any prefix and written as it was', (t) => {
  const bytes = bytesOf('QEVM', [0, 0, 0, 3])
  parsesWhenWhole(t, bytes, parsePreamble)
  t.same(formatPreamble(), bytes)
  t.end()
})

const wrong = [
  { name: 'another magic number', bytes: bytesOf('QEVN'), says: 'found 0x4e, expected 0x4d' },
  { name: 'another first byte', bytes: bytesOf('R'), says: 'found 0x52, expected 0x51' },
  { name: 'the extinct version', bytes: bytesOf('QEVM', [0, 0, 0, 2]), says: 'found 2, expected 3' },
  { name: 'TLS', bytes: bytesOf([0x16, 3, 1]), says: 'tls-creds' },
]
for (const { name, bytes, says } of wrong) {
  t.test(`a stream is refused: ${name}`, (t) => {
    t.throws(() => parsePreamble(bytes), { name: 'FormatError', message: new RegExp(says) })
    t.end()
  })
}

t.test('the first four bytes of a connection tell its kind', (t) => {
  for (const fixture of fixtures) {
    if (fixture.kind === 'ram-image') continue
    const start = isStream(fixture) ? fixture.start_offset : 0
    const bytes = unpack(fixture.file).subarray(start)
    t.equal(connectionKind(bytes.subarray(0, 3)), undefined)
    t.equal(connectionKind(bytes), isStream(fixture) ? 'main' : 'channel', fixture.file)
    if (isStream(fixture) && fixture.kind === 'multifd-main') t.equal(channelsOf(fixture).length, 2)
  }
  t.end()
})

t.test('a connection of another kind is refused, TLS by name', (t) => {
  for (const bytes of [bytesOf(0x16), bytesOf(0x16, 3, 1, 2)])
    t.throws(() => connectionKind(bytes), new FormatError(refusals.tls))
  t.throws(() => connectionKind(bytesOf('GET ')), { message: /found 0x47455420/ })
  t.end()
})
