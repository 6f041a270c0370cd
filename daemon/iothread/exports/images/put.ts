// SPDX-License-Identifier: Apache-2.0
// PUT of bytes: received into pieces of slots and written from there, some pieces at once while more come.
// Rules: the reply comes when all was written, and flushed unless the client does not want that. A file grows to what came
// and not to what was announced: one whose upload ends early does not look whole.

import { parseContentRange } from '../../../../protocol/http/range.js'
import { badRequest, Refusal } from '../../../../protocol/http/refusal.js'
import { yesOrNo } from '../../../../protocol/http/routes.js'
import { corsHeaders } from '../../../http/cors.js'
import type { Exchange } from '../../../http/exchange.js'
import { TaskPool } from '../../copy/task-pool.js'
import type { Holder, Piece, PiecePool } from '../piece-pool.js'
import { takePiece } from './memory.js'
import { pieceLength } from './piece-plan.js'
import type { ServedImage } from './served-image.js'
import type { Operation } from './ticket.js'

/** Writes at once for one request. */
const AT_ONCE = 8

export async function putBytes(
  image: ServedImage,
  pool: PiecePool,
  holder: Holder,
  exchange: Exchange,
  query: ReadonlyMap<string, string>,
): Promise<void> {
  const { headers, contentLength: length, chunked } = exchange.head
  using operation = image.ticket.begin('write', true, (refusal) => exchange.stream.interrupt(refusal))
  const flush = yesOrNo(query, 'flush', true)
  if (yesOrNo(query, 'close', false)) exchange.endAfter()
  const range = headers.get('content-range')
  const offset = range === undefined ? 0 : parseContentRange(range)
  if (chunked) throw badRequest('a body in chunks is not understood: expected content-length')
  if (length === undefined) throw badRequest('the content-length is missing')
  checkReach(image, offset, length)
  const writes = new TaskPool(AT_ONCE)
  try {
    await writeAll(image, exchange, operation, writes, { pool, holder, offset, length })
  } finally {
    await writes.settle()
  }
  await writes.idle()
  operation.check()
  if (flush) await image.flush()
  exchange.reply(200, corsHeaders(exchange.head))
}

/** @throws Refusal 416 when the range is not inside the ticket, or the image ends before and does not grow */
export function checkReach(image: ServedImage, offset: number, length: number): void {
  const end = offset + length
  const beyond = (what: string, size: number) =>
    new Refusal(416, `the range is beyond the end of the ${what}, which has ${size} bytes`, [
      ['content-range', `bytes */${size}`],
    ])
  if (end > image.writable) throw beyond('ticket', image.writable)
  const size = image.node.length()
  if (length > 0 && end > size && !image.grows) throw beyond('image', size)
}

interface Body {
  readonly pool: PiecePool
  readonly holder: Holder
  readonly offset: number
  readonly length: number
}

/** Begins to write all of the body; the last writes are under way when it returns. @throws Refusal when it is too short */
async function writeAll(
  image: ServedImage,
  exchange: Exchange,
  operation: Operation,
  writes: TaskPool,
  { pool, holder, offset, length }: Body,
): Promise<void> {
  const write = (at: number, piece: Piece, bytes: number) => async () => {
    try {
      await image.reach(at, bytes)
      const slice = bytes === piece.length ? piece : { ...piece, length: bytes }
      await image.guest.during('write', bytes, () => image.node.write(at, slice))
      operation.touched(at, bytes)
    } finally {
      pool.give(holder, piece)
    }
  }
  for (let done = 0; done < length; ) {
    await writes.room()
    operation.check()
    const at = offset + done
    const piece = await takePiece(pool, holder, pieceLength(at, length - done, pool.longest), operation)
    const got = await fill(exchange, piece).catch((error: unknown) => {
      pool.give(holder, piece)
      throw error
    })
    if (got > 0) await writes.start(write(at, piece, got))
    else pool.give(holder, piece)
    if (got < piece.length)
      throw badRequest(`the body has ${done + got} of the ${length} bytes of its content-length`)
    done += got
  }
}

/** @returns bytes that came: less than the piece has room for when the body ended */
async function fill(exchange: Exchange, { bytes, length }: Piece): Promise<number> {
  let filled = 0
  while (filled < length) {
    const got = await exchange.receive(bytes, filled, length)
    if (got === 0) break
    filled += got
  }
  return filled
}
