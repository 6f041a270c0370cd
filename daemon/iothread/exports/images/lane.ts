// SPDX-License-Identifier: Apache-2.0
// When a client of an image gets a lane (native/lane-types.ts), and when it has to go back: as clients of NBD exports do
// (nbd/lane.ts), behind a row of requests for as many bytes each, one by one. Used by ImageAnswers.
// Rule: as long as it is lent a request of the ticket is under way, so that whoever ends the ticket waits for it; and so it is
// until a request is answered whose head came meanwhile, which is the ticket's whatever has taken its place.

import type { Lane, LaneEnd } from '../../../../native/lane-types.js'
import type { FileId, Range } from '../../../../native/types.js'
import { findHeadEnd, skipEmptyLines } from '../../../../protocol/http/head.js'
import { Refusal } from '../../../../protocol/http/refusal.js'
import { yesOrNo } from '../../../../protocol/http/routes.js'
import type { Exchange } from '../../../http/exchange.js'
import type { HttpStream } from '../../../http/stream.js'
import type { Borrower, Loan } from '../../block/loans.js'
import { IDLE_MS, LaneRow } from '../lane-row.js'
import { type Holder, type Piece, SMALL } from '../piece-pool.js'
import { type LanePlan, planLane } from './lane-plan.js'
import type { ImageEnv, ServedImage } from './served-image.js'
import type { Operation } from './ticket.js'

/** Nobody keeps longer heads in mind. */
const LONGEST_HEAD = 2048
/** Of an offset. */
const MOST_DIGITS = 16
const NO_ROOM = new Uint8Array()

/** Requests that are served by a lane, in the eyes of the ticket one operation. */
interface Row {
  readonly stream: HttpStream
  readonly socket: FileId
  readonly plan: LanePlan
  readonly operation: Operation
}

/** Of one connection. */
export class ImageLane implements Borrower {
  readonly #image: ServedImage
  readonly #env: ImageEnv
  readonly #holder: Holder
  readonly #row = new LaneRow()
  #last: Exchange | undefined
  /** The engine's copy of the socket; a promise while it is being made. */
  #stream: Promise<FileId> | FileId | undefined
  #lane: Lane | undefined
  #lent: Promise<void> | undefined
  /** Of a request that began while a lane had the client, and is to be answered here. */
  #begun: Operation | undefined

  constructor(image: ServedImage, env: ImageEnv, holder: Holder) {
    this.#image = image
    this.#env = env
    this.#holder = holder
  }

  /** A GET or PUT was answered. */
  saw(exchange: Exchange, query: ReadonlyMap<string, string>): void {
    const { head, text, stream, keepAlive } = exchange
    const { headers, contentLength = 0 } = head
    const plain = keepAlive && head.minor === 1 && !head.expectsContinue && text.length <= LONGEST_HEAD
    const usual =
      head.method === 'GET'
        ? contentLength === 0 && query.size === 0 && headers.has('range')
        : contentLength > 0 && contentLength <= SMALL && !yesOrNo(query, 'flush', true)
    this.#row.saw(plain && usual && !stream.ahead)
    this.#last = exchange
  }

  /** @returns resolves when the stream is back; undefined: it is not lent */
  lend(stream: HttpStream): Promise<void> | undefined {
    if (!this.#row.longEnough || this.#last === undefined || stream.closed) return undefined
    const socket = this.#adopted(stream)
    if (socket === undefined) return undefined
    this.#row.restart()
    const { head, text, replyHead = NO_ROOM } = this.#last
    const plan = planLane(head.method === 'PUT', text, Buffer.from(replyHead).toString('latin1'))
    if (plan === undefined || plan.each > SMALL || (plan.writes && plan.each !== head.contentLength))
      return undefined
    const operation = this.#begin(plan)
    if (operation === undefined) return undefined
    this.#lent = this.#serve(stream, socket, plan, operation).finally(() => {
      this.#lent = undefined
    })
    return this.#lent
  }

  /** For who wants to hear of changes: a write under way comes back to be done here. */
  callBack(): void {
    this.#lane?.callBack()
  }

  /** A request under way is answered, and none is begun any more. */
  endSoon(): void {
    this.#lane?.endSoon()
  }

  counts() {
    if (this.#lane === undefined) throw new Error('no lane is lent')
    return this.#lane.counts()
  }

  /** A request whose head came to a lane: it is of this ticket, whatever has become of that. */
  get begun(): boolean {
    return this.#begun !== undefined
  }

  /** Of that request; whoever takes this ends it when the request has ended. */
  takeBegun(): Operation | undefined {
    const begun = this.#begun
    this.#begun = undefined
    return begun
  }

  /** Ends it soon; resolves when nothing is lent. */
  async back(): Promise<void> {
    this.endSoon()
    await this.#lent
  }

  /** Nothing is lent any more, nor will be. */
  async close(): Promise<void> {
    this.takeBegun()?.[Symbol.dispose]()
    await this.back()
    const stream = await this.#stream
    // What closing a socket may say is of no use to anybody.
    if (stream !== undefined && stream > 0) await this.#env.engine.close(stream)
  }

  /** The first to ask comes too early. */
  #adopted(stream: HttpStream): FileId | undefined {
    if (typeof this.#stream === 'number') return this.#stream > 0 ? this.#stream : undefined
    this.#stream ??= this.#env.engine.adopt(stream.socket).then((adopted) => {
      this.#stream = adopted
      return adopted
    })
    return undefined
  }

  /** A ticket that does not live from one request to the next is looked at each time. */
  #begin({ writes }: LanePlan): Operation | undefined {
    const { ticket, retired } = this.#image
    if (ticket.spec.timeout < 1 || retired) return undefined
    try {
      return ticket.beginRow(writes ? 'write' : 'read', () => this.endSoon())
    } catch (error) {
      if (error instanceof Refusal) return undefined
      throw error
    }
  }

  async #serve(stream: HttpStream, socket: FileId, plan: LanePlan, operation: Operation): Promise<void> {
    const { lanes, pool } = this.#env
    const row = { stream, socket, plan, operation }
    try {
      if (!lanes.take()) return
      try {
        const piece = pool.take(this.#holder, SMALL)
        if (piece === undefined) return
        try {
          const loan = this.#image.node.lend(this)
          if (loan !== undefined) await this.#run(row, piece, loan)
        } finally {
          pool.give(this.#holder, piece)
        }
      } finally {
        lanes.give()
      }
    } finally {
      if (this.#begun !== operation) operation[Symbol.dispose]()
    }
  }

  async #run(
    { stream, socket, plan, operation }: Row,
    { slot, offset, length: room }: Piece,
    { lent, back }: Loan,
  ): Promise<void> {
    const { writable, readable, lanes } = this.#image
    const length = Math.min(plan.writes ? writable : readable, lent.length)
    const lane = this.#env.engine.httpLane({
      ...plan,
      file: lent.file,
      stream: socket,
      slot,
      slotOffset: offset,
      room,
      length,
      idleMs: IDLE_MS,
    })
    this.#lane = lane
    lanes.add(this)
    const end = await lane.ended
    this.#row.judge(lane.counts())
    operation.touchedEach(end.places, plan.each)
    back(begunBy(end, plan, length))
    this.#lane = undefined
    lanes.delete(this)
    stream.takeBack(end.received, end.unsent)
    if (hasHead(end.received)) this.#begun = operation
  }
}

/** Whether a request began in this. */
function hasHead(received: Uint8Array): boolean {
  const from = skipEmptyLines(received, 0, received.length)
  return findHeadEnd(received, from, received.length) !== undefined
}

/**
 * Where something may have been written that has no answer. A lane begins a write when all of it has come, so it is what came
 * back first.
 * @param end  of what the lane may write
 */
function begunBy({ received }: LaneEnd, { writes, each, head }: LanePlan, end: number): Range | undefined {
  if (!writes || received.length < each) return undefined
  const from = head[0].length
  const text = Buffer.from(received.subarray(from, from + MOST_DIGITS)).toString('latin1')
  const digits = /^\d+/.exec(text)?.[0]
  const offset = digits === undefined ? end : Number(digits)
  return offset + each <= end ? { offset, length: each } : undefined
}
