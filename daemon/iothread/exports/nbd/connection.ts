// SPDX-License-Identifier: Apache-2.0
// One client of an NBD export, from the end of the handshake on: reads its requests, has them done, sends the replies.
//
//     socket ─▶ inbox (headers, small payloads) ─▶ Requests ─▶ node
//        └────▶ piece of a slot (long payloads) ───┘   │
//     socket ◀─ queue of the wire ◀── header, data in its piece
//
// Rules: one system call reads many small requests; the data of a long one is read to where it is written from. What a
// turn of the loop has answered is sent together. A client that does not read its replies is not read from either, and
// holds the memory of what it had asked for. A client that asks for one thing at a time may be lent to a lane (lane.ts): in
// the eyes of this file one request that takes long, while which nothing is received.
// Source: NBD protocol, doc/proto.md, "Transmission".

import type { LaneEnd } from '../../../../native/lane-types.js'
import { Wire, type WireUser } from '../../../../native/wire.js'
import type { Agreed } from '../../../../protocol/nbd/agreed.js'
import { checkRequest } from '../../../../protocol/nbd/check-request.js'
import { commands } from '../../../../protocol/nbd/constants.js'
import {
  parseRequest,
  payloadLength,
  type Request,
  requestHeaderLength,
} from '../../../../protocol/nbd/request.js'
import { PeerError } from '../../../../protocol/peer-error.js'
import type { Guest } from '../../block/guests.js'
import type { Lanes } from '../lanes.js'
import type { PiecePool } from '../piece-pool.js'
import { Incoming } from './incoming.js'
import { ClientLane } from './lane.js'
import { type ReplySink, type ServedNode, Serving } from './serving.js'

const EAGAIN = -11
/** Requests of one client under way. */
const MOST_REQUESTS = 128
/** Bytes of the buffer that requests are read into: at first, and where a client sends many at once. */
const INBOX = 4096
const LARGE_INBOX = 64 * 1024
/** Reads in one turn of the loop: other clients and the disk's jobs want theirs. */
const READS = 16

export interface ConnectionEnv {
  readonly node: ServedNode
  readonly pool: PiecePool
  readonly guest: Guest
  readonly lanes: Lanes
  /** It is closed and nothing of it is under way any more. @param why  undefined: the client ended it, or we did */
  readonly ended: (why: string | undefined) => void
}

export class Connection implements WireUser, ReplySink {
  readonly #env: ConnectionEnv
  readonly #agreed: Agreed
  readonly #wire: Wire
  readonly #serving: Serving
  readonly #lane: ClientLane
  /** A lane has the socket. */
  #lent = false
  #inbox = new Uint8Array(INBOX)
  /** What was received and not looked at lies from #start to #end. */
  #start = 0
  #end = 0
  /** A request whose payload is coming. */
  #incoming: Incoming | undefined
  /** Bytes of a refused payload that are still to come. */
  #skip = 0
  #inFlight = 0
  /** 'half': nothing more is read, what is under way is answered. */
  #state: 'open' | 'half' | 'closed' = 'open'
  #why: string | undefined
  #flushing = false
  #paused = true
  #inLine = false
  #told = false
  /** The last read took all there was. */
  #emptied = false

  /**
   * @param fd    the connection, owned from now on
   * @param rest  what came behind the handshake
   * @throws Error with `errno` when the socket cannot be watched; it is closed then
   */
  constructor(env: ConnectionEnv, fd: number, agreed: Agreed, rest: Uint8Array) {
    this.#env = env
    this.#agreed = agreed
    this.#wire = new Wire(fd, this)
    this.#serving = new Serving(env.node, env.pool, env.guest, agreed, this)
    const { lanes, pool, node: served } = env
    this.#lane = new ClientLane({ lanes, pool, served, agreed, holder: this.#serving }, fd)
    if (rest.length > 0) {
      this.#inbox = new Uint8Array(Math.max(INBOX, rest.length))
      this.#inbox.set(rest)
      this.#end = rest.length
    }
  }

  /** Once: begins to read. It may have ended when this returns. */
  start(): void {
    this.#goOn()
  }

  get gone(): boolean {
    return this.#state === 'closed'
  }

  /** Nothing more is read or sent. The env hears of the end when the last request has come back from the disk. */
  close(why?: string): void {
    if (this.#state === 'closed') return
    this.#state = 'closed'
    this.#why ??= why
    this.#incoming?.drop()
    this.#incoming = undefined
    this.#wire.close()
    this.#lane.callBack()
    this.#settle()
  }

  readable(): void {
    for (let reads = 0; reads < READS && this.#state === 'open'; reads++) {
      const got = this.#receive()
      if (got === EAGAIN || got === undefined) break
      if (got <= 0) {
        this.#ended(got)
        break
      }
      if (!this.#take() || this.#emptied) break
    }
  }

  drained(): void {
    this.#goOn()
    this.#settle()
  }

  failed(): void {
    this.close('the client went away')
  }

  put(head: Uint8Array): void {
    this.#wire.put(head)
    this.flushSoon()
  }

  putData(bytes: Uint8Array, sent: () => void): void {
    this.#wire.put(bytes, sent)
    this.flushSoon()
  }

  flushSoon(): void {
    if (this.#flushing || this.#state === 'closed') return
    this.#flushing = true
    // Behind everything this turn of the loop has finished.
    setImmediate(() => {
      this.#flushing = false
      this.#wire.flush()
      this.#goOn()
      this.#lend()
      this.#settle()
    })
  }

  fail(why: string): void {
    this.close(why)
  }

  done(): void {
    this.#inFlight--
    if (this.#state === 'open') this.#goOn()
    else this.#settle()
  }

  /** To a lane, where that is of use. */
  #lend(): void {
    if (this.#state !== 'open' || this.#paused || this.#inFlight > 0 || this.#start < this.#end) return
    if (this.#incoming !== undefined || this.#skip > 0 || this.#wire.waiting > 0) return
    if (!this.#lane.lend((end) => this.#returned(end))) return
    this.#lent = true
    this.#inFlight++
    this.#pause()
  }

  #returned({ received, unsent }: LaneEnd): void {
    this.#lent = false
    this.#inFlight--
    if (unsent.length > 0) this.put(unsent)
    if (received.length > this.#inbox.length) this.#inbox = new Uint8Array(received.length)
    this.#inbox.set(received)
    this.#start = 0
    this.#end = received.length
    this.#goOn()
    this.#settle()
  }

  /** @returns bytes, 0 at the end, -errno; undefined while there is no memory for them */
  #receive(): number | undefined {
    const incoming = this.#incoming
    if (incoming !== undefined && this.#start === this.#end) {
      const place = incoming.place()
      if (place === undefined) {
        this.#pauseForMemory()
        return undefined
      }
      const got = this.#receiveInto(place.bytes, place.from, place.to)
      if (got > 0) incoming.came(got)
      return got
    }
    this.#makeRoom()
    const got = this.#receiveInto(this.#inbox, this.#end, this.#inbox.length)
    if (got > 0) this.#end += got
    return got
  }

  #receiveInto(bytes: Uint8Array, from: number, to: number): number {
    const got = this.#wire.receive(bytes, from, to)
    this.#emptied = got < to - from
    return got
  }

  #makeRoom(): void {
    if (this.#start === this.#end) {
      // The last read filled all of it: there is more than one request at a time.
      if (this.#end === this.#inbox.length && this.#inbox.length < LARGE_INBOX)
        this.#inbox = new Uint8Array(LARGE_INBOX)
      this.#start = 0
      this.#end = 0
    } else if (this.#end === this.#inbox.length) {
      this.#inbox.copyWithin(0, this.#start, this.#end)
      this.#end -= this.#start
      this.#start = 0
    }
  }

  /** Begins what was received. @returns false: nothing more can be begun now */
  #take(): boolean {
    const received = this.#inbox.subarray(0, this.#end)
    try {
      while (this.#state === 'open') {
        if (this.#incoming !== undefined) {
          if (!this.#fill(this.#incoming)) return this.#start === this.#end
          continue
        }
        if (this.#skip > 0) this.#skipSome()
        const request = parseRequest(received, this.#start, this.#agreed.replies)
        if (request === undefined) return true
        if (this.#inFlight >= MOST_REQUESTS || this.#wire.waiting > this.#env.pool.longest) {
          this.#pause()
          return false
        }
        this.#start += requestHeaderLength(this.#agreed.replies)
        this.#begin(request)
      }
    } catch (error) {
      if (!(error instanceof PeerError)) throw error
      this.close(error.message)
    }
    return false
  }

  /** @returns whether all of the payload is there; it is being written then */
  #fill(incoming: Incoming): boolean {
    while (this.#start < this.#end && !incoming.complete) {
      const place = incoming.place()
      if (place === undefined) {
        this.#pauseForMemory()
        return false
      }
      const length = Math.min(place.to - place.from, this.#end - this.#start)
      place.bytes.set(this.#inbox.subarray(this.#start, this.#start + length), place.from)
      this.#start += length
      incoming.came(length)
    }
    if (!incoming.complete) return false
    this.#incoming = undefined
    return true
  }

  #skipSome(): void {
    const length = Math.min(this.#skip, this.#end - this.#start)
    this.#start += length
    this.#skip -= length
  }

  #begin(request: Request): void {
    const { replies } = this.#agreed
    const refused = checkRequest(request, this.#agreed)
    if (refused !== undefined) {
      if (refused.close) throw new PeerError(refused.text)
      this.#skip = payloadLength(request, replies)
      this.#serving.refuse(request, refused)
      return
    }
    if (request.command === commands.DISC) {
      this.#halve()
      return
    }
    this.#lane.saw(request, this.#inFlight === 0)
    this.#inFlight++
    const payload = payloadLength(request, replies)
    if (payload === 0) this.#serving.serve(request)
    else if (request.command === commands.WRITE)
      this.#incoming = new Incoming(request, this.#serving.writing(request), this.#env.pool, this.#serving)
    else throw new PeerError(`command ${request.command} with a payload`)
  }

  /** Until a request has been done, a reply has gone, or there is memory again. */
  #pause(): void {
    this.#paused = true
    this.#wire.want(false)
  }

  /** For what needs memory: nobody else tells of it. */
  #pauseForMemory(): void {
    this.#pause()
    if (this.#inLine) return
    this.#inLine = true
    this.#env.pool.whenGiven(this.#serving, () => {
      this.#inLine = false
      this.#goOn()
    })
  }

  #goOn(): void {
    if (this.#state !== 'open' || !this.#paused || this.#lent) return
    this.#paused = false
    if (this.#start < this.#end && !this.#take()) return
    if (this.#state === 'open' && !this.#paused) this.#wire.want(true)
  }

  /** @param result  0: the client sends nothing more; or -errno */
  #ended(result: number): void {
    if (result === 0 && this.#incoming === undefined && this.#start === this.#end) this.#halve()
    else this.close('the client went away')
  }

  #halve(): void {
    this.#state = 'half'
    this.#wire.want(false)
    this.#settle()
  }

  /** The end comes when all is answered, or when what is under way has come back. */
  #settle(): void {
    if (this.#state === 'open' || this.#inFlight > 0 || this.#told) return
    if (this.#state === 'half') {
      if (this.#wire.waiting > 0 || this.#flushing) return
      this.#state = 'closed'
      this.#wire.close()
    }
    this.#told = true
    const closed = this.#lane.close()
    if (closed === undefined) this.#env.ended(this.#why)
    // It never rejects.
    else void closed.then(() => this.#env.ended(this.#why))
  }
}
