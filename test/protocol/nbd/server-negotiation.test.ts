// SPDX-License-Identifier: Apache-2.0

import t from 'tap'
import { transmissionFlags } from '../../../protocol/nbd/constants.js'
import { formatOption, type OptionRequest } from '../../../protocol/nbd/option.js'
import type { OptionReply } from '../../../protocol/nbd/option-reply.js'
import { ServerNegotiation, type TlsMode } from '../../../protocol/nbd/server-negotiation.js'
import { wire } from '../../helpers/nbd/hex.js'
import { Asking, disk, exportsOf, fed, plain, steps } from '../../helpers/nbd/negotiation.js'

const exports = exportsOf(disk, plain)
const asking = (tls: TlsMode = 'none') => new Asking(new ServerNegotiation(exports, tls))
const ack = { kind: 'ACK' } as const
const { HAS_FLAGS, SEND_DF, BLOCK_STATUS_PAYLOAD } = transmissionFlags
const GO = (name: string, ...infos: number[]): OptionRequest => ({ kind: 'GO', name, infos })
const SET = (name: string, ...queries: string[]): OptionRequest => ({
  kind: 'SET_META_CONTEXT',
  name,
  queries,
})
const error = (name: string) => [{ kind: 'error', error: name }]

t.test('the hello comes first and offers fixed newstyle without zeroes', async (t) => {
  const server = new ServerNegotiation(exports)
  t.same(steps(server), { sent: Buffer.from(wire("'NBDMAGIC' 'IHAVEOPT' 0003")) })
})

t.test('exports are listed with their descriptions', async (t) => {
  t.same(asking().ask({ kind: 'LIST' }), [
    { kind: 'SERVER', name: 'disk', description: 'a disk' },
    { kind: 'SERVER', name: 'plain', description: '' },
    ack,
  ])
})

const simpleFlags = (disk.flags | HAS_FLAGS) & ~SEND_DF & ~BLOCK_STATUS_PAYLOAD
const exportInfo = { kind: 'INFO', info: { kind: 'EXPORT', size: disk.size, flags: simpleFlags } } as const

t.test('GO tells what was asked for and what has to be told', async (t) => {
  const { blockSizes } = disk
  const cases: readonly { name: string; infos: number[]; replies: OptionReply[]; minimum: number }[] = [
    { name: 'disk', infos: [], replies: [exportInfo, ack], minimum: 1 },
    { name: 'disk', infos: [77, 0], replies: [exportInfo, ack], minimum: 1 },
    {
      name: '',
      infos: [3, 1, 2, 3],
      replies: [
        { kind: 'INFO', info: { kind: 'NAME', name: 'disk' } },
        { kind: 'INFO', info: { kind: 'DESCRIPTION', text: 'a disk' } },
        { kind: 'INFO', info: { kind: 'BLOCK_SIZE', ...blockSizes } },
        exportInfo,
        ack,
      ],
      minimum: 512,
    },
  ]
  for (const { name, infos, replies, minimum } of cases) {
    const client = asking()
    t.same(client.ask({ kind: 'INFO', name, infos }), replies)
    t.equal(client.last, undefined, 'INFO ends nothing')
    t.same(client.ask(GO(name, ...infos)), replies)
    t.same(client.last, {
      kind: 'transmission',
      agreed: {
        exportName: 'disk',
        size: disk.size,
        flags: simpleFlags,
        replies: 'simple',
        blockSizes: { ...blockSizes, minimum },
        contexts: [],
      },
      rest: new Uint8Array(),
    })
  }
})

t.test('a description that is empty is not told', async (t) => {
  t.equal(asking().ask(GO('plain', 2)).length, 2)
})

t.test('EXPORT_NAME begins transmission at once, with zeroes unless they were agreed away', async (t) => {
  for (const [flags, length] of [
    [0, 134],
    [1, 134],
    [2, 10],
    [3, 10],
  ] as const) {
    const server = new ServerNegotiation(exports)
    steps(server)
    server.feed(Uint8Array.of(0, 0, 0, flags))
    server.feed(formatOption({ kind: 'EXPORT_NAME', name: 'plain' }))
    server.feed(Uint8Array.of(1, 2, 3))
    const { sent, last } = steps(server)
    t.equal(sent.length, length)
    t.match(last, { kind: 'transmission', agreed: { exportName: 'plain' }, rest: Uint8Array.of(1, 2, 3) })
    t.equal(server.next(), undefined)
  }
})

t.test('bytes that come while the answer to GO is sent belong to the transmission phase', async (t) => {
  const { server } = asking()
  server.feed(formatOption(GO('disk')))
  t.match(server.next(), { kind: 'send' })
  server.feed(Uint8Array.of(7))
  t.match(server.next(), { kind: 'transmission', rest: Uint8Array.of(7) })
})

t.test('structured replies and extended headers are agreed on, the latter for good', async (t) => {
  const client = asking()
  t.same(client.ask({ kind: 'STRUCTURED_REPLY' }), [ack])
  t.same(client.ask({ kind: 'STRUCTURED_REPLY' }), [ack])
  t.match(client.ask({ kind: 'INFO', name: 'disk', infos: [] }), [
    { info: { flags: simpleFlags | SEND_DF } },
    ack,
  ])
  t.same(client.ask({ kind: 'EXTENDED_HEADERS' }), [ack])
  t.match(client.ask({ kind: 'STRUCTURED_REPLY' }), error('ERR_EXT_HEADER_REQD'))
  client.ask(GO('disk'))
  t.match(client.last, {
    kind: 'transmission',
    agreed: { replies: 'extended', flags: simpleFlags | SEND_DF },
  })
})

t.test('after extended headers EXPORT_NAME ends the connection', async (t) => {
  const client = asking()
  client.ask({ kind: 'EXTENDED_HEADERS' })
  t.same(client.ask({ kind: 'EXPORT_NAME', name: 'disk' }), [])
  t.match(client.last, { kind: 'close', why: { message: /EXPORT_NAME after extended headers/ } })
})

t.test('contexts are chosen for one export, and not for another', async (t) => {
  const chosen = [
    { id: 0, name: 'base:allocation' },
    { id: 2, name: 'qemu:dirty-bitmap:b0' },
  ]
  const replies = [...chosen.map((context) => ({ kind: 'META_CONTEXT', ...context })), ack]
  const set = SET('', 'qemu:dirty-bitmap:b0', 'base:allocation', 'base:', 'x-y:z')
  for (const { name, after, exportName, contexts } of [
    { name: 'the same export', after: [], exportName: 'disk', contexts: chosen },
    { name: 'the same export by another name', after: [], exportName: '', contexts: chosen },
    { name: 'another export', after: [], exportName: 'plain', contexts: [] },
    { name: 'chosen anew', after: [SET('disk')], exportName: 'disk', contexts: [] },
    {
      name: 'a choice that failed',
      after: [SET('nix', 'base:allocation')],
      exportName: 'disk',
      contexts: [],
    },
    {
      name: 'INFO on another export between',
      after: [{ kind: 'INFO', name: 'plain', infos: [] } as const],
      exportName: 'disk',
      contexts: chosen,
    },
  ]) {
    const client = asking()
    client.ask({ kind: 'STRUCTURED_REPLY' })
    t.same(client.ask(set), replies, name)
    for (const request of after) client.ask(request)
    client.ask(GO(exportName))
    t.match(client.last, { agreed: { contexts } }, name)
  }
})

t.test('a choice with damaged data drops what was chosen', async (t) => {
  const client = asking()
  client.ask({ kind: 'STRUCTURED_REPLY' })
  client.ask(SET('disk', 'base:allocation'))
  t.match(client.raw(wire("'IHAVEOPT' 0000000a 00000004 00000009")), error('ERR_INVALID'))
  client.ask(GO('disk'))
  t.match(client.last, { agreed: { contexts: [] } })
})

t.test('payloads of BLOCK_STATUS are offered with extended headers and a context only', async (t) => {
  for (const { kinds, offered } of [
    { kinds: ['STRUCTURED_REPLY', 'SET'], offered: false },
    { kinds: ['EXTENDED_HEADERS'], offered: false },
    { kinds: ['EXTENDED_HEADERS', 'SET'], offered: true },
  ] as const) {
    const client = asking()
    for (const kind of kinds) client.ask(kind === 'SET' ? SET('disk', 'base:allocation') : { kind })
    client.ask(GO('disk'))
    const flags = client.last?.kind === 'transmission' ? client.last.agreed.flags : 0
    t.equal((flags & BLOCK_STATUS_PAYLOAD) !== 0, offered, kinds.join())
  }
})

t.test('contexts are listed with ids 0, and without a change of those chosen', async (t) => {
  const client = asking()
  client.ask({ kind: 'STRUCTURED_REPLY' })
  client.ask(SET('disk', 'qemu:dirty-bitmap:b1'))
  t.same(client.ask({ kind: 'LIST_META_CONTEXT', name: 'disk', queries: ['qemu:dirty-bitmap:'] }), [
    { kind: 'META_CONTEXT', id: 0, name: 'qemu:dirty-bitmap:b0' },
    { kind: 'META_CONTEXT', id: 0, name: 'qemu:dirty-bitmap:b1' },
    ack,
  ])
  t.same(client.ask({ kind: 'LIST_META_CONTEXT', name: 'plain', queries: [] }), [ack])
  client.ask(GO('disk'))
  t.match(client.last, { agreed: { contexts: [{ id: 3, name: 'qemu:dirty-bitmap:b1' }] } })
})

const refused: readonly { name: string; request: OptionRequest; error: string }[] = [
  { name: 'an export that is not there', request: GO('nix'), error: 'ERR_UNKNOWN' },
  {
    name: 'INFO of one that is not there',
    request: { kind: 'INFO', name: 'nix', infos: [] },
    error: 'ERR_UNKNOWN',
  },
  { name: 'an option that is not known', request: { kind: 'unknown', option: 4 }, error: 'ERR_UNSUP' },
  { name: 'TLS that is not there', request: { kind: 'STARTTLS' }, error: 'ERR_POLICY' },
  { name: 'contexts with simple replies', request: SET('disk', 'base:allocation'), error: 'ERR_INVALID' },
  {
    name: 'a list with simple replies',
    request: { kind: 'LIST_META_CONTEXT', name: 'disk', queries: [] },
    error: 'ERR_INVALID',
  },
]
for (const { name, request, error: expected } of refused) {
  t.test(`an option is answered with an error, and the next one is heard: ${name}`, async (t) => {
    const client = asking()
    t.match(client.ask(request), [{ kind: 'error', error: expected, text: /^.+$/ }])
    t.match(client.ask(GO('disk')), [exportInfo, ack])
    t.equal(client.last?.kind, 'transmission')
  })
}

t.test('contexts of an export that is not there', async (t) => {
  const client = asking()
  client.ask({ kind: 'EXTENDED_HEADERS' })
  t.match(client.ask(SET('nix', 'base:allocation')), error('ERR_UNKNOWN'))
})

t.test('the client may leave', async (t) => {
  const client = asking('forced')
  t.same(client.ask({ kind: 'ABORT' }), [ack])
  t.same(client.last, { kind: 'close' })
})

const closed: readonly { name: string; tls?: TlsMode; bytes: Uint8Array; says: RegExp }[] = [
  { name: 'flags that were not offered', bytes: wire('00000007'), says: /client flags: found 0x7/ },
  { name: 'no option', bytes: wire("00000003 'GET / HTTP/1.1.1'"), says: /magic number of an option/ },
  {
    name: 'too much data',
    bytes: wire("00000003 'IHAVEOPT' 00000063 00010001"),
    says: /data of option 99: found 65537/,
  },
  {
    name: 'GO of a client that is not fixed newstyle',
    bytes: wire("00000002 'IHAVEOPT' 00000007 00000006 0000000000 00"),
    says: /option 7 .* without flag FIXED_NEWSTYLE/,
  },
  {
    name: 'EXPORT_NAME of what is not there',
    bytes: wire("00000003 'IHAVEOPT' 00000001 00000003 'nix'"),
    says: /no export "nix"/,
  },
  {
    name: 'EXPORT_NAME with a damaged name',
    bytes: wire("00000003 'IHAVEOPT' 00000001 00000001 ff"),
    says: /found ff/,
  },
  {
    name: 'EXPORT_NAME without TLS',
    tls: 'forced',
    bytes: wire("00000003 'IHAVEOPT' 00000001 00000004 'disk'"),
    says: /"disk" was chosen without TLS/,
  },
  {
    name: 'bytes behind STARTTLS',
    tls: 'optional',
    bytes: wire("00000003 'IHAVEOPT' 00000005 00000000 16"),
    says: /bytes behind option STARTTLS/,
  },
]
for (const { name, tls, bytes, says } of closed) {
  t.test(`the connection is closed without a word: ${name}`, async (t) => {
    const server = new ServerNegotiation(exports, tls)
    const { sent, last } = fed(server, bytes, bytes.length)
    t.equal(sent.length, 18, 'the hello and no more')
    t.match(last, { kind: 'close', why: { name: 'PeerError', message: says } })
    t.equal(server.next(), undefined)
  })
}

t.test('forced TLS: nothing but STARTTLS and ABORT before it', async (t) => {
  const client = asking('forced')
  const others: OptionRequest[] = [
    { kind: 'LIST' },
    { kind: 'STRUCTURED_REPLY' },
    SET('disk'),
    GO('disk'),
    { kind: 'unknown', option: 99 },
  ]
  for (const request of others) t.match(client.ask(request), error('ERR_TLS_REQD'), request.kind)
  t.same(client.ask({ kind: 'STARTTLS' }), [ack])
  t.same(client.last, { kind: 'start-tls', rest: new Uint8Array() })
  client.server.tlsStarted()
  t.match(client.ask({ kind: 'STARTTLS' }), error('ERR_INVALID'))
  t.equal(client.ask({ kind: 'LIST' }).length, 3)
  client.ask(GO('disk'))
  t.equal(client.last?.kind, 'transmission')
})

t.test('optional TLS: what was agreed before it does not count', async (t) => {
  const client = asking('optional')
  client.ask({ kind: 'EXTENDED_HEADERS' })
  client.ask(SET('disk', 'base:allocation'))
  client.ask({ kind: 'STARTTLS' })
  client.server.tlsStarted()
  client.ask(GO('disk'))
  t.match(client.last, { agreed: { replies: 'simple', contexts: [] } })
})

t.test('bytes that come while the answer to STARTTLS is sent belong to TLS', async (t) => {
  const { server } = asking('forced')
  server.feed(formatOption({ kind: 'STARTTLS' }))
  t.match(server.next(), { kind: 'send' })
  server.feed(Uint8Array.of(0x16, 3, 1))
  t.same(server.next(), { kind: 'start-tls', rest: Uint8Array.of(0x16, 3, 1) })
  server.tlsStarted()
  t.equal(server.next(), undefined)
  server.feed(formatOption(GO('disk')))
  t.equal(steps(server).last?.kind, 'transmission')
})

t.test('more queries than are looked at are too many, and no reason to close', async (t) => {
  const client = asking()
  client.ask({ kind: 'STRUCTURED_REPLY' })
  const queries = Array.from({ length: 257 }, (_, index) => `x:${index}`)
  t.match(client.ask(SET('disk', ...queries)), error('ERR_TOO_BIG'))
  t.same(client.ask(SET('disk', ...queries.slice(1))), [ack])
})

t.test('STARTTLS with data is invalid, and TLS can be started afterwards', async (t) => {
  const client = asking('optional')
  t.match(client.raw(wire("'IHAVEOPT' 00000005 00000001 00")), error('ERR_INVALID'))
  t.same(client.ask({ kind: 'STARTTLS' }), [ack])
})

t.test('a server that shuts down says so, and lets the client leave', async (t) => {
  const client = asking()
  client.server.shutDown()
  t.match(client.ask(GO('disk')), error('ERR_SHUTDOWN'))
  t.match(client.ask({ kind: 'LIST' }), error('ERR_SHUTDOWN'))
  t.same(client.ask({ kind: 'ABORT' }), [ack])
  t.same(client.last, { kind: 'close' })
})

t.test('options that were sent without waiting are answered one by one, when asked', async (t) => {
  const { server } = asking()
  const list = formatOption({ kind: 'LIST' })
  server.feed(Buffer.concat(Array.from({ length: 1000 }, () => list)))
  let answers = 0
  for (let step = server.next(); step !== undefined; step = server.next()) {
    if (step.kind !== 'send' || step.bytes.length > 100) t.fail('more than one answer')
    answers += 1
  }
  t.equal(answers, 1000)
})
