// SPDX-License-Identifier: Apache-2.0
// Does the requests of one NBD client on a node and makes the replies. Used by Connection, which has checked the requests.
// Rules: whatever a disk says becomes the answer to its request and nothing more; a piece of memory goes back when what is
// in it was written, or sent. Long reads are answered part by part: in chunks where these were agreed on, else behind one
// header, and an error between two parts can only end the connection then. Whose client has gone does no more.

import type { Agreed } from '../../../../protocol/nbd/agreed.js'
import type { RequestRefusal } from '../../../../protocol/nbd/check-request.js'
import { commandFlags, commands } from '../../../../protocol/nbd/constants.js'
import { type NbdErrorName, nbdErrorOf } from '../../../../protocol/nbd/error-number.js'
import {
  dataHead,
  doneReply,
  errorChunk,
  errorReply,
  holeChunk,
  simpleReply,
  statusChunk,
} from '../../../../protocol/nbd/reply.js'
import type { Request } from '../../../../protocol/nbd/request.js'
import { IoError } from '../../../errors.js'
import type { ReadHow } from '../../block/driver.js'
import type { Guest } from '../../block/guests.js'
import type { BlockNode } from '../../block/node.js'
import type { Holder, Piece, PiecePool } from '../piece-pool.js'
import type { PartWriter } from './incoming.js'
import { ReplyOrder } from './reply-order.js'
import { type StatusSource, statusOf } from './status.js'

/** Extents told in one chunk: a client that reads no replies holds so many for each of its requests. QEMU tells 131072. */
const MOST_EXTENTS = 8192

/** What an export is of. */
export interface ServedNode {
  /** The node to use now: jobs put filters above it, and take them away. */
  readonly node: BlockNode
  /** By the id of a context. */
  readonly sources: readonly StatusSource[]
  /** Every write is durable when it is answered. */
  readonly writethrough: boolean
}

export interface ReplySink {
  /** Nobody will hear of anything any more. */
  readonly gone: boolean
  put(head: Uint8Array): void
  /** Follows what was put last. @param sent  the memory is not needed any more */
  putData(bytes: Uint8Array, sent: () => void): void
  /** A reply cannot be ended as it began. */
  fail(why: string): void
  /** A request is over. */
  done(): void
}

export class Serving implements Holder {
  /** Of the pool's memory; kept by the pool. */
  held = 0
  readonly #served: ServedNode
  readonly #pool: PiecePool
  readonly #guest: Guest
  readonly #agreed: Agreed
  readonly #sink: ReplySink
  readonly #order = new ReplyOrder()

  constructor(served: ServedNode, pool: PiecePool, guest: Guest, agreed: Agreed, sink: ReplySink) {
    this.#served = served
    this.#pool = pool
    this.#guest = guest
    this.#agreed = agreed
    this.#sink = sink
  }

  /** Answers a request that is not done. */
  refuse(request: Request, { error, text }: Pick<RequestRefusal, 'error' | 'text'>): void {
    const reply = errorReply(this.#agreed.replies, request, error, text)
    this.#order.whole(() => this.#sink.put(reply))
  }

  /** Begins a request without payload. Its end is told the sink. */
  serve(request: Request): void {
    void this.#serve(request).then(() => this.#sink.done())
  }

  /** Begins a WRITE whose payload comes in parts. Its end is told the sink. */
  writing(request: Request): PartWriter {
    const how = { fua: this.#isDurable(request) }
    let [left, over, failed] = [0, false, undefined as unknown]
    const end = () => {
      if (left > 0 || !over) return
      this.#answer(request, failed)
      this.#sink.done()
    }
    const write = async (offset: number, piece: Piece) => {
      try {
        await this.#guest.during(how.fua ? 'durable-write' : 'write', piece.length, () =>
          this.#served.node.write(offset, piece, how),
        )
      } catch (error) {
        failed ??= error
      } finally {
        this.#pool.give(this, piece)
        left--
        end()
      }
    }
    return {
      part: (offset, piece) => {
        left++
        void write(offset, piece)
      },
      over: () => {
        over = true
        end()
      },
    }
  }

  async #serve(request: Request): Promise<void> {
    try {
      switch (request.command) {
        case commands.READ:
          return await this.#read(request)
        case commands.BLOCK_STATUS:
          return await this.#status(request)
        default:
          await this.#change(request)
          this.#answer(request, undefined)
      }
    } catch (error) {
      this.#answer(request, error)
    }
  }

  async #change(request: Request): Promise<void> {
    const { command, offset, length } = request
    const { node } = this.#served
    this.#guest.seen()
    switch (command) {
      case commands.FLUSH:
        return this.#guest.during('flush', 0, () => node.flush())
      case commands.TRIM:
        await node.discard(offset, length)
        break
      case commands.WRITE_ZEROES:
        await node.zero(offset, length, { unmap: !has(request, 'NO_HOLE'), fast: has(request, 'FAST_ZERO') })
        break
      case commands.CACHE:
        return this.#cache(offset, length)
      default:
        throw new Error(`command ${command} was let pass`)
    }
    if (this.#isDurable(request)) await node.flush()
  }

  #isDurable(request: Request): boolean {
    return this.#served.writethrough || has(request, 'FUA')
  }

  /** What was read stays in caches below, where there are any. */
  async #cache(offset: number, length: number): Promise<void> {
    for (let at = 0; at < length && !this.#sink.gone; ) {
      const piece = await this.#take(length - at)
      try {
        await this.#served.node.read(offset + at, piece)
      } finally {
        this.#pool.give(this, piece)
      }
      at += piece.length
    }
  }

  async #read(request: Request): Promise<void> {
    const { replies } = this.#agreed
    // In one piece where the client wants that, or knows nothing else.
    if (replies === 'simple' || has(request, 'DF')) return this.#readWhole(request)
    const { offset, length } = request
    for (let at = 0; at < length && !this.#sink.gone; ) {
      const from = offset + at
      const piece = this.#pool.take(this, length - at) ?? (await this.#take(length - at))
      const done = at + piece.length === length
      let zero = false
      const began = this.#guest.began()
      try {
        zero = await this.#served.node.read(from, piece, SCAN)
        this.#guest.ended('read', piece.length, began)
      } catch (error) {
        this.#guest.failed()
        this.#pool.give(this, piece)
        const chunk = errorChunk(replies, request, nameOf(error), textOf(error), true, from)
        return this.#order.whole(() => this.#sink.put(chunk))
      }
      if (zero) {
        this.#order.whole(() => this.#sink.put(holeChunk(replies, request, from, piece.length, done)))
        this.#pool.give(this, piece)
      } else
        this.#order.whole(() => {
          this.#sink.put(dataHead(replies, request, from, piece.length, done))
          this.#send(piece)
        })
      at += piece.length
    }
  }

  async #readWhole(request: Request): Promise<void> {
    const { offset, length } = request
    const first = await this.#take(length)
    try {
      await this.#readNode(offset, first)
    } catch (error) {
      this.#pool.give(this, first)
      throw error
    }
    if (first.length === length) this.#order.whole(() => this.#putFirst(request, first))
    else await this.#readOn(request, first)
  }

  /**
   * The rest behind the first part. Its piece is used again where no other can be had: what this client holds besides may
   * be in replies that wait behind this one.
   */
  async #readOn(request: Request, first: Piece): Promise<void> {
    const { offset, length } = request
    let firstSent: Promise<void> | undefined
    try {
      using _turn = await this.#order.parts()
      firstSent = this.#sent(first, () => this.#sink.put(this.#wholeHead(request)))
      for (let at = first.length; at < length && !this.#sink.gone; ) {
        const other = this.#pool.take(this, length - at)
        if (other === undefined) await firstSent
        const piece = other ?? shortened(first, length - at)
        try {
          await this.#readNode(offset + at, piece)
        } catch (error) {
          if (other !== undefined) this.#pool.give(this, other)
          return this.#sink.fail(`reading failed behind the reply's beginning: ${textOf(error)}`)
        }
        if (other !== undefined) this.#send(other)
        else firstSent = this.#sent(piece)
        at += piece.length
      }
    } finally {
      await firstSent
      this.#pool.give(this, first)
    }
  }

  #putFirst(request: Request, piece: Piece): void {
    this.#sink.put(this.#wholeHead(request))
    this.#send(piece)
  }

  /** What stands in front of all the data of a read. */
  #wholeHead(request: Request): Uint8Array {
    const { replies } = this.#agreed
    if (replies === 'simple') return simpleReply(request)
    return dataHead(replies, request, request.offset, request.length, true)
  }

  #send(piece: Piece): void {
    this.#sink.putData(piece.bytes, () => this.#pool.give(this, piece))
  }

  /** Puts what stays ours. @returns settles when it is not needed any more */
  #sent({ bytes }: Piece, before?: () => void): Promise<void> {
    before?.()
    return new Promise((resolve) => this.#sink.putData(bytes, resolve))
  }

  async #status(request: Request): Promise<void> {
    const { replies, contexts } = this.#agreed
    if (replies === 'simple') throw new Error('block status without chunks was let pass')
    const most = has(request, 'REQ_ONE') ? 1 : MOST_EXTENTS
    const { node, sources } = this.#served
    const chunks: Uint8Array[] = []
    for (const [index, { id }] of contexts.entries()) {
      const source = sources[id]
      if (source === undefined) throw new Error(`context ${id} was let pass`)
      const extents = await statusOf(source, node, request.offset, request.length, most)
      chunks.push(statusChunk(replies, request, id, extents, index === contexts.length - 1))
    }
    this.#order.whole(() => {
      for (const chunk of chunks) this.#sink.put(chunk)
    })
  }

  #readNode(offset: number, piece: Piece, how?: ReadHow): Promise<boolean> {
    return this.#guest.during('read', piece.length, () => this.#served.node.read(offset, piece, how))
  }

  async #take(length: number): Promise<Piece> {
    for (;;) {
      const piece = this.#pool.take(this, length)
      if (piece !== undefined) return piece
      await new Promise<void>((resolve) => this.#pool.whenGiven(this, resolve))
    }
  }

  #answer(request: Request, error: unknown): void {
    const { replies } = this.#agreed
    const reply =
      error === undefined
        ? doneReply(replies, request)
        : errorReply(replies, request, nameOf(error), textOf(error))
    this.#order.whole(() => this.#sink.put(reply))
  }
}

const SCAN = { scan: true }

/** Of the same memory, at most `length` bytes. */
function shortened(piece: Piece, length: number): Piece {
  return length >= piece.length ? piece : { ...piece, length, bytes: piece.bytes.subarray(0, length) }
}

function has({ flags }: Request, flag: keyof typeof commandFlags): boolean {
  return (flags & commandFlags[flag]) !== 0
}

/** @throws what is no error of a disk: a bug */
function nameOf(error: unknown): NbdErrorName {
  if (error instanceof IoError) return nbdErrorOf(error.errno)
  throw error
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
