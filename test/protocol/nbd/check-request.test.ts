// SPDX-License-Identifier: Apache-2.0

import fc from 'fast-check'
import t from 'tap'
import type { Agreed } from '../../../protocol/nbd/agreed.js'
import { checkRequest, checkStatusPayload } from '../../../protocol/nbd/check-request.js'
import { type CommandName, commandFlags, commands } from '../../../protocol/nbd/constants.js'
import type { NbdErrorName } from '../../../protocol/nbd/error-number.js'
import { everything, readOnly, without } from '../../helpers/nbd/agreed.js'
import { wire } from '../../helpers/nbd/hex.js'
import { holds } from '../../helpers/property.js'

const MiB = 1 << 20
const KiB = 1 << 10
const compact: Agreed = { ...everything, replies: 'structured' }
const { FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN } = commandFlags

interface Case {
  readonly command: CommandName | number
  readonly agreed?: Agreed
  readonly flags?: number
  readonly offset?: number
  readonly length?: number
  readonly error?: NbdErrorName
  readonly says?: RegExp
  readonly close?: true
}

const cases: readonly Case[] = [
  // Ranges: the export is 1 MiB, blocks are 512 bytes, payloads 64 KiB.
  { command: 'READ', offset: 0, length: 512 },
  { command: 'READ', offset: MiB - 512, length: 512 },
  {
    command: 'READ',
    offset: MiB,
    length: 512,
    error: 'EINVAL',
    says: /512 bytes at 1048576, the export has 1048576/,
  },
  { command: 'READ', offset: MiB - 512, length: 1024, error: 'EINVAL' },
  { command: 'READ', offset: 2 ** 53, length: 512, error: 'EINVAL' },
  { command: 'READ', offset: 2 ** 64, length: 2 ** 64, error: 'EINVAL' },
  { command: 'READ', offset: 0, length: 0, error: 'EINVAL', says: /length 0/ },
  { command: 'READ', offset: 0, length: 513, error: 'EINVAL', says: /513 bytes at 0, not aligned to 512/ },
  { command: 'READ', offset: 1, length: 512, error: 'EINVAL', says: /not aligned/ },
  { command: 'READ', agreed: { ...everything, size: MiB + 100 }, offset: MiB, length: 100 },
  {
    command: 'READ',
    agreed: { ...everything, size: MiB + 100 },
    offset: MiB + 50,
    length: 50,
    error: 'EINVAL',
  },
  { command: 'READ', agreed: { ...everything, size: 0 }, offset: 0, length: 512, error: 'EINVAL' },
  { command: 'WRITE', flags: PAYLOAD_LEN, offset: MiB, length: 512, error: 'ENOSPC' },
  { command: 'WRITE_ZEROES', offset: MiB - 512, length: 1024, error: 'ENOSPC' },
  { command: 'TRIM', offset: MiB - 512, length: 1024, error: 'EINVAL' },
  { command: 'CACHE', offset: MiB - 512, length: 1024, error: 'EINVAL' },
  { command: 'BLOCK_STATUS', offset: MiB - 512, length: 1024, error: 'EINVAL' },
  { command: 'TRIM', length: 0, error: 'EINVAL' },
  // Payloads.
  { command: 'READ', length: 64 * KiB },
  { command: 'READ', length: 64 * KiB + 512, error: 'EOVERFLOW', says: /read of 66048 bytes, at most 65536/ },
  { command: 'READ', agreed: without('SEND_DF'), length: 64 * KiB + 512, error: 'EINVAL' },
  { command: 'WRITE', flags: PAYLOAD_LEN, length: 64 * KiB },
  { command: 'WRITE', flags: PAYLOAD_LEN, length: 64 * KiB + 512, error: 'EINVAL', close: true },
  { command: 'WRITE', agreed: compact, length: 64 * KiB + 512, error: 'EINVAL', close: true },
  { command: 'WRITE', agreed: readOnly, flags: PAYLOAD_LEN, length: 2 ** 40, error: 'EINVAL', close: true },
  { command: 99, flags: PAYLOAD_LEN, length: 64 * KiB + 1, error: 'EINVAL', close: true },
  // As QEMU's client sends it.
  { command: 'WRITE', length: 512 },
  { command: 'WRITE', agreed: compact, length: 512 },
  { command: 'WRITE', agreed: compact, flags: PAYLOAD_LEN, length: 512, error: 'EINVAL', says: /flags 0x20/ },
  { command: 'TRIM', length: MiB },
  { command: 'CACHE', length: MiB },
  { command: 'WRITE_ZEROES', length: MiB },
  { command: 'BLOCK_STATUS', length: MiB },
  { command: 'TRIM', flags: PAYLOAD_LEN, length: 512, error: 'EINVAL' },
  { command: 'READ', flags: PAYLOAD_LEN, length: 512, error: 'EINVAL' },
  // Flags.
  { command: 'READ', flags: DF, length: 512 },
  { command: 'READ', flags: DF | FUA, length: 512 },
  {
    command: 'READ',
    agreed: without('SEND_DF'),
    flags: DF,
    length: 512,
    error: 'EINVAL',
    says: /READ with flags 0x4, allowed are 0x1/,
  },
  { command: 'READ', agreed: without('SEND_FUA'), flags: FUA, length: 512, error: 'EINVAL' },
  { command: 'READ', flags: REQ_ONE, length: 512, error: 'EINVAL' },
  { command: 'WRITE', agreed: compact, flags: FUA, length: 512 },
  { command: 'WRITE', agreed: compact, flags: DF, length: 512, error: 'EINVAL' },
  { command: 'WRITE_ZEROES', flags: FUA | NO_HOLE | FAST_ZERO, length: 512 },
  { command: 'WRITE_ZEROES', agreed: without('SEND_FAST_ZERO'), flags: NO_HOLE, length: 512 },
  {
    command: 'WRITE_ZEROES',
    agreed: without('SEND_FAST_ZERO'),
    flags: FAST_ZERO,
    length: 512,
    error: 'EINVAL',
  },
  { command: 'TRIM', flags: FUA, length: 512 },
  { command: 'TRIM', flags: NO_HOLE, length: 512, error: 'EINVAL' },
  { command: 'BLOCK_STATUS', flags: REQ_ONE | FUA, length: 512 },
  { command: 'BLOCK_STATUS', flags: DF, length: 512, error: 'EINVAL' },
  { command: 'CACHE', flags: NO_HOLE, length: 512, error: 'EINVAL' },
  { command: 'READ', flags: 0x8000, length: 512, error: 'EINVAL' },
  // What the server did not offer.
  {
    command: 'TRIM',
    agreed: without('SEND_TRIM'),
    length: 512,
    error: 'EINVAL',
    says: /TRIM without SEND_TRIM/,
  },
  { command: 'CACHE', agreed: without('SEND_CACHE'), length: 512, error: 'EINVAL' },
  { command: 'WRITE_ZEROES', agreed: without('SEND_WRITE_ZEROES'), length: 512, error: 'EINVAL' },
  {
    command: 'BLOCK_STATUS',
    agreed: { ...everything, contexts: [] },
    length: 512,
    error: 'EINVAL',
    says: /without a context/,
  },
  { command: 8, length: 512, error: 'EINVAL', says: /command 8 is not known/ },
  { command: 0xffff, error: 'EINVAL' },
  // What may not be written.
  { command: 'READ', agreed: readOnly, length: 512 },
  { command: 'WRITE', agreed: readOnly, flags: PAYLOAD_LEN, length: 512, error: 'EPERM' },
  { command: 'WRITE_ZEROES', agreed: readOnly, length: 512, error: 'EPERM' },
  {
    command: 'TRIM',
    agreed: readOnly,
    offset: MiB,
    length: 512,
    error: 'EPERM',
    says: /TRIM to a read-only export/,
  },
  { command: 'FLUSH', agreed: readOnly },
  // Without a range.
  { command: 'FLUSH' },
  { command: 'FLUSH', flags: FUA },
  { command: 'FLUSH', flags: DF, error: 'EINVAL' },
  { command: 'FLUSH', length: 1, error: 'EINVAL', says: /FLUSH of a range/ },
  { command: 'FLUSH', offset: 512, error: 'EINVAL' },
  { command: 'FLUSH', agreed: without('SEND_FLUSH'), error: 'EINVAL' },
  { command: 'DISC' },
  { command: 'DISC', flags: 0xffff, offset: 1, length: 2 },
  // Payload of BLOCK_STATUS: 8 bytes, and 4 for each of at most two contexts.
  { command: 'BLOCK_STATUS', flags: PAYLOAD_LEN, length: 12 },
  { command: 'BLOCK_STATUS', flags: PAYLOAD_LEN, length: 16, offset: 1 },
  { command: 'BLOCK_STATUS', flags: PAYLOAD_LEN, length: 8, error: 'EINVAL' },
  {
    command: 'BLOCK_STATUS',
    flags: PAYLOAD_LEN,
    length: 20,
    error: 'EINVAL',
    says: /payload of 20 bytes, not 8 and 4/,
  },
  { command: 'BLOCK_STATUS', flags: PAYLOAD_LEN, length: 13, error: 'EINVAL' },
  { command: 'BLOCK_STATUS', flags: PAYLOAD_LEN, length: 0, error: 'EINVAL' },
  {
    command: 'BLOCK_STATUS',
    agreed: without('BLOCK_STATUS_PAYLOAD'),
    flags: PAYLOAD_LEN,
    length: 12,
    error: 'EINVAL',
  },
]

for (const { command, agreed = everything, flags = 0, offset = 0, length = 0, error, says, close } of cases) {
  const names = Object.entries(commandFlags).filter(([, bit]) => (flags & bit) !== 0 && flags <= 0x3f)
  const words = [command, ...names.map(([name]) => name), `${length} bytes at ${offset}`].join(' ')
  t.test(`${words} is ${error ?? 'right'}`, async (t) => {
    const number = typeof command === 'number' ? command : commands[command]
    const found = checkRequest({ command: number, flags, offset, length }, agreed)
    if (error === undefined) t.equal(found, undefined)
    else t.match(found, { error, text: says ?? /./, close: close ?? false })
  })
}

const payloads: readonly { name: string; bytes: string; offset?: number; found: object }[] = [
  { name: 'one context', bytes: '0000000000000200 00000005', found: { length: 512, ids: [5] } },
  { name: 'both contexts', bytes: '0000000000100000 00000005 00000000', found: { length: MiB, ids: [5, 0] } },
  {
    name: 'a context twice',
    bytes: '0000000000000200 00000005 00000005',
    found: { error: 'EINVAL', text: /context 5 twice/ },
  },
  {
    name: 'another context',
    bytes: '0000000000000200 00000001',
    found: { error: 'EINVAL', text: /not one that was chosen/ },
  },
  {
    name: 'beyond the end',
    bytes: '0000000000100000 00000005',
    offset: 512,
    found: { error: 'EINVAL', text: /1048576 bytes at 512/ },
  },
  { name: 'length 0', bytes: '0000000000000000 00000005', found: { error: 'EINVAL' } },
  { name: 'a length of 2^64 - 1', bytes: 'ffffffffffffffff 00000005', found: { error: 'EINVAL' } },
]
for (const { name, bytes, offset = 0, found } of payloads) {
  t.test(`payload of BLOCK_STATUS: ${name}`, async (t) => {
    t.match(checkStatusPayload(wire(bytes), { offset }, everything), found)
  })
}

t.test('what is let pass lies within the export, whatever a client sends', async (t) => {
  const agreements = fc.constantFrom(everything, compact, readOnly, without('SEND_FUA'), {
    ...everything,
    size: 0,
  })
  const numbers = fc.oneof(
    fc.nat(2 * MiB),
    fc.nat(4 * KiB).map((n) => 512 * n),
    fc.maxSafeNat(),
    fc.constant(2 ** 64),
  )
  const request = fc.record({
    command: fc.nat(10),
    flags: fc.oneof(fc.constant(0), fc.nat(0xffff)),
    offset: numbers,
    length: numbers,
  })
  const property = fc.property(agreements, request, (agreed, one) => {
    const found = checkRequest(one, agreed)
    if (found !== undefined) return found.text !== ''
    if (one.command === commands.DISC || one.command === commands.FLUSH) return true
    const statusPayload = one.command === commands.BLOCK_STATUS && (one.flags & PAYLOAD_LEN) !== 0
    return statusPayload ? one.length <= 16 : one.length > 0 && one.offset + one.length <= agreed.size
  })
  holds(t, property, 5000)
})
