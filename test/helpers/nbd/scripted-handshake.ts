// SPDX-License-Identifier: Apache-2.0
// A server that answers each option of a handshake as a script says, in memory. For tests of the client's side.

import { ClientNegotiation, type ClientWishes } from '../../../protocol/nbd/client-negotiation.js'
import { type OptionErrorName, options, transmissionFlags } from '../../../protocol/nbd/constants.js'
import { formatHello } from '../../../protocol/nbd/hello.js'
import type { OptionRequest } from '../../../protocol/nbd/option.js'
import { type ExportInfo, formatOptionReply, type OptionReply } from '../../../protocol/nbd/option-reply.js'
import type { NegotiationStep } from '../../../protocol/nbd/steps.js'
import { steps } from './negotiation.js'

const { HAS_FLAGS, SEND_FLUSH } = transmissionFlags
export const FLAGS = HAS_FLAGS | SEND_FLUSH
export const all: ClientWishes = {
  exportName: 'disk',
  replies: 'extended',
  contexts: ['base:allocation'],
  tls: 'none',
}
export const few: ClientWishes = { exportName: 'disk', replies: 'simple', contexts: [], tls: 'none' }

export const ack: OptionReply = { kind: 'ACK' }
export const info = (some: ExportInfo): OptionReply => ({ kind: 'INFO', info: some })
export const head = info({ kind: 'EXPORT', size: 1 << 20, flags: FLAGS })
export const sizes = (minimum: number, preferred: number, maximumPayload: number) =>
  info({ kind: 'BLOCK_SIZE', minimum, preferred, maximumPayload })
export const context = (id: number, name: string): OptionReply => ({ kind: 'META_CONTEXT', id, name })
export const error = (name: OptionErrorName | number, text = ''): OptionReply => ({
  kind: 'error',
  error: name,
  text,
})
export const newstyle = { kind: 'newstyle', fixed: true, noZeroes: true } as const

/** What a scripted server answers, by kind of option; what is not listed is not known to it. */
export type Script = Partial<Record<Exclude<OptionRequest['kind'], 'unknown'>, readonly OptionReply[]>>

export const complete: Script = {
  EXTENDED_HEADERS: [ack],
  STRUCTURED_REPLY: [ack],
  SET_META_CONTEXT: [context(7, 'base:allocation'), ack],
  GO: [sizes(512, 4096, 1 << 25), head, ack],
}

/**
 * Plays the script.
 * @param again  what is answered to an option that was asked before, if something else
 * @returns the kinds of options that the client sent, and its last step
 */
export function play(
  wishes: ClientWishes,
  script: Script,
  again: Script = {},
): { asked: string[]; last?: NegotiationStep } {
  const client = new ClientNegotiation(wishes)
  client.feed(formatHello(newstyle))
  const asked: string[] = []
  for (let skip = 4; ; skip = 0) {
    const { sent, last } = steps(client)
    if (sent.length > 0) {
      const option = sent.readUInt32BE(skip + 8)
      const kind = Object.entries(options).find(
        ([, number]) => number === option,
      )?.[0] as keyof typeof options
      const answers = (asked.includes(kind) ? again[kind] : undefined) ?? script[kind]
      asked.push(kind)
      for (const reply of answers ?? [error('ERR_UNSUP')]) client.feed(formatOptionReply(option, reply))
    }
    if (last?.kind === 'start-tls') client.tlsStarted()
    else if (last !== undefined) return { asked, last }
    if (sent.length === 0 && last === undefined) return { asked }
  }
}
