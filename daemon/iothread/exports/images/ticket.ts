// SPDX-License-Identifier: Apache-2.0
// What a ticket allows and what was done with it: looked at when a request begins, told when it ends. Used by ServedImage.
// Invariant: after cancel() no request begins, and idle() says when the last one has ended.

import type { TicketOp } from '../../../../protocol/http/json-body.js'
import { Refusal } from '../../../../protocol/http/refusal.js'
import type { PeerError } from '../../../../protocol/peer-error.js'
import { monotonicSeconds } from '../../../common/clock.js'
import type { ImageLeft, ImageSpec } from '../../messages-images.js'
import { ByteUnion } from './byte-union.js'

/** How a request that is under way is stopped. */
export type Stop = (why: Stopped) => void
/** A refusal, or the client has gone. */
export type Stopped = Refusal | PeerError

export class Ticket {
  readonly spec: ImageSpec
  readonly #extended: () => void
  readonly #running = new Set<Operation>()
  readonly #touched: ByteUnion
  #expires: number
  #canceled = false
  /** Operations that are rows of requests. */
  #rows = 0
  #lastEnd = monotonicSeconds()
  #waiting: (() => void)[] = []

  /** @param extended  called when the expiry has moved */
  constructor(spec: ImageSpec, extended: () => void) {
    this.spec = spec
    this.#extended = extended
    this.#touched = new ByteUnion(spec.done)
    this.#expires = spec.expires
  }

  get active(): boolean {
    return this.#running.size > 0
  }
  get canceled(): boolean {
    return this.#canceled
  }
  get expires(): number {
    return this.#rows === 0 ? this.#expires : Math.max(this.#expires, monotonicSeconds() + this.spec.timeout)
  }
  get transferred(): number {
    return this.#touched.total
  }
  /** What is told of it when its image is open no more. */
  get left(): ImageLeft {
    return { expires: this.#expires, since: this.#lastEnd, done: this.#touched.covered() }
  }
  /** Seconds since the last request ended. */
  get idleTime(): number {
    return this.active ? 0 : monotonicSeconds() - this.#lastEnd
  }

  /** @throws Refusal 403; writing includes reading */
  check(op: TicketOp): void {
    if (this.#canceled) throw forbidden('it was canceled')
    if (monotonicSeconds() >= this.expires) throw forbidden('it has expired')
    const { ops } = this.spec
    if (!ops.includes(op) && !(op === 'read' && ops.includes('write'))) throw forbidden(`it forbids to ${op}`)
  }

  /**
   * A request begins; it ends with dispose.
   * @param renews  its end moves the expiry
   * @param ended   called when it has ended
   * @throws Refusal 403
   */
  begin(op: TicketOp, renews: boolean, stop: Stop, ended?: () => void): Operation {
    this.check(op)
    const operation = new Operation(stop, this.#touched, () => {
      this.#running.delete(operation)
      ended?.()
      if (renews) this.extend(this.spec.timeout)
      this.#lastEnd = monotonicSeconds()
      if (this.#running.size === 0) for (const resolve of this.#waiting.splice(0)) resolve()
    })
    this.#running.add(operation)
    return operation
  }

  /** As begin(), for many requests one after the other, each sooner than the ticket expires. */
  beginRow(op: TicketOp, stop: Stop): Operation {
    const operation = this.begin(op, true, stop, () => {
      this.#rows--
    })
    this.#rows++
    return operation
  }

  /** It expires so many seconds from now. */
  extend(seconds: number): void {
    this.#expires = monotonicSeconds() + seconds
    this.#extended()
  }

  /** No request begins any more, and those under way are stopped; resolves when they have ended. */
  cancel(): Promise<void> {
    this.#canceled = true
    for (const operation of [...this.#running]) operation.stop(forbidden('it was canceled'))
    return this.idle()
  }

  /** Resolves when nothing is under way. */
  idle(): Promise<void> {
    if (!this.active) return Promise.resolve()
    return new Promise((resolve) => this.#waiting.push(resolve))
  }
}

/** A request under way. */
export class Operation implements Disposable {
  readonly #stop: Stop
  readonly #touched: ByteUnion
  readonly #end: () => void
  #stopped: Stopped | undefined
  /** Who waits for something, and no more when it is stopped. */
  readonly #waiting = new Set<() => void>()

  constructor(stop: Stop, touched: ByteUnion, end: () => void) {
    this.#stop = stop
    this.#touched = touched
    this.#end = end
  }

  /** Between two steps. @throws Refusal, or PeerError, when it was stopped */
  check(): void {
    if (this.#stopped !== undefined) throw this.#stopped
  }

  /** Calls when it is stopped. @returns what calls that off */
  whenStopped(call: () => void): () => void {
    this.#waiting.add(call)
    return () => this.#waiting.delete(call)
  }

  /** So much of the image was read or written. */
  touched(offset: number, length: number): void {
    this.#touched.add(offset, length)
  }

  /** As many bytes at each of these places. */
  touchedEach(offsets: Float64Array, length: number): void {
    this.#touched.addEach(offsets, length)
  }

  stop(why: Stopped): void {
    this.#stopped ??= why
    this.#stop(why)
    for (const call of [...this.#waiting]) call()
  }

  [Symbol.dispose](): void {
    this.#end()
  }
}

/** Says nothing of other tickets. */
export function forbidden(why: string): Refusal {
  return new Refusal(403, `the ticket does not allow this: ${why}`)
}
