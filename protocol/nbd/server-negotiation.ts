// SPDX-License-Identifier: Apache-2.0
// The server's side of a handshake. Whoever has the connection feeds what it read and does the steps, one by one:
//
//   negotiation.feed(bytes)
//   for (let step; (step = negotiation.next()) !== undefined; ) …
//
// Rule: one step answers one option, and the next is read only when it is asked for: a client that sends options without
// reading the answers costs no more than one answer. Steps end with `transmission` or `close`.
// Source: doc/proto.md, "Handshake", "TLS support", "Option types".

import { quoted } from '../error-text.js'
import { PeerError } from '../peer-error.js'
import { type Agreed, type Context, type ReplyStyle, usableFlags } from './agreed.js'
import { type BlockSizes, defaultBlockSizes } from './block-sizes.js'
import { packed } from './bytes.js'
import { infos, type OptionErrorName, options, transmissionFlags } from './constants.js'
import { chosenContexts, listedContexts } from './contexts.js'
import {
  CLIENT_FLAGS_LENGTH,
  type ClientFlags,
  formatExportHead,
  formatHello,
  parseClientFlags,
} from './hello.js'
import { Inbox } from './inbox.js'
import {
  OPTION_HEADER_LENGTH,
  type OptionHeader,
  type OptionRequest,
  parseOption,
  parseOptionHeader,
  TooBig,
} from './option.js'
import { formatOptionReply, type OptionReply } from './option-reply.js'
import type { Closing, NegotiationStep } from './steps.js'

/** An export as clients may choose it. */
export interface OfferedExport {
  readonly name: string
  /** For people; may be empty. */
  readonly description: string
  /** Bytes. */
  readonly size: number
  /** Transmission flags. Those that need an agreement (SEND_DF, …) are left out by the negotiation where there is none. */
  readonly flags: number
  readonly blockSizes: BlockSizes
  /** Names of contexts, each once; their places are their ids. */
  readonly contexts: readonly string[]
}

/** Where a server's exports are found. Asked at any time of a handshake, answers at once. */
export interface Exports {
  /** @param name  as the client gave it; empty: the default export */
  find(name: string): OfferedExport | undefined
  list(): readonly Pick<OfferedExport, 'name' | 'description'>[]
}

/** `forced`: nothing is told before TLS is on. `optional`: the client may start it. */
export type TlsMode = 'none' | 'optional' | 'forced'

type Request<Kind> = Extract<OptionRequest, { kind: Kind }>

export class ServerNegotiation {
  readonly #exports: Exports
  readonly #tls: TlsMode
  readonly #inbox = new Inbox()
  #greeted = false
  /** undefined: yet to come. */
  #client: ClientFlags | undefined
  #header: OptionHeader | undefined
  #secured = false
  #replies: ReplyStyle = 'simple'
  /** Chosen for one export, by its name; not for another one. */
  #chosen: { readonly exportName: string; readonly contexts: readonly Context[] } | undefined
  #shuttingDown = false
  /** `tls`: between the two plaintexts. */
  #state: 'options' | 'tls' | 'over' = 'options'
  /** Comes when the step before it was done. */
  #then: (() => NegotiationStep) | undefined

  constructor(exports: Exports, tls: TlsMode = 'none') {
    this.#exports = exports
    this.#tls = tls
  }

  /** The connection is encrypted now, or was from the start. What was agreed before does not count any more. */
  tlsStarted(): void {
    this.#secured = true
    this.#replies = 'simple'
    this.#chosen = undefined
    if (this.#state === 'tls') this.#state = 'options'
  }

  /** From now on every option but ABORT is answered with ERR_SHUTDOWN. */
  shutDown(): void {
    this.#shuttingDown = true
  }

  /** Not after the end. */
  feed(bytes: Uint8Array): void {
    this.#inbox.push(bytes)
  }

  /** @returns undefined when more bytes are needed, and after the end */
  next(): NegotiationStep | undefined {
    const then = this.#then
    if (then !== undefined) {
      this.#then = undefined
      return then()
    }
    if (this.#state !== 'options') return undefined
    try {
      return this.#read()
    } catch (error) {
      if (error instanceof PeerError) return this.#close(error)
      throw error
    }
  }

  /** @throws PeerError when the connection is of no more use */
  #read(): NegotiationStep | undefined {
    if (!this.#greeted) {
      this.#greeted = true
      return { kind: 'send', bytes: formatHello({ kind: 'newstyle', fixed: true, noZeroes: true }) }
    }
    if (this.#client === undefined) {
      const flags = this.#inbox.take(CLIENT_FLAGS_LENGTH)
      if (flags === undefined) return undefined
      this.#client = parseClientFlags(flags)
    }
    this.#header ??= this.#readHeader()
    if (this.#header === undefined) return undefined
    const { option, length } = this.#header
    const data = this.#inbox.take(length)
    if (data === undefined) return undefined
    this.#header = undefined
    return this.#handle(option, data, this.#client)
  }

  #readHeader(): OptionHeader | undefined {
    const header = parseOptionHeader(this.#inbox.peek())
    if (header !== undefined) this.#inbox.take(OPTION_HEADER_LENGTH)
    return header
  }

  #handle(option: number, data: Uint8Array, client: ClientFlags): NegotiationStep {
    if (option === options.EXPORT_NAME) return this.#exportName(parseOption(option, data), client)
    if (!client.fixed) throw new PeerError(`option ${option} of a client without flag FIXED_NEWSTYLE`)
    // Also when it fails.
    if (option === options.SET_META_CONTEXT) this.#chosen = undefined
    const fail = (error: OptionErrorName, text: string) => replying(option, { kind: 'error', error, text })
    if (this.#shuttingDown && option !== options.ABORT)
      return fail('ERR_SHUTDOWN', 'the server is shutting down')
    if (this.#needsTls && option !== options.STARTTLS && option !== options.ABORT)
      return fail('ERR_TLS_REQD', 'the server requires TLS')
    let request: OptionRequest
    try {
      request = parseOption(option, data)
    } catch (error) {
      if (error instanceof TooBig) return fail('ERR_TOO_BIG', error.message)
      if (error instanceof PeerError) return fail('ERR_INVALID', error.message)
      throw error
    }
    return this.#answer(option, request, fail)
  }

  get #needsTls(): boolean {
    return this.#tls === 'forced' && !this.#secured
  }

  #answer(option: number, request: OptionRequest, fail: Fail): NegotiationStep {
    switch (request.kind) {
      case 'ABORT':
        return this.#andThen(replying(option, { kind: 'ACK' }), () => this.#close())
      case 'LIST':
        return replying(
          option,
          ...this.#exports
            .list()
            .map(({ name, description }) => ({ kind: 'SERVER', name, description }) as const),
          { kind: 'ACK' },
        )
      case 'STARTTLS':
        return this.#startTls(option, fail)
      case 'STRUCTURED_REPLY':
        if (this.#replies === 'extended')
          return fail('ERR_EXT_HEADER_REQD', 'extended headers have been agreed on')
        this.#replies = 'structured'
        return replying(option, { kind: 'ACK' })
      case 'EXTENDED_HEADERS':
        this.#replies = 'extended'
        return replying(option, { kind: 'ACK' })
      case 'INFO':
      case 'GO':
        return this.#infoOrGo(option, request, fail)
      case 'LIST_META_CONTEXT':
      case 'SET_META_CONTEXT':
        return this.#metaContext(option, request, fail)
      case 'EXPORT_NAME':
        throw new Error('EXPORT_NAME has no option reply')
      case 'unknown':
        return fail('ERR_UNSUP', `option ${request.option} is not known`)
      default:
        return request satisfies never
    }
  }

  #startTls(option: number, fail: Fail): NegotiationStep {
    if (this.#secured) return fail('ERR_INVALID', 'TLS is on')
    if (this.#tls === 'none') return fail('ERR_POLICY', 'the server has no TLS')
    // What came in plaintext behind the option could be taken for encrypted later: somebody in between put it there.
    if (this.#inbox.length > 0) throw new PeerError('bytes behind option STARTTLS, before TLS is on')
    this.#state = 'tls'
    return this.#andThen(replying(option, { kind: 'ACK' }), () => ({
      kind: 'start-tls',
      rest: this.#inbox.rest(),
    }))
  }

  #metaContext(
    option: number,
    { kind, name, queries }: Request<'LIST_META_CONTEXT' | 'SET_META_CONTEXT'>,
    fail: Fail,
  ): NegotiationStep {
    if (this.#replies === 'simple')
      return fail('ERR_INVALID', 'structured replies or extended headers have to be agreed on first')
    const found = this.#exports.find(name)
    if (found === undefined) return fail('ERR_UNKNOWN', `no export ${quoted(name)}`)
    let contexts: readonly Context[]
    if (kind === 'SET_META_CONTEXT') {
      contexts = chosenContexts(found.contexts, queries).map((id) => ({ id, name: found.contexts[id] ?? '' }))
      this.#chosen = { exportName: found.name, contexts }
    } else {
      contexts = listedContexts(found.contexts, queries).map((context) => ({ id: 0, name: context }))
    }
    return replying(option, ...contexts.map((context) => ({ kind: 'META_CONTEXT', ...context }) as const), {
      kind: 'ACK',
    })
  }

  #infoOrGo(option: number, request: Request<'INFO' | 'GO'>, fail: Fail): NegotiationStep {
    const found = this.#exports.find(request.name)
    if (found === undefined) return fail('ERR_UNKNOWN', `no export ${quoted(request.name)}`)
    const asked = new Set(request.infos)
    const agreed = this.#agreed(found, asked.has(infos.BLOCK_SIZE))
    const replies: OptionReply[] = []
    if (asked.has(infos.NAME)) replies.push({ kind: 'INFO', info: { kind: 'NAME', name: found.name } })
    if (asked.has(infos.DESCRIPTION) && found.description !== '')
      replies.push({ kind: 'INFO', info: { kind: 'DESCRIPTION', text: found.description } })
    if (asked.has(infos.BLOCK_SIZE))
      replies.push({ kind: 'INFO', info: { kind: 'BLOCK_SIZE', ...found.blockSizes } })
    replies.push({ kind: 'INFO', info: { kind: 'EXPORT', size: agreed.size, flags: agreed.flags } })
    const send = replying(option, ...replies, { kind: 'ACK' })
    return request.kind === 'INFO' ? send : this.#andThen(send, () => this.#transmission(agreed))
  }

  /** There is no error reply: a refusal is that the connection ends. */
  #exportName(request: OptionRequest, { noZeroes }: ClientFlags): NegotiationStep {
    if (request.kind !== 'EXPORT_NAME') throw new Error('not EXPORT_NAME')
    const { name } = request
    if (this.#shuttingDown) throw new PeerError('the server is shutting down')
    if (this.#needsTls)
      throw new PeerError(`export ${quoted(name)} was chosen without TLS, which is required`)
    if (this.#replies === 'extended')
      throw new PeerError('option EXPORT_NAME after extended headers were agreed on')
    const found = this.#exports.find(name)
    if (found === undefined) throw new PeerError(`no export ${quoted(name)}`)
    const agreed = this.#agreed(found, false)
    const send: NegotiationStep = { kind: 'send', bytes: formatExportHead(agreed, noZeroes) }
    return this.#andThen(send, () => this.#transmission(agreed))
  }

  #agreed(found: OfferedExport, knowsBlockSizes: boolean): Agreed {
    const { name, size, blockSizes } = found
    const replies = this.#replies
    const contexts = this.#chosen?.exportName === name ? this.#chosen.contexts : []
    const flags = usableFlags(found.flags | transmissionFlags.HAS_FLAGS, { replies, contexts })
    const minimum = knowsBlockSizes ? blockSizes.minimum : defaultBlockSizes.minimum
    return { exportName: name, size, flags, replies, contexts, blockSizes: { ...blockSizes, minimum } }
  }

  #transmission(agreed: Agreed): NegotiationStep {
    this.#state = 'over'
    return { kind: 'transmission', agreed, rest: this.#inbox.rest() }
  }

  #close(why?: PeerError): Closing {
    this.#state = 'over'
    return why === undefined ? { kind: 'close' } : { kind: 'close', why }
  }

  #andThen(step: NegotiationStep, then: () => NegotiationStep): NegotiationStep {
    this.#then = then
    return step
  }
}

type Fail = (error: OptionErrorName, text: string) => NegotiationStep

function replying(option: number, ...replies: readonly OptionReply[]): NegotiationStep {
  return { kind: 'send', bytes: packed(...replies.map((reply) => formatOptionReply(option, reply))) }
}
