// SPDX-License-Identifier: Apache-2.0
// A connected stream socket that carries a protocol: its user says how many bytes are read and where they are put, sends
// messages that are gathered from memory, and can hand the connection on at any byte. Used where Node's streams would copy
// every byte and read what belongs to somebody else.
// Nothing waits, nothing throws: results are bytes or -errno.

import { addon, type NativeWire } from './binding.js'

const EAGAIN = -11
/** Messages in one turn of the loop: a peer that reads as fast as we write must not keep us. */
const SENDS = 16

export interface WireUser {
  /** There is something to receive, or the connection has ended. Only while wanted. */
  readable(): void
  /** Everything queued was sent. Only when it had to wait. */
  drained(): void
  /** The peer's socket took some of what was queued. */
  progressed?(): void
  /** Sending failed, -errno; what was queued is lost. The user closes. */
  failed(result: number): void
}

/** Called when the last byte of what it was queued with has been sent, or will never be. */
export type Sent = () => void

export class Wire {
  readonly #native: NativeWire
  readonly #user: WireUser
  readonly #queue: Uint8Array[] = []
  /** By place in the queue. */
  readonly #sent: (Sent | undefined)[] = []
  /** Bytes of the first in the queue that have gone. */
  #gone = 0
  /** Bytes that are queued. */
  #waiting = 0
  #wanted = false
  #blocked = false
  #closed = false

  /**
   * @param fd  a connected stream socket, owned from now on
   * @throws Error with `errno`; then the descriptor is closed
   */
  constructor(fd: number, user: WireUser) {
    this.#user = user
    this.#native = new addon.Wire(fd, (readable, writable) => this.#ready(readable, writable))
  }

  get closed(): boolean {
    return this.#closed
  }
  /** Bytes that are queued and not sent. */
  get waiting(): number {
    return this.#waiting
  }

  /** Whether the user wants to be told that there is something to receive. */
  want(wanted: boolean): void {
    if (wanted === this.#wanted || this.#closed) return
    this.#wanted = wanted
    this.#watch()
  }

  /** @returns bytes put into [from, to), 0 at the end, or -errno; -EAGAIN while there is nothing */
  receive(into: Uint8Array, from: number, to: number): number {
    return this.#native.receive(into, from, to)
  }

  /** Queues bytes, which must stay as they are until `sent` is called. flush() sends them. */
  put(bytes: Uint8Array, sent?: Sent): void {
    if (this.#closed) {
      sent?.()
      return
    }
    this.#queue.push(bytes)
    this.#sent.push(sent)
    this.#waiting += bytes.length
  }

  /** Sends what is queued, now what the socket takes and the rest when it takes more. */
  flush(): void {
    if (!this.#blocked) this.#send()
  }

  /** Nothing more will be sent; @returns 0 or -errno */
  end(): number {
    return this.#native.shutdown()
  }

  /** Ends the connection, whoever else has a copy of the socket. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#native.close()
    this.#forget()
  }

  /** The descriptor for somebody else, or -errno. Nothing may be queued. Closed for us. */
  release(): number {
    this.#closed = true
    return this.#native.release()
  }

  #ready(readable: boolean, writable: boolean): void {
    if (writable && this.#blocked) {
      this.#blocked = false
      this.#send()
      if (!this.#blocked && !this.#closed) this.#user.drained()
    }
    if (readable && this.#wanted && !this.#closed) this.#user.readable()
  }

  #send(): void {
    for (let sends = 0; this.#queue.length > 0 && sends < SENDS; sends++) {
      const result = this.#native.send(this.#queue, 0, this.#gone)
      if (result === EAGAIN) break
      if (result < 0) {
        this.#forget()
        this.#watch()
        this.#user.failed(result)
        return
      }
      this.#advance(result)
    }
    this.#blocked = this.#queue.length > 0
    this.#watch()
  }

  #advance(sent: number): void {
    this.#waiting -= sent
    if (sent > 0) this.#user.progressed?.()
    let left = sent + this.#gone
    let whole = 0
    for (; whole < this.#queue.length; whole++) {
      const length = (this.#queue[whole] as Uint8Array).length
      if (left < length) break
      left -= length
    }
    this.#gone = left
    this.#queue.splice(0, whole)
    for (const call of this.#sent.splice(0, whole)) call?.()
  }

  #forget(): void {
    this.#queue.length = 0
    this.#gone = 0
    this.#waiting = 0
    this.#blocked = false
    for (const call of this.#sent.splice(0)) call?.()
  }

  #watch(): void {
    if (!this.#closed) this.#native.watch(this.#wanted, this.#blocked)
  }
}
