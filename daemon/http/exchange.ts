// SPDX-License-Identifier: Apache-2.0
// One request on a connection and its reply. Made by serveRequests() for whoever answers.
// Rules: a reply is begun once; what of the request's body nobody read is skipped where it is short, else the connection
// ends with the reply.

import type { RequestHead } from '../../protocol/http/head.js'
import { badRequest, Refusal } from '../../protocol/http/refusal.js'
import {
  CONTINUE,
  formatChunk,
  formatHead,
  type Header,
  LAST_CHUNK,
  type Standing,
} from '../../protocol/http/reply.js'
import { PRODUCT_VERSION } from '../common/version.js'
import type { HttpStream } from './stream.js'

/** Bytes of a body nobody wants that are read so that the connection can go on. */
const MOST_SKIPPED = 64 * 1024
/** Bytes of a body that is kept in memory. */
const LONGEST_TEXT = 1024 * 1024
const SERVER = `blockferry/${PRODUCT_VERSION}`

export class Exchange {
  readonly head: RequestHead
  readonly text: string
  readonly stream: HttpStream
  /** Of the reply, once it has begun. */
  replyHead: Uint8Array | undefined
  /** Bytes of the body that were not read. */
  #left: number
  #begun = false
  #chunked = false
  /** The client was told, or knows, that it is to send the body. */
  #invited: boolean
  #keepAlive: boolean

  /** @param text  the head as it came */
  constructor(head: RequestHead, stream: HttpStream, text = '') {
    this.head = head
    this.text = text
    this.stream = stream
    this.#left = head.contentLength ?? 0
    this.#invited = !head.expectsContinue || stream.ahead
    this.#keepAlive = head.keepAlive && !head.chunked
  }

  /** The reply has begun: an error can only cut it short. */
  get begun(): boolean {
    return this.#begun
  }
  get keepAlive(): boolean {
    return this.#keepAlive
  }

  /** The connection ends with this reply. */
  endAfter(): void {
    this.#keepAlive = false
  }

  /** Bytes of the body. @returns how many were put into [from, to); 0: it is over, or the client ended it too early */
  async receive(into: Uint8Array, from: number, to: number): Promise<number> {
    if (this.#left === 0) return 0
    this.#invite()
    const got = await this.stream.receive(into, from, Math.min(to, from + this.#left))
    this.#left -= got
    return got
  }

  /** The whole body, as text. @throws Refusal when it is too long, has no length, or does not come */
  async bodyText(): Promise<string> {
    if (this.head.chunked) throw badRequest('a body in chunks is not understood: expected content-length')
    const length = this.#left
    if (length > LONGEST_TEXT) throw new Refusal(413, `the body is longer than ${LONGEST_TEXT} bytes`)
    const bytes = new Uint8Array(length)
    for (let at = 0; at < length; ) {
      const got = await this.receive(bytes, at, length)
      if (got === 0) throw badRequest('the body is shorter than its content-length')
      at += got
    }
    return new TextDecoder().decode(bytes)
  }

  /** The whole reply. */
  reply(status: number, headers: readonly Header[] = [], body: Uint8Array | string = ''): void {
    const bytes = typeof body === 'string' ? Buffer.from(body) : body
    this.begin(status, [...headers, ['content-length', String(bytes.length)]])
    if (bytes.length > 0 && this.head.method !== 'HEAD') this.stream.put(bytes)
    this.stream.send()
  }

  /** The head of a reply whose body follows. */
  begin(status: number, headers: readonly Header[]): void {
    if (this.#begun) throw new Error('a reply was begun twice')
    this.#begun = true
    if (!this.#canGoOn()) this.#keepAlive = false
    const more: Header[] = [...headers]
    if (!this.#keepAlive) more.push(['connection', 'close'])
    else if (this.head.minor === 0) more.push(['connection', 'keep-alive'])
    this.replyHead = formatHead(status, standing(), more)
    this.stream.put(this.replyHead)
  }

  /** The head of a reply whose length shows when it ends. */
  beginChunks(status: number, headers: readonly Header[]): void {
    this.#chunked = this.head.minor === 1
    if (!this.#chunked) this.endAfter()
    this.begin(status, this.#chunked ? [...headers, ['transfer-encoding', 'chunked']] : headers)
  }

  /** @param bytes  stay as they are until `sent` is called */
  chunk(bytes: Uint8Array, sent?: () => void): void {
    for (const part of this.#chunked ? formatChunk(bytes) : [bytes])
      this.stream.put(part, part === bytes ? sent : undefined)
    this.stream.send()
  }

  endChunks(): void {
    if (this.#chunked) this.stream.put(LAST_CHUNK)
    this.stream.send()
  }

  /** After the reply. @returns whether another request may follow */
  async finish(): Promise<boolean> {
    if (!this.#keepAlive) return false
    const scrap = new Uint8Array(Math.min(this.#left, 4096))
    while (this.#left > 0) if ((await this.receive(scrap, 0, scrap.length)) === 0) return false
    return !this.stream.closed
  }

  /** Whoever was not invited sends no body; what is long is not waited for. */
  #canGoOn(): boolean {
    return this.#left === 0 || (this.#invited && this.#left <= MOST_SKIPPED)
  }

  #invite(): void {
    if (this.#invited) return
    this.#invited = true
    this.stream.put(CONTINUE)
    this.stream.send()
  }
}

let second = 0
let date = ''

/** The date is made once a second. */
function standing(): Standing {
  const now = Math.floor(Date.now() / 1000)
  if (now !== second) {
    second = now
    date = new Date(now * 1000).toUTCString()
  }
  return { server: SERVER, date }
}
