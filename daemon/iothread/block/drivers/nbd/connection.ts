// SPDX-License-Identifier: Apache-2.0
// One connection to an NBD server from the end of the handshake on: sends requests, reads replies, and matches them by
// cookie. Used by Link.
//
//     caller's memory ─▶ queue of the wire ─▶ socket        header and payload in one message
//     caller's memory ◀──────────────────────── socket      data of a READ, straight
//               inbox ◀──────────────────────── socket      headers
//
// Rules: whatever breaks the protocol ends the connection, and every request on it fails with Lost. Nothing of a request
// is written or sent after it was settled.
// Source: NBD protocol, doc/proto.md, "Transmission".

import { Wire, type WireUser } from '../../../../../native/wire.js'
import type { Agreed } from '../../../../../protocol/nbd/agreed.js'
import {
  DATA_HEAD_LENGTH,
  parseDataHead,
  parseError,
  parseHole,
  parseReplyHeader,
  parseStatus,
  type ReplyHeader,
} from '../../../../../protocol/nbd/chunk.js'
import { commandFlags, commands } from '../../../../../protocol/nbd/constants.js'
import { formatRequest, type RequestHead } from '../../../../../protocol/nbd/request.js'
import { PeerError } from '../../../../../protocol/peer-error.js'
import { errnoText } from '../../../../common/errno.js'
import type { Dialled } from './dial.js'
import { type Answer, Pending } from './pending.js'

const EAGAIN = -11
/** Bytes of the buffer for headers. Small: what data are read into it are copied. */
const INBOX = 4096
/** Reads in one turn of the loop: other disks' jobs want theirs. */
const READS = 16

/** The connection ended before the reply came: nobody knows whether the request was done. */
export class Lost extends Error {
  override readonly name = 'Lost'
}

type Chunk = Extract<ReplyHeader, { kind: 'chunk' }>

/** Bytes that are to come, and what is done when they are there. */
interface Expected {
  readonly bytes: Uint8Array
  at: number
  readonly then: () => void
}

export class Connection implements WireUser {
  readonly agreed: Agreed
  readonly #wire: Wire
  readonly #ended: (why: string) => void
  readonly #pending = new Map<bigint, Pending>()
  #cookie = 1n
  #inbox = new Uint8Array(INBOX)
  /** What was received and not looked at lies from #start to #end. */
  #start = 0
  #end = 0
  #expected: Expected | undefined
  #flushing = false
  #closed = false
  #lastHeard = performance.now()

  /**
   * @param dialled  its descriptor is owned from now on
   * @param ended    called once, but for close()
   */
  constructor({ fd, agreed, rest }: Dialled, ended: (why: string) => void) {
    this.agreed = agreed
    this.#ended = ended
    this.#wire = new Wire(fd, this)
    if (rest.length > this.#inbox.length) this.#inbox = new Uint8Array(rest.length)
    this.#inbox.set(rest)
    this.#end = rest.length
    // Always: the end of a connection without requests is to be noticed, too.
    this.#wire.want(true)
  }

  get inFlight(): number {
    return this.#pending.size
  }
  /** When the last byte came, as performance.now(). */
  /** Of the request begun last. */
  get newest(): bigint {
    return this.#cookie - 1n
  }

  /** Whether one of the requests up to this one is under way. */
  isBusyWith(newest: bigint): boolean {
    for (const cookie of this.#pending.keys()) return cookie <= newest
    return false
  }

  get lastHeard(): number {
    return this.#lastHeard
  }

  /**
   * @param payload  of a WRITE; stays as it is until the request is settled
   * @param into     of a READ, as long as the request
   * @throws Refused when the server says no, Lost when the connection ended
   */
  request(
    head: Omit<RequestHead, 'cookie'>,
    { payload, into }: { payload?: Uint8Array; into?: Uint8Array } = {},
  ): Promise<Answer> {
    if (this.#closed) return Promise.reject(new Lost('the connection is closed'))
    const cookie = this.#cookie++
    return new Promise((resolve, reject) => {
      const extended = this.agreed.replies === 'extended'
      const flags = head.flags | (payload !== undefined && extended ? commandFlags.PAYLOAD_LEN : 0)
      const whole: RequestHead = { ...head, flags, cookie }
      const pending = new Pending(whole, into, payload === undefined, resolve, reject)
      this.#pending.set(cookie, pending)
      this.#wire.put(formatRequest(whole, this.agreed.replies))
      if (payload !== undefined) this.#wire.put(payload, () => pending.sent())
      this.#flushSoon()
    })
  }

  /** Everything under way is lost. The server is told that we leave where it listens. */
  close(): void {
    if (this.#closed) return
    if (this.#wire.waiting === 0) {
      const head = { command: commands.DISC, flags: 0, cookie: 0n, offset: 0, length: 0 }
      this.#wire.put(formatRequest(head, this.agreed.replies))
      this.#wire.flush()
    }
    this.#finish(new Lost('the connection was closed'))
  }

  /** Ends it as if the server had. */
  giveUp(why: string): void {
    this.#lose(why)
  }

  readable(): void {
    try {
      for (let reads = 0; reads < READS && !this.#closed; reads++) {
        const got = this.#receive()
        if (got === EAGAIN) break
        if (got <= 0) {
          this.#lose(got === 0 ? 'the server closed the connection' : errnoText(-got))
          break
        }
        this.#lastHeard = performance.now()
        this.#take()
      }
    } catch (error) {
      if (!(error instanceof PeerError)) throw error
      this.#lose(error.message)
    }
  }

  drained(): void {}

  failed(result: number): void {
    this.#lose(errnoText(-result))
  }

  #flushSoon(): void {
    if (this.#flushing) return
    this.#flushing = true
    // Behind the other requests of this turn: they are sent together.
    queueMicrotask(() => {
      this.#flushing = false
      if (!this.#closed) this.#wire.flush()
    })
  }

  #receive(): number {
    const expected = this.#expected
    if (expected !== undefined && this.#start === this.#end) {
      const got = this.#wire.receive(expected.bytes, expected.at, expected.bytes.length)
      if (got > 0) expected.at += got
      return got
    }
    if (this.#start > 0) {
      this.#inbox.copyWithin(0, this.#start, this.#end)
      this.#end -= this.#start
      this.#start = 0
    }
    const got = this.#wire.receive(this.#inbox, this.#end, this.#inbox.length)
    if (got > 0) this.#end += got
    return got
  }

  /** Looks at what was received. @throws PeerError */
  #take(): void {
    while (!this.#closed) {
      const expected = this.#expected
      if (expected !== undefined) {
        this.#fill(expected)
        if (expected.at < expected.bytes.length) return
        this.#expected = undefined
        expected.then()
        continue
      }
      const header = parseReplyHeader(this.#inbox.subarray(0, this.#end), this.#start, this.agreed)
      if (header === undefined) return
      this.#start += header.headerLength
      if (header.kind === 'simple') this.#simple(header.cookie, header.error)
      else this.#chunk(header)
    }
  }

  #fill(expected: Expected): void {
    const length = Math.min(expected.bytes.length - expected.at, this.#end - this.#start)
    expected.bytes.set(this.#inbox.subarray(this.#start, this.#start + length), expected.at)
    expected.at += length
    this.#start += length
  }

  #expect(bytes: Uint8Array, then: () => void): void {
    this.#expected = { bytes, at: 0, then }
  }

  #find(cookie: bigint): Pending {
    const pending = this.#pending.get(cookie)
    if (pending === undefined) throw new PeerError(`reply to cookie ${cookie}, which is of no request`)
    return pending
  }

  #simple(cookie: bigint, error: number): void {
    const pending = this.#find(cookie)
    const { command, offset, length } = pending.head
    const inChunks = command === commands.READ || command === commands.BLOCK_STATUS
    if (inChunks && this.agreed.replies !== 'simple') throw pending.unfit('a simple one')
    if (error !== 0) pending.error({ error, text: '', offset: undefined })
    else if (command === commands.READ) {
      this.#expect(pending.data(offset, length), () => this.#answered(pending))
      return
    }
    this.#answered(pending)
  }

  #chunk(chunk: Chunk): void {
    const pending = this.#find(chunk.cookie)
    if (chunk.wireOffset !== undefined && chunk.wireOffset !== BigInt(pending.head.offset))
      throw pending.unfit(`offset ${chunk.wireOffset} instead of ${pending.head.offset}`)
    const over = () => {
      if (chunk.done) this.#answered(pending)
    }
    if (chunk.type === 'OFFSET_DATA') this.#dataChunk(chunk, pending, over)
    else if (chunk.payloadLength === 0) over()
    else {
      const payload = new Uint8Array(chunk.payloadLength)
      this.#expect(payload, () => {
        this.#payload(chunk, pending, payload)
        over()
      })
    }
  }

  #dataChunk(chunk: Chunk, pending: Pending, over: () => void): void {
    const head = new Uint8Array(DATA_HEAD_LENGTH)
    this.#expect(head, () => {
      const place = pending.data(parseDataHead(head), chunk.payloadLength - DATA_HEAD_LENGTH)
      this.#expect(place, over)
    })
  }

  #payload({ type: kind }: Chunk, pending: Pending, payload: Uint8Array): void {
    switch (kind) {
      case 'OFFSET_HOLE': {
        const { offset, length } = parseHole(payload)
        pending.hole(offset, length)
        return
      }
      case 'BLOCK_STATUS':
      case 'BLOCK_STATUS_EXT': {
        const status = parseStatus(kind, payload)
        if (!this.agreed.contexts.some(({ id }) => id === status.contextId))
          throw pending.unfit(`context ${status.contextId}, which was not chosen`)
        pending.status(status)
        return
      }
      case 'ERROR':
      case 'ERROR_OFFSET':
        pending.error(parseError(kind, payload))
        return
      case 'NONE':
      case 'OFFSET_DATA':
        throw new Error(`chunk ${kind} has its own way`)
      default: {
        kind satisfies never
      }
    }
  }

  #answered(pending: Pending): void {
    pending.answered(this.agreed.contexts.length)
    this.#pending.delete(pending.head.cookie)
  }

  #lose(why: string): void {
    if (this.#closed) return
    this.#finish(new Lost(why))
    this.#ended(why)
  }

  #finish(error: Lost): void {
    this.#closed = true
    this.#expected = undefined
    this.#wire.close()
    const pending = [...this.#pending.values()]
    this.#pending.clear()
    for (const one of pending) one.lost(error)
  }
}
