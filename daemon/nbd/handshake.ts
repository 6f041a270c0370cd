// SPDX-License-Identifier: Apache-2.0
// One client of the NBD server until it has chosen an export: bytes in and out of the pure negotiation.
// Rule: while an answer waits to be sent nothing more is read, so a client that does not listen costs one answer.

import { Wire, type WireUser } from '../../native/wire.js'
import type { Agreed } from '../../protocol/nbd/agreed.js'
import { type Exports, ServerNegotiation } from '../../protocol/nbd/server-negotiation.js'
import type { NegotiationStep } from '../../protocol/nbd/steps.js'
import type { TlsServer } from './tls.js'

const EAGAIN = -11
/** Bytes of one read. */
const READ = 4096

export interface HandshakeEnd {
  /** @param fd  the connection, the receiver's from now on */
  chosen(fd: number, agreed: Agreed, rest: Uint8Array): void
  /** It is closed. @param why  undefined: the client ended it, as it may, or it was told to end */
  over(why: string | undefined): void
}

export class Handshake implements WireUser {
  readonly #tls: TlsServer | undefined
  #wire: Wire
  readonly #negotiation: ServerNegotiation
  readonly #end: HandshakeEnd
  readonly #timer: NodeJS.Timeout | undefined
  #ended = false

  /**
   * @param fd         the connection, owned from now on
   * @param tls        nobody is served without it; undefined: there is none
   * @param timeoutMs  0: no limit
   * @throws Error when the socket cannot be watched; it is closed then
   */
  constructor(
    fd: number,
    exports: Exports,
    tls: TlsServer | undefined,
    timeoutMs: number,
    end: HandshakeEnd,
  ) {
    this.#end = end
    this.#tls = tls
    this.#negotiation = new ServerNegotiation(exports, tls === undefined ? 'none' : 'forced')
    this.#wire = new Wire(fd, this)
    if (timeoutMs > 0)
      this.#timer = setTimeout(() => this.close(`no export chosen within ${timeoutMs / 1000} s`), timeoutMs)
    this.#step()
  }

  get ended(): boolean {
    return this.#ended
  }

  readable(): void {
    const bytes = new Uint8Array(READ)
    const got = this.#wire.receive(bytes, 0, READ)
    if (got === EAGAIN) return
    if (got <= 0) {
      this.close(got === 0 ? undefined : 'the connection broke')
      return
    }
    this.#negotiation.feed(bytes.subarray(0, got))
    this.#step()
  }

  drained(): void {
    this.#step()
  }

  failed(): void {
    this.close('the connection broke')
  }

  close(why?: string): void {
    if (!this.#leave()) return
    this.#wire.close()
    this.#end.over(why)
  }

  #step(): void {
    while (!this.#ended) {
      if (this.#wire.waiting > 0) {
        this.#wire.want(false)
        return
      }
      const step = this.#negotiation.next()
      if (step === undefined) {
        this.#wire.want(true)
        return
      }
      this.#do(step)
    }
  }

  #do(step: NegotiationStep): void {
    switch (step.kind) {
      case 'send':
        this.#wire.put(step.bytes)
        this.#wire.flush()
        return
      case 'transmission':
        if (this.#leave()) this.#handOn(step.agreed, step.rest)
        return
      case 'close':
        this.close(step.why?.message)
        return
      case 'start-tls':
        this.#startTls(step.rest)
        return
      default:
        step satisfies never
    }
  }

  /** From here on the wire is the plain end of what is encrypted outside. */
  #startTls(rest: Uint8Array): void {
    if (this.#tls === undefined) throw new Error('TLS was not offered')
    const fd = this.#wire.release()
    const plain = fd < 0 ? fd : this.#tls.wrap(fd, rest, (why) => this.close(why))
    if (plain < 0) {
      this.close('no descriptor is left')
      return
    }
    this.#wire = new Wire(plain, this)
    this.#negotiation.tlsStarted()
  }

  #handOn(agreed: Agreed, rest: Uint8Array): void {
    const fd = this.#wire.release()
    if (fd < 0) this.#end.over('no descriptor is left')
    else this.#end.chosen(fd, agreed, rest)
  }

  /** @returns false when it has ended before */
  #leave(): boolean {
    if (this.#ended) return false
    this.#ended = true
    clearTimeout(this.#timer)
    return true
  }
}
