// SPDX-License-Identifier: Apache-2.0
// What lanes are told of heads, and how what they did is counted.

import t from 'tap'
import { ByteUnion } from '../../../daemon/iothread/exports/images/byte-union.js'
import { planLane } from '../../../daemon/iothread/exports/images/lane-plan.js'
import { random } from '../../native/kinds.js'

const DATE = 'Fri, 27 Nov 2026 07:49:24 GMT'
const reply = (range: string) =>
  `HTTP/1.1 206 Partial Content\r\nserver: s\r\ndate: ${DATE}\r\n${range}content-length: 4096\r\n\r\n`
const get = (range: string) => `GET /images/t HTTP/1.1\r\nhost: x\r\n${range}\r\nb: c\r\n\r\n`
const text = (bytes: readonly Uint8Array[]) => bytes.map((part) => Buffer.from(part).toString('latin1'))

t.test('heads are cut around the two numbers of the range', async (t) => {
  const plan = planLane(false, get('RANGE: bytes=0-4095'), reply('content-range: bytes 0-4095/9000\r\n'))
  t.match(plan, { writes: false, each: 4096 })
  t.strictSame(text(plan?.head ?? []), [
    'GET /images/t HTTP/1.1\r\nhost: x\r\nRANGE: bytes=',
    '-',
    '\r\nb: c\r\n\r\n',
  ])
  t.strictSame(text(plan?.reply ?? []), [
    `HTTP/1.1 206 Partial Content\r\nserver: s\r\ndate: ${DATE}\r\ncontent-range: bytes `,
    '-',
    '/9000\r\ncontent-length: 4096\r\n\r\n',
  ])
  t.equal(text(plan?.reply ?? [])[0]?.slice(plan?.dateAt, (plan?.dateAt ?? 0) + 29), DATE)
})

t.test('the reply to a PUT names no range', async (t) => {
  const request = 'PUT /images/t HTTP/1.1\r\ncontent-range: bytes 512-1023/*\r\ncontent-length: 512\r\n\r\n'
  const plan = planLane(true, request, reply(''))
  t.match(plan, { writes: true, each: 512 })
  t.strictSame(text(plan?.reply ?? []), [reply(''), '', ''])
})

for (const { name, request } of [
  { name: 'an open range', request: get('range: bytes=0-') },
  { name: 'a number with zeroes before it', request: get('range: bytes=00-4095') },
  { name: 'a folded word', request: get('x-range: bytes=0-4095') },
])
  t.test(`${name} is not for a lane`, async (t) => {
    t.equal(planLane(false, request, reply('content-range: bytes 0-4095/9000\r\n')), undefined)
  })

t.test('a total beside the range of a PUT is not for a lane', async (t) => {
  const request = 'PUT /images/t HTTP/1.1\r\ncontent-range: bytes 0-511/512\r\n\r\n'
  t.equal(planLane(true, request, reply('')), undefined)
})

t.test('many places at once are counted as one after the other', async (t) => {
  const seed = Number(process.env.SEED ?? Date.now() % 1e9)
  t.comment(`SEED=${seed}`)
  const below = random(seed)
  for (let round = 0; round < 50; round++) {
    const [once, each] = [new ByteUnion(), new ByteUnion()]
    for (let batch = 0; batch < 4; batch++) {
      const length = 1 + below(8)
      const places = Float64Array.from({ length: below(60) }, () => below(500))
      for (const place of places) each.add(place, length)
      once.addEach(places, length)
      t.equal(once.total, each.total)
    }
    t.strictSame(once.covered(), each.covered())
    t.strictSame(new ByteUnion(once.covered()).covered(), once.covered())
  }
})
