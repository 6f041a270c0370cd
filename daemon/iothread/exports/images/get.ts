// SPDX-License-Identifier: Apache-2.0
// GET of bytes: read into pieces of slots, some ahead of what is being sent, and sent from there in order.
// Rule: the reply begins when its first piece was read, so that a disk that says no can still be told as an error.

import { type ByteRange, parseRange } from '../../../../protocol/http/range.js'
import { Refusal } from '../../../../protocol/http/refusal.js'
import type { Header } from '../../../../protocol/http/reply.js'
import { yesOrNo } from '../../../../protocol/http/routes.js'
import { PeerError } from '../../../../protocol/peer-error.js'
import { corsHeaders } from '../../../http/cors.js'
import type { Exchange } from '../../../http/exchange.js'
import type { Holder, Piece, PiecePool } from '../piece-pool.js'
import { untilGiven } from './memory.js'
import { pieceLength } from './piece-plan.js'
import type { ServedImage } from './served-image.js'
import type { Operation } from './ticket.js'

/** Reads at once for one reply. */
const AHEAD = 4
/** Bytes that may wait to be sent. */
const MOST_QUEUED = 2 * 1024 * 1024

interface Reading {
  readonly offset: number
  readonly piece: Piece
  /** Never rejects. */
  readonly done: Promise<{ readonly error?: unknown }>
}

export async function getBytes(
  image: ServedImage,
  pool: PiecePool,
  holder: Holder,
  exchange: Exchange,
  query: ReadonlyMap<string, string>,
): Promise<void> {
  const { ticket } = image
  using operation = ticket.begin('read', true, (refusal) => {
    if (exchange.begun) exchange.stream.close(new PeerError(refusal.message))
  })
  if (yesOrNo(query, 'close', false)) exchange.endAfter()
  const text = exchange.head.headers.get('range')
  const { offset, length } = await extentOf(image, text)
  const headers: Header[] = [
    ['content-type', 'application/octet-stream'],
    ['content-disposition', disposition(ticket.spec.filename)],
    ['content-length', String(length)],
    ...corsHeaders(exchange.head),
  ]
  if (text !== undefined)
    headers.push(['content-range', `bytes ${offset}-${offset + length - 1}/${image.writable}`])
  const begin = () => exchange.begin(text === undefined ? 200 : 206, headers)
  if (length === 0) begin()
  else await new Sending(image, pool, holder, exchange, operation).send(offset, length, begin)
  exchange.stream.send()
}

/** What is asked for. The size is looked at anew where it counts. @throws Refusal */
async function extentOf(image: ServedImage, range: string | undefined) {
  const asked = range === undefined ? undefined : parseRange(range)
  if (asked === undefined || (asked.last ?? Number.POSITIVE_INFINITY) >= image.readable) await image.freshen()
  return asked === undefined ? { offset: 0, length: image.readable } : within(asked, image.readable)
}

/** @throws Refusal 416 for what lies beyond the size */
function within({ first, last = Number.POSITIVE_INFINITY }: ByteRange, size: number) {
  if (first >= size || (Number.isFinite(last) && last >= size))
    throw new Refusal(416, `the range is beyond the end of the image, which has ${size} bytes`, [
      ['content-range', `bytes */${size}`],
    ])
  return { offset: first, length: Math.min(last + 1, size) - first }
}

function disposition(filename: string | undefined): string {
  return filename === undefined ? 'attachment' : `attachment; filename=${filename}`
}

/** One reply. */
class Sending {
  readonly #image: ServedImage
  readonly #pool: PiecePool
  readonly #holder: Holder
  readonly #exchange: Exchange
  readonly #operation: Operation
  readonly #readings: Reading[] = []

  constructor(image: ServedImage, pool: PiecePool, holder: Holder, exchange: Exchange, operation: Operation) {
    this.#image = image
    this.#pool = pool
    this.#holder = holder
    this.#exchange = exchange
    this.#operation = operation
  }

  async send(offset: number, length: number, begin: () => void): Promise<void> {
    const { stream } = this.#exchange
    const end = offset + length
    let [asked, sent] = [offset, offset]
    try {
      while (sent < end) {
        this.#operation.check()
        if (stream.closed) throw new PeerError('the client went away')
        asked = this.#readAhead(asked, end)
        const next = this.#readings[0]
        if (next === undefined) {
          await untilGiven(this.#pool, this.#holder, this.#operation)
          continue
        }
        const { error } = await next.done
        if (error !== undefined) throw error
        this.#readings.shift()
        if (sent === offset) begin()
        sent += next.piece.length
        this.#put(next)
        await stream.room(MOST_QUEUED)
      }
      // Until then its memory is in use.
      await stream.room(0)
    } finally {
      for (const { piece, done } of this.#readings) {
        await done
        this.#pool.give(this.#holder, piece)
      }
    }
  }

  /** @returns up to where reading was begun */
  #readAhead(from: number, end: number): number {
    let at = from
    while (at < end && this.#readings.length < AHEAD) {
      const piece = this.#pool.take(this.#holder, pieceLength(at, end - at, this.#pool.longest))
      if (piece === undefined) break
      const { guest, node } = this.#image
      const start = at
      const read = guest.during('read', piece.length, () => node.read(start, piece))
      const done = read.then(
        () => ({}),
        (error: unknown) => ({ error }),
      )
      this.#readings.push({ offset: at, piece, done })
      at += piece.length
    }
    return at
  }

  #put({ offset, piece }: Reading): void {
    const { stream } = this.#exchange
    this.#operation.touched(offset, piece.length)
    stream.put(piece.bytes, () => this.#pool.give(this.#holder, piece))
    stream.send()
  }
}
