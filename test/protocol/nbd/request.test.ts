// SPDX-License-Identifier: Apache-2.0

import fc from 'fast-check'
import t from 'tap'
import type { ReplyStyle } from '../../../protocol/nbd/agreed.js'
import {
  formatRequest,
  parseRequest,
  payloadLength,
  type RequestHead,
  requestHeaderLength,
} from '../../../protocol/nbd/request.js'
import { wire } from '../../helpers/nbd/hex.js'
import { holds } from '../../helpers/property.js'

const cases: readonly {
  name: string
  replies: ReplyStyle
  request: RequestHead
  bytes: string
  payload: number
}[] = [
  {
    name: 'WRITE with FUA',
    replies: 'simple',
    request: { command: 1, flags: 1, cookie: 0x55fff5ae3fc0n, offset: 0x10000, length: 512 },
    bytes: '25609513 0001 0001 000055fff5ae3fc0 0000000000010000 00000200',
    payload: 512,
  },
  {
    name: 'TRIM of all that 32 bits can say',
    replies: 'structured',
    request: { command: 4, flags: 0, cookie: 2n ** 64n - 1n, offset: 2 ** 53 - 1, length: 0xffffffff },
    bytes: '25609513 0000 0004 ffffffffffffffff 001fffffffffffff ffffffff',
    payload: 0,
  },
  {
    name: 'WRITE with an extended header',
    replies: 'extended',
    request: { command: 1, flags: 0x20, cookie: 2n, offset: 0, length: 512 },
    bytes: '21e41c71 0020 0001 0000000000000002 0000000000000000 0000000000000200',
    payload: 512,
  },
  {
    name: 'BLOCK_STATUS of 1 TiB',
    replies: 'extended',
    request: { command: 7, flags: 8, cookie: 0n, offset: 0, length: 2 ** 40 },
    bytes: '21e41c71 0008 0007 0000000000000000 0000000000000000 0000010000000000',
    payload: 0,
  },
  {
    name: 'a command that is not listed, with a payload',
    replies: 'extended',
    request: { command: 0xffff, flags: 0xffff, cookie: 0n, offset: 1, length: 3 },
    bytes: '21e41c71 ffff ffff 0000000000000000 0000000000000001 0000000000000003',
    payload: 3,
  },
]
for (const { name, replies, request, bytes, payload } of cases) {
  t.test(`a request is read and written: ${name}`, async (t) => {
    const whole = wire(bytes)
    t.equal(whole.length, requestHeaderLength(replies))
    t.same(formatRequest(request, replies), whole)
    const found = parseRequest(whole, 0, replies)
    t.same(found, { ...request, wireOffset: replies === 'extended' ? BigInt(request.offset) : 0n })
    t.equal(payloadLength(request, replies), payload)
    const inside = Buffer.concat([Buffer.from('xyz'), whole, Buffer.from('more')])
    t.same(parseRequest(inside, 3, replies), found, 'in the middle of other bytes')
    for (let length = 0; length < whole.length; length++)
      if (parseRequest(whole.subarray(0, length), 0, replies) !== undefined)
        t.fail(`read from ${length} bytes`)
  })
}

t.test('offsets and lengths beyond 2^53 are read: the request is refused, not the connection', async (t) => {
  const bytes = wire('21e41c71 0000 0000 0000000000000001 ffffffffffffffff 8000000000000001')
  const request = parseRequest(bytes, 0, 'extended')
  t.ok(request !== undefined && request.offset >= 2 ** 53 && request.length >= 2 ** 53)
  t.equal(request?.wireOffset, 0xffffffffffffffffn, 'as it was sent')
})

t.test('the other header, or none, is no request', async (t) => {
  const [compact, extended] = [cases[0], cases[2]].map((one) => wire(one?.bytes ?? ''))
  t.throws(() => parseRequest(extended ?? wire(''), 0, 'structured'), {
    name: 'PeerError',
    message: 'magic number of a request: found 0x21e41c71, expected 0x25609513',
  })
  t.throws(() => parseRequest(Buffer.concat([compact ?? wire(''), Buffer.alloc(4)]), 0, 'extended'), {
    name: 'PeerError',
  })
})

t.test('requests come back as they were written', async (t) => {
  const styles = fc.constantFrom<ReplyStyle>('simple', 'structured', 'extended')
  const head = fc.record({
    command: fc.nat(0xffff),
    flags: fc.nat(0xffff),
    cookie: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    offset: fc.maxSafeNat(),
    length: fc.maxSafeNat(),
  })
  const property = fc.property(styles, head, (replies, any) => {
    const one = replies === 'extended' ? any : { ...any, length: any.length % 2 ** 32 }
    const back = parseRequest(formatRequest(one, replies), 0, replies)
    return (Object.keys(one) as (keyof RequestHead)[]).every((key) => back?.[key] === one[key])
  })
  holds(t, property, 500)
})
