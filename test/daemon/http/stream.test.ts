// SPDX-License-Identifier: Apache-2.0
// How long a client is waited for, by a clock that the test moves: to the millisecond, and never while it waits for us.

import t, { type Test } from 'tap'
import type { HttpStream } from '../../../daemon/http/stream.js'
import { FakeClock } from '../../helpers/fake-clock.js'
import { type Client, httpPair, LIMITS } from '../../helpers/http-pair.js'

const { idleMs, headMs } = LIMITS

interface Case {
  readonly clock: FakeClock
  readonly stream: HttpStream
  readonly client: Client
}

function start(t: Test): Case {
  const clock = new FakeClock()
  return { clock, ...httpPair(t, clock) }
}

/** Until the stream has read what was sent and waits for more: sockets are looked at once in a turn of the loop. */
async function untilTaken(stream: HttpStream): Promise<void> {
  for (let turn = 0; turn < 3 || !stream.waitsForClient; turn++)
    await new Promise((resolve) => setImmediate(resolve))
}

t.test('a client that sends nothing is given up when its time is over, not before', async (t) => {
  const { clock, stream } = start(t)
  const next = stream.next()
  clock.pass(idleMs - 1)
  t.notOk(stream.closed)
  clock.pass(1)
  t.ok(stream.closed)
  await t.rejects(next, /no progress in time/)
  t.equal(clock.timers, 0)
})

t.test('the time begins anew with each byte of a body, wherever the clock stands', async (t) => {
  const { clock, stream, client } = start(t)
  const into = new Uint8Array(1)
  for (const pause of [idleMs - 1, 1, idleMs / 2, idleMs - 1]) {
    const got = stream.receive(into, 0, 1)
    clock.pass(pause)
    t.notOk(stream.closed)
    await client.send('x')
    t.equal(await got, 1)
  }
  const last = stream.receive(into, 0, 1)
  clock.pass(idleMs - 1)
  t.notOk(stream.closed)
  clock.pass(1)
  await t.rejects(last, /no progress in time/)
})

t.test('a client that waits for us is not given up', async (t) => {
  const { clock, stream, client } = start(t)
  clock.pass(10 * idleMs)
  t.notOk(stream.closed)
  const got = stream.receive(new Uint8Array(1), 0, 1)
  clock.pass(idleMs - 1)
  await client.send('x')
  t.equal(await got, 1, 'all of its time was before it')
})

t.test('a client that does not take its reply is given up', async (t) => {
  const { clock, stream } = start(t)
  clock.pass(idleMs / 3)
  let given = 0
  stream.put(Buffer.alloc(8 * 1024 * 1024), () => given++)
  stream.send()
  t.ok(stream.waiting > 0)
  clock.pass(idleMs - 1)
  t.notOk(stream.closed)
  clock.pass(1)
  t.ok(stream.closed)
  t.equal(given, 1, 'its memory is free')
})

t.test('a client that takes its reply slowly has the time for each part', async (t) => {
  const { clock, stream, client } = start(t)
  const length = 4 * 1024 * 1024
  stream.put(Buffer.alloc(length))
  stream.send()
  client.socket.on('readable', () => undefined)
  for (let taken = 0; taken < length; ) {
    clock.pass(idleMs - 1)
    const before = stream.waiting
    while (taken < length && (stream.waiting === before || before === 0)) {
      taken += ((client.socket.read() as Buffer | null) ?? '').length
      await new Promise((resolve) => setImmediate(resolve))
    }
  }
  t.notOk(stream.closed)
  t.equal(stream.waiting, 0)
})

for (const { name, text } of [
  { name: 'a head byte by byte', text: 'GET /images/abcdefghijklmnopq HTTP/1.1' },
  { name: 'empty lines only', text: '\r\n'.repeat(20) },
  { name: 'empty lines and a head', text: `${'\r\n'.repeat(10)}GET /images/abcdefgh` },
])
  t.test(`who sends ${name} has the time of one head`, async (t) => {
    const { clock, stream, client } = start(t)
    const next = stream.next()
    clock.pass(idleMs - 1)
    let passed = 0
    for (const byte of text.slice(0, 29)) {
      await client.send(byte)
      await untilTaken(stream)
      clock.pass(headMs / 30)
      passed += headMs / 30
    }
    clock.pass(headMs - passed - 1)
    t.notOk(stream.closed)
    clock.pass(1)
    t.ok(stream.closed)
    await t.rejects(next, /did not finish the head/)
  })

t.test('each head has its own time, and so has what lies between', async (t) => {
  const { clock, stream, client } = start(t)
  for (let round = 0; round < 3; round++) {
    const next = stream.next()
    clock.pass(idleMs - 1)
    await client.send('\r\nGET / HTTP/1.1\r\n')
    await untilTaken(stream)
    clock.pass(headMs - 1)
    await client.send('\r\n')
    t.match(await next, { kind: 'head', text: /^GET/ })
    stream.takeHead()
  }
  t.equal(clock.timers, 1)
})
