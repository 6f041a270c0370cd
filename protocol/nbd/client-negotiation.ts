// SPDX-License-Identifier: Apache-2.0
// The client's side of a handshake: it asks for what is wished, does with less where a server is old or refuses, and
// says in the end what was agreed. Fed and asked for steps as the server's side is.
// Rule: nothing that a server sends is kept but what ends up in `agreed`. Whoever drives this bounds the time it takes.
// Source: doc/proto.md, "Handshake", "TLS support", "Option types".
//
//   hello ─▶ STARTTLS? ─▶ EXTENDED_HEADERS? ─▶ STRUCTURED_REPLY? ─▶ LIST_META_CONTEXT? ─▶ SET_META_CONTEXT? ─▶ GO ─▶ transmission
//        └▶ EXPORT_NAME (not fixed newstyle, or GO unknown)          oldstyle ─▶ transmission

import { quoted } from '../error-text.js'
import { PeerError } from '../peer-error.js'
import { type Agreed, type Context, type ReplyStyle, usableFlags } from './agreed.js'
import { type BlockSizes, checkBlockSizes, defaultBlockSizes } from './block-sizes.js'
import { packed, unexpected, utf8 } from './bytes.js'
import { infos, limits, nameOrNumber, options } from './constants.js'
import { DIRTY_BITMAP } from './contexts.js'
import { type ExportHead, exportHeadLength, formatClientFlags, parseExportHead, parseHello } from './hello.js'
import { Inbox } from './inbox.js'
import { formatOption, type OptionRequest } from './option.js'
import {
  type ExportInfo,
  OPTION_REPLY_HEADER_LENGTH,
  type OptionReply,
  type OptionReplyHeader,
  parseOptionReply,
  parseOptionReplyHeader,
} from './option-reply.js'
import type { NegotiationStep } from './steps.js'

export interface ClientWishes {
  /** Empty: the server's default export. */
  readonly exportName: string
  /** The most that may be agreed on; servers that have less are served with less. */
  readonly replies: ReplyStyle
  /** Names of contexts, none a wildcard. Those a server does not have are not agreed on, nor any with simple replies. */
  readonly contexts: readonly string[]
  /** The dirty bitmap the server offers is wanted besides, if it offers exactly one. */
  readonly loneBitmap?: boolean
  /** `optional`: go on without when the server has none. */
  readonly tls: 'none' | 'optional' | 'required'
}

/** What is asked, in this order, and whether it makes sense after what was agreed so far. */
type Plan = OptionRequest['kind'][]

type ErrorReply = Extract<OptionReply, { kind: 'error' }>

export class ClientNegotiation {
  readonly #wishes: ClientWishes
  readonly #inbox = new Inbox()
  readonly #plan: Plan
  #state: 'hello' | 'options' | 'export-head' | 'tls' | 'over' = 'hello'
  #noZeroes = false
  /** The option whose answer is awaited. */
  #asked: OptionRequest | undefined
  #header: OptionReplyHeader | undefined
  /** Replies to the option so far. */
  #count = 0
  #replies: ReplyStyle = 'simple'
  #contexts: Context[] = []
  /** Names of dirty bitmaps that were listed; two are as good as more. */
  #bitmaps: string[] = []
  #blockSizes: BlockSizes = defaultBlockSizes
  #head: ExportHead | undefined
  /** Comes when the step before it was done. */
  #then: (() => NegotiationStep) | undefined

  constructor(wishes: ClientWishes) {
    this.#wishes = wishes
    this.#plan = planFor(wishes)
  }

  feed(bytes: Uint8Array): void {
    this.#inbox.push(bytes)
  }

  /** After step `start-tls`. */
  tlsStarted(): void {
    if (this.#state !== 'tls') throw new Error('TLS was not to be started')
    this.#state = 'options'
    this.#then = () => this.#ask()
  }

  /** The error for a connection that the server closed before the steps were at their end. */
  peerClosed(): PeerError {
    const during = 'the server closed the connection'
    if (this.#state === 'export-head')
      return new PeerError(
        `${during} when export ${quoted(this.#wishes.exportName)} was chosen: it has no such export, or requires TLS`,
      )
    if (this.#asked === undefined) return new PeerError(`${during} before it said what it offers`)
    return new PeerError(`${during} without an answer to option ${this.#asked.kind}`)
  }

  /** @returns undefined when more bytes are needed, and after the end */
  next(): NegotiationStep | undefined {
    const then = this.#then
    if (then !== undefined) {
      this.#then = undefined
      return then()
    }
    try {
      return this.#read()
    } catch (error) {
      if (!(error instanceof PeerError)) throw error
      this.#state = 'over'
      return { kind: 'close', why: error }
    }
  }

  #read(): NegotiationStep | undefined {
    switch (this.#state) {
      case 'hello':
        return this.#readHello()
      case 'options':
        return this.#readReplies()
      case 'export-head': {
        const bytes = this.#inbox.take(exportHeadLength(this.#noZeroes))
        return bytes && this.#transmission(parseExportHead(bytes))
      }
      case 'tls':
      case 'over':
        return undefined
      default:
        return this.#state satisfies never
    }
  }

  /** @throws PeerError where the server cannot do what is required, too: it knows no option to say goodbye with */
  #readHello(): NegotiationStep | undefined {
    const { exportName, tls } = this.#wishes
    if (utf8(exportName).length > limits.string)
      throw unexpected('export name', 'a longer one', '4096 bytes at most')
    const parsed = parseHello(this.#inbox.peek())
    if (parsed === undefined) return undefined
    this.#inbox.take(parsed.length)
    const { hello } = parsed
    if (tls === 'required' && (hello.kind === 'oldstyle' || !hello.fixed))
      throw new PeerError('TLS is required, and the server is too old for it')
    if (hello.kind === 'oldstyle') {
      if (exportName === '') return this.#transmission(hello)
      throw new PeerError(
        `the server is an oldstyle one, without names: it has no export ${quoted(exportName)}`,
      )
    }
    this.#noZeroes = hello.noZeroes
    this.#state = 'options'
    const flags = formatClientFlags(hello)
    const option = hello.fixed ? this.#ask() : this.#askExportName()
    return { kind: 'send', bytes: packed(flags, option.bytes) }
  }

  #ask(): { readonly kind: 'send'; readonly bytes: Uint8Array } {
    const { exportName: name } = this.#wishes
    let kind = this.#plan.shift() ?? 'GO'
    while (this.#makesNoSense(kind)) kind = this.#plan.shift() ?? 'GO'
    switch (kind) {
      case 'STARTTLS':
      case 'EXTENDED_HEADERS':
      case 'STRUCTURED_REPLY':
        return this.#send({ kind })
      case 'LIST_META_CONTEXT':
        return this.#send({ kind, name, queries: [DIRTY_BITMAP] })
      case 'SET_META_CONTEXT':
        return this.#send({ kind, name, queries: this.#wanted() })
      default:
        return this.#send({ kind: 'GO', name, infos: [infos.BLOCK_SIZE] })
    }
  }

  #makesNoSense(kind: OptionRequest['kind']): boolean {
    if (kind === 'STRUCTURED_REPLY') return this.#replies !== 'simple'
    if (kind !== 'SET_META_CONTEXT' && kind !== 'LIST_META_CONTEXT') return false
    return this.#replies === 'simple' || (kind === 'SET_META_CONTEXT' && this.#wanted().length === 0)
  }

  /** Names of contexts. */
  #wanted(): readonly string[] {
    const { contexts } = this.#wishes
    return this.#besides === undefined ? contexts : [...contexts, this.#besides]
  }

  /** The dirty bitmap that is asked for although nobody named it. */
  get #besides(): string | undefined {
    const [bitmap, another] = this.#bitmaps
    if (bitmap === undefined || another !== undefined) return undefined
    return this.#wishes.contexts.includes(bitmap) ? undefined : bitmap
  }

  #askExportName(): { readonly kind: 'send'; readonly bytes: Uint8Array } {
    this.#state = 'export-head'
    return this.#send({ kind: 'EXPORT_NAME', name: this.#wishes.exportName })
  }

  #send(request: OptionRequest): { readonly kind: 'send'; readonly bytes: Uint8Array } {
    this.#asked = request
    this.#count = 0
    return { kind: 'send', bytes: formatOption(request) }
  }

  #readReplies(): NegotiationStep | undefined {
    for (;;) {
      this.#header ??= this.#readHeader()
      if (this.#header === undefined) return undefined
      const data = this.#inbox.take(this.#header.length)
      if (data === undefined) return undefined
      const reply = parseOptionReply(this.#header.reply, data)
      this.#header = undefined
      if (reply.kind === 'ACK') return this.#accepted()
      if (reply.kind === 'error') return this.#refused(reply)
      this.#keep(reply)
    }
  }

  #readHeader(): OptionReplyHeader | undefined {
    const header = parseOptionReplyHeader(this.#inbox.peek())
    if (header === undefined) return undefined
    this.#inbox.take(OPTION_REPLY_HEADER_LENGTH)
    const { kind } = this.#request
    if (kind !== 'unknown' && header.option !== options[kind])
      throw unexpected('option that is answered', nameOrNumber(options, header.option), kind)
    this.#count += 1
    // A server may have any number of contexts, and they are not kept.
    if (this.#count > limits.optionReplies && kind !== 'LIST_META_CONTEXT')
      throw unexpected(`replies to option ${kind}`, 'more', `at most ${limits.optionReplies}`)
    return header
  }

  /** @throws PeerError when it does not belong to what was asked */
  #keep(reply: Exclude<OptionReply, { kind: 'ACK' | 'error' }>): void {
    const { kind } = this.#request
    if (reply.kind === 'META_CONTEXT' && kind === 'SET_META_CONTEXT') this.#keepContext(reply)
    else if (reply.kind === 'META_CONTEXT' && kind === 'LIST_META_CONTEXT') this.#keepBitmap(reply.name)
    else if (reply.kind === 'INFO' && kind === 'GO') this.#keepInfo(reply.info)
    else throw unexpected(`reply to option ${kind}`, reply.kind, 'one that belongs to it')
  }

  #keepInfo(info: ExportInfo): void {
    if (info.kind === 'EXPORT') this.#head = info
    if (info.kind !== 'BLOCK_SIZE') return
    const { minimum, preferred, maximumPayload } = info
    this.#blockSizes = checkBlockSizes({ minimum, preferred, maximumPayload })
  }

  /** Servers may list others than those that were asked for. */
  #keepBitmap(name: string): void {
    if (name.startsWith(DIRTY_BITMAP) && this.#bitmaps.length < 2) this.#bitmaps.push(name)
  }

  #keepContext({ id, name }: Context): void {
    const wanted = this.#wanted()
    if (!wanted.includes(name)) throw unexpected('context', quoted(name), wanted.map(quoted).join(' or '))
    if (this.#contexts.some((context) => context.id === id || context.name === name))
      throw unexpected(`context ${quoted(name)} with id ${id}`, 'a second time', 'names and ids once')
    this.#contexts.push({ id, name })
  }

  get #request(): OptionRequest {
    if (this.#asked === undefined) throw new Error('nothing was asked')
    return this.#asked
  }

  /** The server agreed to what was asked. */
  #accepted(): NegotiationStep {
    const { kind } = this.#request
    switch (kind) {
      case 'STARTTLS':
        // What came in plaintext behind the answer could be taken for encrypted later: somebody in between put it there.
        if (this.#inbox.length > 0)
          throw new PeerError('bytes behind the answer to option STARTTLS, before TLS is on')
        this.#state = 'tls'
        return { kind: 'start-tls', rest: this.#inbox.rest() }
      case 'GO':
        if (this.#head === undefined)
          throw unexpected('reply to option GO', 'ACK', 'information EXPORT before it')
        return this.#transmission(this.#head)
      case 'EXTENDED_HEADERS':
        this.#replies = 'extended'
        return this.#ask()
      case 'STRUCTURED_REPLY':
        this.#replies = 'structured'
        return this.#ask()
      default:
        return this.#ask()
    }
  }

  #refused({ error, text }: ErrorReply): NegotiationStep {
    const { kind } = this.#request
    const because = text === '' ? reasonOf(error) : `${reasonOf(error)}: ${quoted(text)}`
    const giveUp = (what: string) => this.#giveUp({ kind: 'error', error, text }, `${what}: ${because}`)
    if (error === 'ERR_SHUTDOWN' || error === 'ERR_TLS_REQD')
      return giveUp(`the server refused option ${kind}`)
    switch (kind) {
      case 'STARTTLS':
        return this.#wishes.tls === 'required'
          ? giveUp('TLS is required, and the server refused it')
          : this.#ask()
      case 'GO':
        if (error === 'ERR_UNSUP' && this.#replies !== 'extended') return this.#askExportName()
        return giveUp(`the server refused export ${quoted(this.#wishes.exportName)}`)
      case 'SET_META_CONTEXT':
        return this.#withoutContexts()
      default:
        return this.#ask()
    }
  }

  /** If a bitmap was asked for that nobody named, it may be what the server refused. */
  #withoutContexts(): NegotiationStep {
    this.#contexts = []
    if (this.#besides !== undefined) this.#plan.unshift('SET_META_CONTEXT')
    this.#bitmaps = []
    return this.#ask()
  }

  /** Takes leave as the protocol wants it. The server's answer is not waited for. */
  #giveUp({ error }: ErrorReply, text: string): NegotiationStep {
    this.#state = 'over'
    this.#then = () => ({ kind: 'close', why: new PeerError(text), reply: error })
    return this.#send({ kind: 'ABORT' })
  }

  #transmission({ size, flags }: ExportHead): NegotiationStep {
    this.#state = 'over'
    const replies = this.#replies
    const contexts = this.#contexts
    const agreed: Agreed = {
      exportName: this.#wishes.exportName,
      size,
      flags: usableFlags(flags, { replies, contexts }),
      replies,
      blockSizes: this.#blockSizes,
      contexts,
    }
    return { kind: 'transmission', agreed, rest: this.#inbox.rest() }
  }
}

function planFor({ tls, replies, contexts, loneBitmap }: ClientWishes): Plan {
  const plan: Plan = []
  if (tls !== 'none') plan.push('STARTTLS')
  if (replies === 'extended') plan.push('EXTENDED_HEADERS')
  if (replies !== 'simple') plan.push('STRUCTURED_REPLY')
  if (loneBitmap === true) plan.push('LIST_META_CONTEXT')
  if (contexts.length > 0 || loneBitmap === true) plan.push('SET_META_CONTEXT')
  return plan
}

function reasonOf(error: ErrorReply['error']): string {
  return typeof error === 'number' ? `error ${error}` : error
}
