// SPDX-License-Identifier: Apache-2.0
// The client's side of the handshake: how it begins, what it refuses, and old servers. What is agreed on: client-agreed.test.ts.

import t from 'tap'
import { ClientNegotiation, type ClientWishes } from '../../../protocol/nbd/client-negotiation.js'
import { options } from '../../../protocol/nbd/constants.js'
import { formatExportHead, formatHello } from '../../../protocol/nbd/hello.js'
import { formatOption } from '../../../protocol/nbd/option.js'
import { formatOptionReply } from '../../../protocol/nbd/option-reply.js'
import { wire } from '../../helpers/nbd/hex.js'
import { steps } from '../../helpers/nbd/negotiation.js'
import {
  ack,
  all,
  complete,
  context,
  error,
  FLAGS,
  few,
  head,
  newstyle,
  play,
  type Script,
  sizes,
} from '../../helpers/nbd/scripted-handshake.js'

t.test('the first message is the flags and the first option', async (t) => {
  const client = new ClientNegotiation(few)
  t.equal(client.next(), undefined)
  client.feed(formatHello(newstyle))
  const go = formatOption({ kind: 'GO', name: 'disk', infos: [3] })
  t.same(steps(client), { sent: Buffer.concat([wire('00000003'), go]) })
})

const refusals: readonly {
  name: string
  wishes: ClientWishes
  script: Script
  reply: string | number
  says: RegExp
}[] = [
  {
    name: 'an export that is not there',
    wishes: few,
    script: { GO: [error('ERR_UNKNOWN', 'no such "thing"')] },
    reply: 'ERR_UNKNOWN',
    says: /^the server refused export "disk": ERR_UNKNOWN: "no such \\"thing\\""$/,
  },
  {
    name: 'TLS that is required by us',
    wishes: { ...few, tls: 'required' },
    script: complete,
    reply: 'ERR_UNSUP',
    says: /^TLS is required, and the server refused it: ERR_UNSUP$/,
  },
  {
    name: 'TLS that is required by the server',
    wishes: all,
    script: { EXTENDED_HEADERS: [error('ERR_TLS_REQD', 'TLS!')] },
    reply: 'ERR_TLS_REQD',
    says: /^the server refused option EXTENDED_HEADERS: ERR_TLS_REQD: "TLS!"$/,
  },
  {
    name: 'a server that shuts down',
    wishes: all,
    script: { ...complete, SET_META_CONTEXT: [error('ERR_SHUTDOWN')] },
    reply: 'ERR_SHUTDOWN',
    says: /SET_META_CONTEXT: ERR_SHUTDOWN/,
  },
  {
    name: 'an error without a name',
    wishes: few,
    script: { GO: [error(0x80000063)] },
    reply: 0x80000063,
    says: /: error 2147483747$/,
  },
  {
    name: 'GO that is not known after extended headers',
    wishes: { ...all, contexts: [] },
    script: { EXTENDED_HEADERS: [ack] },
    reply: 'ERR_UNSUP',
    says: /refused export "disk": ERR_UNSUP/,
  },
]
for (const { name, wishes, script, reply, says } of refusals) {
  t.test(`the client takes leave with ABORT: ${name}`, async (t) => {
    const { asked, last } = play(wishes, script)
    t.equal(asked.at(-1), 'ABORT')
    t.match(last, { kind: 'close', reply, why: { name: 'PeerError', message: says } })
  })
}

const violations: readonly { name: string; wishes?: ClientWishes; script: Script; says: RegExp }[] = [
  {
    name: 'GO without EXPORT',
    script: { GO: [ack] },
    says: /GO: found ACK, expected information EXPORT before it/,
  },
  {
    name: 'a reply of another option',
    script: { GO: [context(0, 'base:allocation')] },
    says: /option GO: found META_CONTEXT/,
  },
  {
    name: 'a minimum block of 3',
    script: { GO: [sizes(3, 4096, 1 << 25)] },
    says: /minimum block size: found 3, expected a power/,
  },
  {
    name: 'a minimum block of 0',
    script: { GO: [sizes(0, 4096, 1 << 25)] },
    says: /minimum block size: found 0/,
  },
  {
    name: 'a minimum block of 128 KiB',
    script: { GO: [sizes(1 << 17, 1 << 17, 1 << 25)] },
    says: /found 131072/,
  },
  {
    name: 'a preferred block of 5000',
    script: { GO: [sizes(1, 5000, 1 << 25)] },
    says: /preferred block size: found 5000/,
  },
  {
    name: 'a preferred block below the minimum',
    script: { GO: [sizes(4096, 512, 1 << 25)] },
    says: /a power of two from 4096 on/,
  },
  { name: 'no payload', script: { GO: [sizes(1, 4096, 0)] }, says: /maximum payload: found 0/ },
  {
    name: 'a context that was not asked for',
    wishes: all,
    script: { ...complete, SET_META_CONTEXT: [context(1, 'x:y')] },
    says: /context: found "x:y", expected "base:allocation"/,
  },
  {
    name: 'a context twice',
    wishes: all,
    script: { ...complete, SET_META_CONTEXT: [context(1, 'base:allocation'), context(2, 'base:allocation')] },
    says: /context "base:allocation" with id 2: found a second time/,
  },
  {
    name: 'replies without an end',
    script: { GO: Array.from({ length: 300 }, () => head) },
    says: /found more, expected at most 256/,
  },
]
for (const { name, wishes = few, script, says } of violations) {
  t.test(`the client closes without a word: ${name}`, async (t) => {
    const { asked, last } = play(wishes, script)
    t.not(asked.at(-1), 'ABORT')
    t.match(last, { kind: 'close', why: { name: 'PeerError', message: says } })
  })
}

t.test('an answer to an option that was not asked', async (t) => {
  const client = new ClientNegotiation(few)
  client.feed(formatHello(newstyle))
  client.feed(formatOptionReply(options.LIST, ack))
  t.match(steps(client).last, { why: { message: /option that is answered: found LIST, expected GO/ } })
})

t.test('what comes in plaintext behind the answer to STARTTLS is refused', async (t) => {
  const client = new ClientNegotiation({ ...few, tls: 'required' })
  client.feed(formatHello(newstyle))
  client.feed(Buffer.concat([formatOptionReply(options.STARTTLS, ack), Buffer.from([0])]))
  t.match(steps(client).last, { kind: 'close', why: { message: /before TLS is on/ } })
})

t.test('EXPORT_NAME is chosen where there is nothing better', async (t) => {
  for (const noZeroes of [true, false]) {
    const client = new ClientNegotiation(all)
    client.feed(formatHello({ kind: 'newstyle', fixed: false, noZeroes }))
    const chosen = formatOption({ kind: 'EXPORT_NAME', name: 'disk' })
    t.same(steps(client), { sent: Buffer.concat([wire(noZeroes ? '00000002' : '00000000'), chosen]) })
    const answer = formatExportHead({ size: 4096, flags: FLAGS }, noZeroes)
    client.feed(Buffer.concat([answer, Buffer.from([5])]))
    t.match(steps(client).last, {
      kind: 'transmission',
      agreed: { size: 4096, flags: FLAGS, replies: 'simple', contexts: [] },
      rest: Uint8Array.of(5),
    })
  }
})

t.test('EXPORT_NAME is chosen where GO is not known, and what was agreed stays', async (t) => {
  const { asked } = play(
    { ...all, replies: 'structured' },
    { ...complete, GO: [error('ERR_UNSUP')], EXPORT_NAME: [] },
  )
  t.same(asked, ['STRUCTURED_REPLY', 'SET_META_CONTEXT', 'GO', 'EXPORT_NAME'])
})

t.test('an oldstyle server has the default export and no other', async (t) => {
  const hello = formatHello({ kind: 'oldstyle', size: 4096, flags: FLAGS })
  const meet = (wishes: ClientWishes) => {
    const client = new ClientNegotiation(wishes)
    client.feed(hello)
    return steps(client).last
  }
  t.match(meet({ ...all, exportName: '' }), {
    kind: 'transmission',
    agreed: { exportName: '', size: 4096, flags: FLAGS, replies: 'simple' },
  })
  t.match(meet(all), {
    kind: 'close',
    why: { message: /oldstyle one, without names: it has no export "disk"/ },
  })
  t.match(meet({ ...all, exportName: '', tls: 'required' }), { why: { message: /too old/ } })
})

t.test('TLS is not given up for a server that is not fixed newstyle', async (t) => {
  const client = new ClientNegotiation({ ...few, tls: 'required' })
  client.feed(formatHello({ ...newstyle, fixed: false }))
  t.match(steps(client), {
    sent: Buffer.alloc(0),
    last: { why: { message: /TLS is required, and the server is too old/ } },
  })
})

t.test('a connection that ends early is told by what was awaited', async (t) => {
  const client = new ClientNegotiation(few)
  t.match(client.peerClosed(), {
    name: 'PeerError',
    message: 'the server closed the connection before it said what it offers',
  })
  client.feed(formatHello(newstyle))
  steps(client)
  t.match(client.peerClosed(), { message: 'the server closed the connection without an answer to option GO' })
  client.feed(formatOptionReply(options.GO, error('ERR_UNSUP')))
  steps(client)
  t.match(client.peerClosed(), {
    message: /when export "disk" was chosen: it has no such export, or requires TLS/,
  })
})

t.test('an export name that no server can have is refused', async (t) => {
  const client = new ClientNegotiation({ ...few, exportName: 'ß'.repeat(2049) })
  t.match(steps(client).last, { kind: 'close', why: { message: /export name/ } })
})
