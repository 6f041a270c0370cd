// SPDX-License-Identifier: Apache-2.0
// Connections between other programs: our side in the place of either sends the same bytes, and what follows the
// handshake is read and written as it was.

import t from 'tap'
import type { Agreed } from '../../../protocol/nbd/agreed.js'
import { ClientNegotiation } from '../../../protocol/nbd/client-negotiation.js'
import { ServerNegotiation } from '../../../protocol/nbd/server-negotiation.js'
import { hexOf } from '../../helpers/nbd/hex.js'
import { exportsOf, fed } from '../../helpers/nbd/negotiation.js'
import { type Recording, recordings } from '../../helpers/nbd/recordings.js'
import { type Message, readReplies, readRequests } from '../../helpers/nbd/transmission.js'

function sentBy({ messages }: Recording, who: 'client' | 'server'): Buffer {
  return Buffer.concat(messages.filter(([from]) => from === who).map(([, hex]) => Buffer.from(hex, 'hex')))
}

for (const recording of recordings) {
  const { name, wishes, offered } = recording
  const [client, server] = [sentBy(recording, 'client'), sentBy(recording, 'server')]
  if (offered !== undefined) {
    t.test(`${name}: our server answers as theirs did`, async (t) => {
      const { sent, last } = fed(new ServerNegotiation(exportsOf(offered)), client, client.length)
      t.equal(hexOf(sent), hexOf(server.subarray(0, sent.length)))
      if (last?.kind === 'close') t.equal(sent.length, server.length)
      else t.match(last, { kind: 'transmission', agreed: { exportName: 'disk' } })
    })
  }
  if (wishes !== undefined) {
    t.test(`${name}: our client asks as theirs did, and what follows is understood`, async (t) => {
      const { sent, last } = fed(new ClientNegotiation(wishes), server, server.length)
      t.equal(hexOf(sent), hexOf(client.subarray(0, sent.length)))
      if (last?.kind !== 'transmission') throw new Error('no transmission')
      t.match(last.agreed, agreed[name] ?? {})
      const { messages, requests } = readRequests(client.subarray(sent.length), last.agreed)
      const replies = readReplies(last.rest, last.agreed, requests)
      t.equal(hexOf(again(messages)), hexOf(client.subarray(sent.length)))
      t.equal(hexOf(again(replies)), hexOf(last.rest))
      const expected = conversations[name]
      const said = [...messages, ...replies].map(({ says }) => says)
      if (expected !== undefined) t.same(said, expected)
    })
  }
}

function again(messages: readonly Message[]): Buffer {
  return Buffer.concat(messages.map((message) => message.again))
}

const wrongRequests = [
  'READ 1048576+512',
  'WRITE 0+512',
  '9 0+0',
  'BLOCK_STATUS 0+1048576',
  'READ 130560+1024',
  'DISC 0+0',
]
const answers = [
  'EINVAL: operation past EOF; From: 1048576, Len: 512, Size: 1048576',
  'EINVAL: Export is read-only',
  'EINVAL: invalid request type (9) received',
  'status of 0: 131072:3 65536:0 851968:3',
  'hole 130560+512 …',
  'data 131072+512',
]
/** Requests, then replies. */
const conversations: Readonly<Record<string, readonly string[]>> = {
  'qemu-nbd 7.2 and nbdinfo --map of libnbd 1.14': [
    'BLOCK_STATUS 0+1048576',
    'DISC 0+0',
    'status of 2: 131072:0 65536:1 851968:0',
  ],
  'qemu-nbd 10.0 and qemu-img 10.0 map': [
    'READ 0+512',
    'BLOCK_STATUS 0+1048576 REQ_ONE',
    'BLOCK_STATUS 131072+917504 REQ_ONE',
    'BLOCK_STATUS 196608+851968 REQ_ONE',
    'DISC 0+0',
    'hole 0+512',
    'status of 0: 131072:3',
    'status of 0: 65536:0',
    'status of 0: 851968:3',
  ],
  'qemu-nbd 10.0 and a client of wrong requests, extended headers': [
    ...wrongRequests.map((says) => (says.startsWith('WRITE') ? `${says} PAYLOAD_LEN` : says)),
    ...answers,
  ],
  'qemu-nbd 10.0 and a client of wrong requests, structured replies': [...wrongRequests, ...answers],
  'nbdkit 1.32 and qemu-io 7.2': [
    'WRITE 65536+512 FUA',
    'READ 0+512',
    'WRITE_ZEROES 0+65536 FUA NO_HOLE',
    'WRITE_ZEROES 0+65536 FUA',
    'TRIM 0+65536',
    'FLUSH 0+0',
    'FLUSH 0+0',
    'DISC 0+0',
    'simple done',
    'data 0+512',
    ...Array.from({ length: 5 }, () => 'simple done'),
  ],
  'nbdkit 1.32 with a filter of errors and qemu-io 7.2': [
    'READ 0+512',
    'FLUSH 0+0',
    'DISC 0+0',
    'EIO: ',
    'simple done',
  ],
}

/** Where the server had less than what was wished. */
const agreed: Readonly<Record<string, Partial<Agreed>>> = {
  'nbdkit 1.32 and qemu-io 7.2': {
    replies: 'structured',
    contexts: [{ id: 1, name: 'base:allocation' }],
    blockSizes: { minimum: 1, preferred: 4096, maximumPayload: 1 << 25 },
  },
  'nbdkit 1.32 that is not fixed newstyle and nbdinfo of libnbd 1.14': {
    exportName: 'disk',
    size: 1 << 20,
    replies: 'simple',
  },
  'nbdkit 1.32 that is oldstyle and nbdinfo of libnbd 1.14': { size: 1 << 20, replies: 'simple' },
}
