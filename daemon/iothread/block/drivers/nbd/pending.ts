// SPDX-License-Identifier: Apache-2.0
// One request on its way to an NBD server, and what its reply has told so far. Used by Connection, which reads replies.
// Rules: a reply that does not fit its request is the server's fault (PeerError). A request is over when its reply is
// complete and its payload has left our memory: until then the caller keeps the memory for us.

import { quoted } from '../../../../../protocol/error-text.js'
import type { ReplyError, Status } from '../../../../../protocol/nbd/chunk.js'
import { commands, nameOrNumber } from '../../../../../protocol/nbd/constants.js'
import { errnoOf } from '../../../../../protocol/nbd/error-number.js'
import { ReadCover } from '../../../../../protocol/nbd/read-cover.js'
import type { StatusExtent } from '../../../../../protocol/nbd/reply.js'
import type { RequestHead } from '../../../../../protocol/nbd/request.js'
import { PeerError } from '../../../../../protocol/peer-error.js'

/** The server did not do what was asked; it said so. */
export class Refused extends Error {
  override readonly name = 'Refused'
  /** @param errno  positive */
  constructor(
    readonly errno: number,
    text: string,
  ) {
    super(text)
  }
}

/** What a reply told beside data. */
export interface Answer {
  /** Extents of BLOCK_STATUS by the ids of their contexts, from the request's offset on. */
  readonly extents: ReadonlyMap<number, readonly StatusExtent[]>
  /** All that was read was told to be holes: it is zero. */
  readonly allHoles: boolean
}

export class Pending {
  readonly head: RequestHead
  /** Where the data of a READ belong: as long as the request. */
  readonly into: Uint8Array | undefined
  readonly #resolve: (answer: Answer) => void
  readonly #reject: (error: Error) => void
  readonly #cover: ReadCover | undefined
  readonly #extents = new Map<number, readonly StatusExtent[]>()
  #allHoles = true
  #refused: Refused | undefined
  #sent: boolean
  #answered = false

  /** @param sent  there is no payload that has to be sent first */
  constructor(
    head: RequestHead,
    into: Uint8Array | undefined,
    sent: boolean,
    resolve: (answer: Answer) => void,
    reject: (error: Error) => void,
  ) {
    this.head = head
    this.into = into
    this.#sent = sent
    this.#resolve = resolve
    this.#reject = reject
    if (head.command === commands.READ) this.#cover = new ReadCover(head)
  }

  /**
   * Data of a READ that come next.
   * @returns where they belong
   */
  data(offset: number, length: number): Uint8Array {
    this.#told(offset, length)
    this.#allHoles = false
    const at = offset - this.head.offset
    return this.#memory.subarray(at, at + length)
  }

  hole(offset: number, length: number): void {
    this.#told(offset, length)
    const at = offset - this.head.offset
    this.#memory.fill(0, at, at + length)
  }

  status({ contextId, extents }: Status): void {
    if (this.head.command !== commands.BLOCK_STATUS || this.#extents.has(contextId))
      throw this.unfit('block status')
    this.#extents.set(contextId, extents)
  }

  error({ error, text }: ReplyError): void {
    this.#refused ??= new Refused(errnoOf(error), text === '' ? `error ${error}` : quoted(text))
  }

  /** The payload has left our memory. */
  sent(): void {
    this.#sent = true
    this.#settle()
  }

  /** The reply is complete. @param contexts  how many were chosen. @throws PeerError when something is missing in it */
  answered(contexts: number): void {
    if (this.#refused === undefined) {
      if (!this.#sent) throw this.unfit('success before its payload was sent')
      if (this.#cover !== undefined && this.#cover.missing > 0)
        throw this.unfit(`an end with ${this.#cover.missing} bytes missing`)
      if (this.head.command === commands.BLOCK_STATUS && this.#extents.size < contexts)
        throw this.unfit('an end without block status')
    }
    this.#answered = true
    this.#settle()
  }

  /** The connection is gone. */
  lost(error: Error): void {
    this.#reject(error)
  }

  unfit(what: string): PeerError {
    return new PeerError(`reply to ${nameOrNumber(commands, this.head.command)}: ${what}`)
  }

  #told(offset: number, length: number): void {
    if (this.#cover === undefined) throw this.unfit('data')
    this.#cover.add(offset, length)
  }

  get #memory(): Uint8Array {
    if (this.into === undefined) throw new Error('a read without memory')
    return this.into
  }

  #settle(): void {
    if (!this.#sent || !this.#answered) return
    if (this.#refused !== undefined) this.#reject(this.#refused)
    else this.#resolve({ extents: this.#extents, allHoles: this.#allHoles })
  }
}
