// SPDX-License-Identifier: Apache-2.0
// The bytes of one HTTP connection: heads of requests, bodies straight to where they are wanted, replies; and the end of
// clients that stall. Used by whoever serves a connection at the time; it is handed on with what was read and not taken.
// Rules: one reader at a time. Nothing is read that nobody asked for, so a client that sends ahead waits in its socket.

import { Wire, type WireUser } from '../../native/wire.js'
import { checkUnfinished, findHeadEnd, LONGEST_HEAD, skipEmptyLines } from '../../protocol/http/head.js'
import { PeerError } from '../../protocol/peer-error.js'
import { type Clock, systemClock } from '../common/clock.js'
import type { StreamLimits } from './limits.js'
import { Patience } from './patience.js'

const EAGAIN = -11
/** Bytes of the buffer heads are read into, at first. */
const INBOX = 4096

/** A connection for somebody else. */
export interface Handover {
  readonly fd: number
  /** What was read and not taken. */
  readonly rest: Uint8Array
}

/** What comes next on a connection. */
export type Next =
  /** A head, in Latin-1. */
  | { readonly kind: 'head'; readonly text: string }
  /** Nothing: the client has ended the connection between two requests. */
  | { readonly kind: 'end' }
  /** The connection is wanted back, and what is there of a request, if anything, was not taken. */
  | { readonly kind: 'wanted-back' }

/** Whoever waits for a head waits no more. */
class WantedBack extends Error {
  override readonly name = 'WantedBack'
}

interface Waiter {
  resolve(): void
  reject(error: Error): void
}

export class HttpStream implements WireUser {
  readonly #fd: number
  readonly #wire: Wire
  readonly #patience: Patience
  #inbox: Buffer
  #start = 0
  #end: number
  /** Up to here a head has no end. */
  #looked = 0
  #reader: Waiter | undefined
  /** Whoever wants to know that the client ends the connection while it waits for us. */
  #whenLeft: (() => void) | undefined
  /** What is waited for is a head. */
  #inHead = false
  #wantedBack = false
  /** Whoever waits until less is queued. */
  #writers: { readonly limit: number; readonly waiter: Waiter }[] = []
  #error: Error | undefined

  /**
   * @param fd    the connection, owned from now on
   * @param rest  what came of it already
   * @throws Error with `errno` when the socket cannot be watched; it is closed then
   */
  constructor(fd: number, rest: Uint8Array, limits: StreamLimits, clock: Clock = systemClock) {
    this.#fd = fd
    this.#wire = new Wire(fd, this)
    this.#inbox = Buffer.alloc(Math.max(INBOX, rest.length))
    this.#inbox.set(rest)
    this.#end = rest.length
    this.#patience = new Patience(
      limits,
      clock,
      () => this.waitsForClient,
      (why) => this.#lost(why),
    )
  }

  get closed(): boolean {
    return this.#wire.closed
  }
  /** Bytes that are queued and not sent. */
  get waiting(): number {
    return this.#wire.waiting
  }
  /** The client has to send something, or to take what was sent. */
  get waitsForClient(): boolean {
    return this.#reader !== undefined || this.#wire.waiting > 0
  }
  /** Something was read that nobody has taken. */
  get ahead(): boolean {
    return this.#start < this.#end
  }

  /**
   * The next head; it stays in front until takeHead().
   * @throws Refusal for a head that is too long, PeerError when the client went away
   */
  async next(): Promise<Next> {
    this.#inHead = true
    try {
      return await this.#next()
    } catch (error) {
      if (error instanceof WantedBack) return { kind: 'wanted-back' }
      throw error
    } finally {
      this.#inHead = false
    }
  }

  async #next(): Promise<Next> {
    for (let came = false; ; came = true) {
      if (this.#looked <= this.#start) this.#start = skipEmptyLines(this.#inbox, this.#start, this.#end)
      const end = findHeadEnd(this.#inbox, this.#start, this.#end, Math.max(this.#looked, this.#start))
      if (end !== undefined) {
        this.#looked = end
        this.#patience.headEnds()
        return { kind: 'head', text: this.#inbox.toString('latin1', this.#start, end) }
      }
      this.#looked = this.#end
      if (this.#wantedBack) throw new WantedBack()
      if (came || this.ahead) this.#patience.headBegins()
      checkUnfinished(this.#inbox, this.#start, this.#end)
      this.#makeRoom()
      const got = await this.#receive(this.#inbox, this.#end, this.#inbox.length)
      if (got === 0) {
        if (this.ahead) throw this.#lost('the client went away')
        return { kind: 'end' }
      }
      this.#end += got
    }
  }

  takeHead(): void {
    this.#start = this.#looked
  }

  /** Bytes of a body. @returns how many were put into [from, to); 0: the client ended the connection */
  async receive(into: Uint8Array, from: number, to: number): Promise<number> {
    const ahead = Math.min(this.#end - this.#start, to - from)
    if (ahead === 0) return this.#receive(into, from, to)
    into.set(this.#inbox.subarray(this.#start, this.#start + ahead), from)
    this.#start += ahead
    return ahead
  }

  /** Queues bytes, which must stay as they are until `sent` is called; send() sends them. */
  put(bytes: Uint8Array, sent?: () => void): void {
    if (this.#wire.waiting === 0) this.#patience.progress()
    if (sent === undefined) this.#wire.put(bytes)
    else
      this.#wire.put(bytes, () => {
        sent()
        this.#wakeWriters()
      })
  }

  send(): void {
    this.#wire.flush()
    this.#wakeWriters()
  }

  /** Until at most `limit` bytes are queued. @throws PeerError when the client does not take them */
  async room(limit: number): Promise<void> {
    if (this.#error !== undefined) throw this.#error
    if (this.#wire.waiting <= limit) return
    await new Promise<void>((resolve, reject) => this.#writers.push({ limit, waiter: { resolve, reject } }))
  }

  /**
   * While somebody works for the client, calls once when it ends the connection, or its half of it: which one cannot be told
   * until something is sent. Who has sent another request before that waits for both. Nobody receives meanwhile.
   * @returns what ends that
   */
  watchEnd(left: () => void): Disposable {
    this.#whenLeft = left
    this.#wire.want(true)
    return {
      [Symbol.dispose]: () => {
        this.#whenLeft = undefined
      },
    }
  }

  /** Whoever waits for the client, waits no more. */
  interrupt(error: Error): void {
    const reader = this.#reader
    this.#reader = undefined
    reader?.reject(error)
    for (const { waiter } of this.#writers.splice(0)) waiter.reject(error)
  }

  /** Whoever waits for a head learns it, now or when the request under way was answered. */
  askBack(): void {
    this.#wantedBack = true
    if (this.#inHead) this.interrupt(new WantedBack())
  }

  /**
   * The socket, lent to whoever serves the client elsewhere; nobody uses this meanwhile, but to close it. Only when nothing was
   * received and not taken, and nothing is queued.
   */
  get socket(): number {
    return this.#fd
  }

  /** What is lent is back. @param received  what came meanwhile and has no answer. @param unsent  of the last answer */
  takeBack(received: Uint8Array, unsent: Uint8Array): void {
    if (this.#wire.closed) return
    if (received.length > this.#inbox.length) this.#inbox = Buffer.alloc(received.length)
    this.#inbox.set(received)
    this.#start = 0
    this.#looked = 0
    this.#end = received.length
    this.#patience.progress()
    if (unsent.length === 0) return
    this.put(unsent)
    this.send()
  }

  /** Nothing more will be sent; what the client still sends can be received. */
  endSending(): void {
    this.#wire.end()
  }

  /** For somebody else; undefined when no descriptor is left, and it is closed then. Nothing may be queued. */
  release(): Handover | undefined {
    this.#patience.end()
    this.#error ??= new PeerError('the connection was handed on')
    const fd = this.#wire.release()
    return fd < 0 ? undefined : { fd, rest: this.#inbox.slice(this.#start, this.#end) }
  }

  close(error: Error = new PeerError('the connection was closed')): void {
    if (this.#wire.closed) return
    this.#error ??= error
    this.#patience.end()
    this.#wire.close()
    this.interrupt(this.#error)
  }

  readable(): void {
    const reader = this.#reader
    this.#reader = undefined
    if (reader !== undefined) reader.resolve()
    else if (this.#whenLeft === undefined || !this.#lookForEnd(this.#whenLeft)) this.#wire.want(false)
  }

  drained(): void {
    this.#wakeWriters()
  }

  progressed(): void {
    this.#patience.progress()
  }

  failed(): void {
    this.close(new PeerError('the client went away'))
  }

  async #receive(into: Uint8Array, from: number, to: number): Promise<number> {
    for (;;) {
      if (this.#error !== undefined) throw this.#error
      const got = this.#wire.receive(into, from, to)
      if (got >= 0) {
        this.#patience.progress()
        return got
      }
      if (got !== EAGAIN) throw this.#lost('the connection broke')
      this.#wire.want(true)
      if (this.#wire.waiting === 0) this.#patience.progress()
      await new Promise<void>((resolve, reject) => {
        this.#reader = { resolve, reject }
      })
    }
  }

  /** What comes is kept for whoever takes the next head. @returns whether the end is still to be looked for */
  #lookForEnd(left: () => void): boolean {
    const got = this.ahead ? 1 : this.#receiveNow()
    if (got === EAGAIN) return true
    if (got > 0) return false
    this.#whenLeft = undefined
    left()
    return false
  }

  /** @returns as Wire.receive(), of what was put where heads are read */
  #receiveNow(): number {
    this.#makeRoom()
    const got = this.#wire.receive(this.#inbox, this.#end, this.#inbox.length)
    if (got > 0) this.#end += got
    return got
  }

  #lost(why: string): Error {
    const error = new PeerError(why)
    this.close(error)
    return error
  }

  /** For a head: what was taken goes, and there is more room each time. */
  #makeRoom(): void {
    if (this.#start === this.#end) {
      this.#start = 0
      this.#end = 0
      this.#looked = 0
    } else if (this.#start > 0) {
      this.#inbox.copyWithin(0, this.#start, this.#end)
      this.#end -= this.#start
      this.#looked -= this.#start
      this.#start = 0
    }
    if (this.#end < this.#inbox.length) return
    const larger = Buffer.alloc(Math.min(this.#inbox.length * 4, LONGEST_HEAD))
    larger.set(this.#inbox)
    this.#inbox = larger
  }

  #wakeWriters(): void {
    if (this.#writers.length === 0) return
    const { waiting } = this.#wire
    const woken = this.#writers.filter(({ limit }) => waiting <= limit)
    this.#writers = this.#writers.filter(({ limit }) => waiting > limit)
    for (const { waiter } of woken) waiter.resolve()
  }
}
