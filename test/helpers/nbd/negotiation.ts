// SPDX-License-Identifier: Apache-2.0
// Handshakes in memory: exports to offer, a peer that talks to one negotiation, and two negotiations that talk.

import type { ClientNegotiation } from '../../../protocol/nbd/client-negotiation.js'
import { transmissionFlags } from '../../../protocol/nbd/constants.js'
import { formatOption, type OptionRequest } from '../../../protocol/nbd/option.js'
import {
  OPTION_REPLY_HEADER_LENGTH,
  type OptionReply,
  parseOptionReply,
  parseOptionReplyHeader,
} from '../../../protocol/nbd/option-reply.js'
import type { Exports, OfferedExport, ServerNegotiation } from '../../../protocol/nbd/server-negotiation.js'
import type { NegotiationStep } from '../../../protocol/nbd/steps.js'

const { SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, SEND_FAST_ZERO } = transmissionFlags

/** All that a server can do, without HAS_FLAGS: that one is not for whoever offers. */
export const ALL_FLAGS =
  SEND_FLUSH |
  SEND_FUA |
  SEND_TRIM |
  SEND_WRITE_ZEROES |
  SEND_FAST_ZERO |
  transmissionFlags.SEND_DF |
  transmissionFlags.BLOCK_STATUS_PAYLOAD

export const disk: OfferedExport = {
  name: 'disk',
  description: 'a disk',
  size: 1 << 20,
  flags: ALL_FLAGS,
  blockSizes: { minimum: 512, preferred: 4096, maximumPayload: 1 << 25 },
  contexts: ['base:allocation', 'qemu:allocation-depth', 'qemu:dirty-bitmap:b0', 'qemu:dirty-bitmap:b1'],
}

export const plain: OfferedExport = { ...disk, name: 'plain', description: '', contexts: [] }

/** The first is the default export too. */
export function exportsOf(...offered: readonly OfferedExport[]): Exports {
  return {
    find: (name) => (name === '' ? offered[0] : offered.find((one) => one.name === name)),
    list: () => offered,
  }
}

type Negotiation = Pick<ServerNegotiation | ClientNegotiation, 'feed' | 'next'>

/** Does the steps there are: what is to be sent, and the last step if it is another. */
export function steps(negotiation: Negotiation): { sent: Buffer; last?: NegotiationStep } {
  const sent: Uint8Array[] = []
  for (;;) {
    const step = negotiation.next()
    if (step === undefined) return { sent: Buffer.concat(sent) }
    if (step.kind !== 'send') return { sent: Buffer.concat(sent), last: step }
    sent.push(step.bytes)
  }
}

/** Feeds bytes in pieces of one size, doing the steps between. */
export function fed(
  negotiation: Negotiation,
  bytes: Uint8Array,
  piece: number,
): { sent: Buffer; last?: NegotiationStep } {
  const { sent, last } = steps(negotiation)
  if (last !== undefined) return { sent, last }
  const all = [sent]
  for (let at = 0; at < bytes.length; at += piece) {
    negotiation.feed(bytes.subarray(at, at + piece))
    const found = steps(negotiation)
    all.push(found.sent)
    if (found.last !== undefined) return { sent: Buffer.concat(all), last: found.last }
  }
  return { sent: Buffer.concat(all) }
}

export function parseReplies(bytes: Uint8Array): OptionReply[] {
  const replies: OptionReply[] = []
  for (let at = 0; at < bytes.length; ) {
    const header = parseOptionReplyHeader(bytes.subarray(at))
    if (header === undefined) throw new Error('half a reply')
    const from = at + OPTION_REPLY_HEADER_LENGTH
    at = from + header.length
    replies.push(parseOptionReply(header.reply, bytes.subarray(from, at)))
  }
  return replies
}

/** A client that asks a server's negotiation one option after the other. */
export class Asking {
  readonly server: ServerNegotiation
  last: NegotiationStep | undefined

  constructor(server: ServerNegotiation, clientFlags = 3) {
    this.server = server
    steps(server)
    server.feed(Uint8Array.of(0, 0, 0, clientFlags))
  }

  ask(request: OptionRequest): OptionReply[] {
    return this.raw(formatOption(request))
  }

  raw(bytes: Uint8Array): OptionReply[] {
    this.server.feed(bytes)
    const { sent, last } = steps(this.server)
    this.last = last
    return parseReplies(sent)
  }
}

export interface Met {
  readonly server: NegotiationStep | undefined
  readonly client: NegotiationStep | undefined
  /** All that the server sent, and all that the client sent. */
  readonly sent: { readonly server: Buffer; readonly client: Buffer }
}

/**
 * Lets both talk until neither has a step. What one sends the other is fed in pieces.
 * @returns their last steps other than `send` and `start-tls`
 */
export function meet(server: ServerNegotiation, client: ClientNegotiation, piece = 2 ** 20): Met {
  const ends: { server?: NegotiationStep; client?: NegotiationStep } = {}
  const sent = { server: [] as Uint8Array[], client: [] as Uint8Array[] }
  const turn = (from: 'server' | 'client', to: Negotiation): boolean => {
    const step = { server, client }[from].next()
    if (step === undefined) return false
    if (step.kind === 'send') {
      sent[from].push(step.bytes)
      for (let at = 0; at < step.bytes.length; at += piece) to.feed(step.bytes.subarray(at, at + piece))
    } else if (step.kind === 'start-tls') ({ server, client })[from].tlsStarted()
    else ends[from] = step
    return true
  }
  while (turn('server', client) || turn('client', server));
  return {
    server: ends.server,
    client: ends.client,
    sent: { server: Buffer.concat(sent.server), client: Buffer.concat(sent.client) },
  }
}
