// SPDX-License-Identifier: Apache-2.0
// What a client agrees on with servers that know more or less, and what it asks them for.

import t from 'tap'
import type { ClientWishes } from '../../../protocol/nbd/client-negotiation.js'
import { transmissionFlags } from '../../../protocol/nbd/constants.js'
import {
  ack,
  all,
  complete,
  context,
  error,
  FLAGS,
  few,
  head,
  info,
  play,
  type Script,
} from '../../helpers/nbd/scripted-handshake.js'

const { SEND_DF } = transmissionFlags

const agreements: readonly {
  name: string
  wishes: ClientWishes
  script: Script
  again?: Script
  asked: string
  agreed: object
}[] = [
  {
    name: 'all that is wished',
    wishes: all,
    script: complete,
    asked: 'EXTENDED_HEADERS SET_META_CONTEXT GO',
    agreed: {
      exportName: 'disk',
      size: 1 << 20,
      flags: FLAGS,
      replies: 'extended',
      blockSizes: { minimum: 512, preferred: 4096, maximumPayload: 1 << 25 },
      contexts: [{ id: 7, name: 'base:allocation' }],
    },
  },
  {
    name: 'structured replies where extended headers are not known',
    wishes: all,
    script: { ...complete, EXTENDED_HEADERS: [error('ERR_UNSUP')] },
    asked: 'EXTENDED_HEADERS STRUCTURED_REPLY SET_META_CONTEXT GO',
    agreed: { replies: 'structured', contexts: [{ id: 7, name: 'base:allocation' }] },
  },
  {
    name: 'structured replies where they are the most that is wished',
    wishes: { ...all, replies: 'structured', contexts: [] },
    script: complete,
    asked: 'STRUCTURED_REPLY GO',
    agreed: { replies: 'structured', contexts: [] },
  },
  {
    name: 'simple replies and no contexts where neither is known',
    wishes: all,
    script: { GO: complete.GO ?? [] },
    asked: 'EXTENDED_HEADERS STRUCTURED_REPLY GO',
    agreed: { replies: 'simple', contexts: [] },
  },
  {
    name: 'no contexts where the server has none of those',
    wishes: all,
    script: { ...complete, SET_META_CONTEXT: [ack] },
    asked: 'EXTENDED_HEADERS SET_META_CONTEXT GO',
    agreed: { contexts: [] },
  },
  {
    name: 'no contexts where the choice failed',
    wishes: all,
    script: { ...complete, SET_META_CONTEXT: [context(7, 'base:allocation'), error('ERR_TOO_BIG')] },
    asked: 'EXTENDED_HEADERS SET_META_CONTEXT GO',
    agreed: { contexts: [] },
  },
  {
    name: 'the one dirty bitmap there is',
    wishes: { ...all, loneBitmap: true },
    script: {
      ...complete,
      LIST_META_CONTEXT: [context(0, 'base:allocation'), context(0, 'qemu:dirty-bitmap:b'), ack],
      SET_META_CONTEXT: [context(7, 'base:allocation'), context(8, 'qemu:dirty-bitmap:b'), ack],
    },
    asked: 'EXTENDED_HEADERS LIST_META_CONTEXT SET_META_CONTEXT GO',
    agreed: {
      contexts: [
        { id: 7, name: 'base:allocation' },
        { id: 8, name: 'qemu:dirty-bitmap:b' },
      ],
    },
  },
  {
    name: 'no dirty bitmap where there are several',
    wishes: { ...all, loneBitmap: true },
    script: {
      ...complete,
      LIST_META_CONTEXT: ['a', 'b', 'c'].map((name) => context(0, `qemu:dirty-bitmap:${name}`)).concat(ack),
    },
    asked: 'EXTENDED_HEADERS LIST_META_CONTEXT SET_META_CONTEXT GO',
    agreed: { contexts: [{ id: 7, name: 'base:allocation' }] },
  },
  {
    name: 'no dirty bitmap where contexts are not listed',
    wishes: { ...all, loneBitmap: true },
    script: complete,
    asked: 'EXTENDED_HEADERS LIST_META_CONTEXT SET_META_CONTEXT GO',
    agreed: { contexts: [{ id: 7, name: 'base:allocation' }] },
  },
  {
    name: 'the one dirty bitmap among more contexts than other options may have replies',
    wishes: { ...all, loneBitmap: true },
    script: {
      ...complete,
      LIST_META_CONTEXT: [
        ...Array.from({ length: 1000 }, (_, index) => context(0, `x:${index}`)),
        ...[context(0, 'qemu:dirty-bitmap:b'), ack],
      ],
      SET_META_CONTEXT: [context(7, 'base:allocation'), context(8, 'qemu:dirty-bitmap:b'), ack],
    },
    asked: 'EXTENDED_HEADERS LIST_META_CONTEXT SET_META_CONTEXT GO',
    agreed: {
      contexts: [
        { id: 7, name: 'base:allocation' },
        { id: 8, name: 'qemu:dirty-bitmap:b' },
      ],
    },
  },
  {
    name: 'what else is wished where the dirty bitmap there is is refused',
    wishes: { ...all, loneBitmap: true },
    script: {
      ...complete,
      LIST_META_CONTEXT: [context(0, 'qemu:dirty-bitmap:b'), ack],
      SET_META_CONTEXT: [context(7, 'base:allocation'), error('ERR_INVALID')],
    },
    again: { SET_META_CONTEXT: [context(7, 'base:allocation'), ack] },
    asked: 'EXTENDED_HEADERS LIST_META_CONTEXT SET_META_CONTEXT SET_META_CONTEXT GO',
    agreed: { contexts: [{ id: 7, name: 'base:allocation' }] },
  },
  {
    name: 'no contexts where those without the dirty bitmap are refused too',
    wishes: { ...all, loneBitmap: true },
    script: {
      ...complete,
      LIST_META_CONTEXT: [context(0, 'qemu:dirty-bitmap:b'), ack],
      SET_META_CONTEXT: [error('ERR_INVALID')],
    },
    asked: 'EXTENDED_HEADERS LIST_META_CONTEXT SET_META_CONTEXT SET_META_CONTEXT GO',
    agreed: { contexts: [] },
  },
  {
    name: 'a dirty bitmap that is wished by its name once, although it is the only one too',
    wishes: { ...all, contexts: ['qemu:dirty-bitmap:b'], loneBitmap: true },
    script: {
      ...complete,
      LIST_META_CONTEXT: [context(0, 'qemu:dirty-bitmap:b'), ack],
      SET_META_CONTEXT: [error('ERR_INVALID')],
    },
    asked: 'EXTENDED_HEADERS LIST_META_CONTEXT SET_META_CONTEXT GO',
    agreed: { contexts: [] },
  },
  {
    name: 'a dirty bitmap is not looked for where replies are simple',
    wishes: { ...all, loneBitmap: true },
    script: { GO: complete.GO ?? [] },
    asked: 'EXTENDED_HEADERS STRUCTURED_REPLY GO',
    agreed: { replies: 'simple', contexts: [] },
  },
  {
    name: 'default block sizes where none are told',
    wishes: few,
    script: { GO: [head, ack] },
    asked: 'GO',
    agreed: { blockSizes: { minimum: 1, preferred: 4096, maximumPayload: 1 << 25 } },
  },
  {
    name: 'infos that are not known are ignored',
    wishes: few,
    script: { GO: [info({ kind: 'unknown', info: 99 }), head, info({ kind: 'NAME', name: 'x' }), ack] },
    asked: 'GO',
    agreed: { exportName: 'disk' },
  },
  {
    name: 'flags that need chunks are not believed with simple replies',
    wishes: few,
    script: { GO: [info({ kind: 'EXPORT', size: 0, flags: FLAGS | SEND_DF }), ack] },
    asked: 'GO',
    agreed: { size: 0, flags: FLAGS },
  },
  {
    name: 'TLS before everything else',
    wishes: { ...all, tls: 'required' },
    script: { ...complete, STARTTLS: [ack] },
    asked: 'STARTTLS EXTENDED_HEADERS SET_META_CONTEXT GO',
    agreed: { replies: 'extended' },
  },
  {
    name: 'no TLS where it is optional and refused',
    wishes: { ...few, tls: 'optional' },
    script: { ...complete, STARTTLS: [error('ERR_POLICY')] },
    asked: 'STARTTLS GO',
    agreed: { replies: 'simple' },
  },
]
for (const { name, wishes, script, again, asked, agreed } of agreements) {
  t.test(`agreed: ${name}`, async (t) => {
    const { asked: found, last } = play(wishes, script, again)
    t.equal(found.join(' '), asked)
    t.match(last, { kind: 'transmission', agreed })
  })
}
