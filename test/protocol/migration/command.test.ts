// SPDX-License-Identifier: Apache-2.0

import t from 'tap'
import {
  advisesPostcopyRam,
  type CommandFate,
  type CommandName,
  commandFate,
  formatCommand,
  parseCommand,
  waitsForAnswers,
} from '../../../protocol/migration/command.js'
import { refusals } from '../../../protocol/migration/refusals.js'
import { be16, bytesOf, parsesWhenWhole } from '../../helpers/migration/prefix.js'

const refuse = (reason: string): CommandFate => ({ kind: 'refuse', reason })
const drop: CommandFate = { kind: 'drop' }
const keep: CommandFate = { kind: 'keep' }

const cases: readonly { name: CommandName; number: number; length: number; fate: CommandFate }[] = [
  { name: 'OPEN_RETURN_PATH', number: 1, length: 0, fate: drop },
  { name: 'PING', number: 2, length: 4, fate: drop },
  { name: 'POSTCOPY_ADVISE', number: 3, length: 16, fate: drop },
  { name: 'POSTCOPY_ADVISE', number: 3, length: 0, fate: keep },
  { name: 'POSTCOPY_LISTEN', number: 4, length: 0, fate: refuse(refusals.postcopy) },
  { name: 'POSTCOPY_RUN', number: 5, length: 0, fate: refuse(refusals.postcopy) },
  { name: 'POSTCOPY_RAM_DISCARD', number: 6, length: 33, fate: refuse(refusals.postcopy) },
  { name: 'PACKAGED', number: 7, length: 4, fate: refuse(refusals.postcopy) },
  { name: 'ENABLE_COLO', number: 8, length: 0, fate: refuse(refusals.colo) },
  { name: 'POSTCOPY_RESUME', number: 9, length: 0, fate: refuse(refusals.recovery) },
  { name: 'RECV_BITMAP', number: 10, length: 7, fate: refuse(refusals.recovery) },
  { name: 'SWITCHOVER_START', number: 11, length: 0, fate: keep },
]

for (const { name, number, length, fate } of cases) {
  t.test(`${name} with ${length} bytes: ${fate.kind}`, (t) => {
    const payload = new Uint8Array(length).fill(1)
    const bytes = bytesOf(8, be16(number), be16(length), payload)
    const command = parsesWhenWhole(t, bytes, parseCommand)
    t.same(command, { name, payload })
    t.same(commandFate(command), fate)
    t.same(formatCommand(command), bytes)
    t.equal(waitsForAnswers(command), number === 1)
    t.equal(advisesPostcopyRam(command), number === 3 && length === 16)
    t.end()
  })
}

t.test('the texts of refusals name the capability', (t) => {
  t.match(refusals.returnPath, /"return-path"/)
  t.match(refusals.postcopy, /"postcopy-ram"/)
  t.match(refusals.colo, /"x-colo"/)
  t.end()
})

const wrong = [
  { name: 'number 0', bytes: bytesOf(8, be16(0)), says: 'found 0, expected 1 to 11' },
  { name: 'number 12', bytes: bytesOf(8, be16(12)), says: 'found 12, expected 1 to 11' },
  { name: 'a ping of 5 bytes', bytes: bytesOf(8, be16(2), be16(5)), says: 'found 5 bytes, expected 4 bytes' },
  { name: 'an advise of 8 bytes', bytes: bytesOf(8, be16(3), be16(8)), says: 'expected 0 or 16 bytes' },
  { name: 'another type', bytes: bytesOf(7), says: 'found 0x7, expected 0x8' },
]
for (const { name, bytes, says } of wrong) {
  t.test(`a command is wrong: ${name}`, (t) => {
    t.throws(() => parseCommand(bytes), { name: 'FormatError', message: new RegExp(says) })
    t.end()
  })
}
