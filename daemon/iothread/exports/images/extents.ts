// SPDX-License-Identifier: Apache-2.0
// The extents of an image as a JSON list. It is sent while it is made: of a fragmented image it is many megabytes, and
// whoever asks wants to begin.

import { badRequest, Refusal } from '../../../../protocol/http/refusal.js'
import type { Header } from '../../../../protocol/http/reply.js'
import { PeerError } from '../../../../protocol/peer-error.js'
import type { Exchange } from '../../../http/exchange.js'
import type { BlockNode } from '../../block/node.js'
import type { ServedImage } from './served-image.js'

/** Characters of the list sent at once. */
const BATCH = 16 * 1024
/** Bytes that may wait to be sent. */
const MOST_QUEUED = 64 * 1024

/** As it is listed. Neighbours of which the same is told are one. */
interface ListedExtent {
  start: number
  length: number
  readonly zero: boolean
  /** Of an image with a chain: not stored in its top layer, so what lies below shows through. */
  readonly hole?: boolean
  readonly dirty?: boolean
}

/** The first extent at `offset`, not beyond `length`. */
type Look = (node: BlockNode, offset: number, length: number) => Promise<ListedExtent>

export async function listExtents(image: ServedImage, exchange: Exchange, context: string): Promise<void> {
  if (context !== 'zero' && context !== 'dirty')
    throw badRequest('query context is malformed: expected zero or dirty')
  using operation = image.ticket.begin('read', false, (refusal) => {
    if (exchange.begun) exchange.stream.close(new PeerError(refusal.message))
  })
  const look = context === 'dirty' ? dirtyIn(image) : lookForZeroes
  await image.freshen()
  const list = new ListReply(exchange)
  const { node } = image
  const end = image.readable
  let last: ListedExtent | undefined
  for (let at = 0; at < end; ) {
    operation.check()
    const next = await look(node, at, end - at)
    at += next.length
    if (last !== undefined && alike(last, next)) last.length += next.length
    else {
      if (last !== undefined) await list.add(last)
      last = next
    }
  }
  if (last !== undefined) await list.add(last)
  list.end()
}

function alike(one: ListedExtent, other: ListedExtent): boolean {
  return one.zero === other.zero && one.hole === other.hole && one.dirty === other.dirty
}

async function lookForZeroes(node: BlockNode, offset: number, length: number): Promise<ListedExtent> {
  const extent = await node.status(offset, length)
  const hole = extent.absent === true || (extent.depth ?? 0) > 0
  return { start: offset, length: extent.length, zero: extent.kind === 'zero', hole }
}

/** @throws Refusal 404 where there is no bitmap */
function dirtyIn(image: ServedImage): Look {
  const look = image.lookForDirt()
  if (look === undefined) throw new Refusal(404, 'the image has no dirty extents')
  return async (node, offset, length) => {
    const extent = await node.status(offset, length)
    const { dirty, end } = await look(offset, extent.length)
    const until = Math.min(end, offset + extent.length)
    return { start: offset, length: until - offset, dirty, zero: extent.kind === 'zero' }
  }
}

/** A JSON list as a reply: whole where it is short, else in chunks as it comes. */
class ListReply {
  readonly #exchange: Exchange
  #text = ''
  #first = true

  constructor(exchange: Exchange) {
    this.#exchange = exchange
  }

  async add(item: ListedExtent): Promise<void> {
    this.#text += `${this.#first ? '[' : ', '}${JSON.stringify(item)}`
    this.#first = false
    if (this.#text.length < BATCH) return
    if (!this.#exchange.begun) this.#exchange.beginChunks(200, HEADERS)
    this.#exchange.chunk(Buffer.from(this.#text))
    this.#text = ''
    await this.#exchange.stream.room(MOST_QUEUED)
  }

  end(): void {
    const text = `${this.#text}${this.#first ? '[]' : ']'}`
    if (!this.#exchange.begun) {
      this.#exchange.reply(200, HEADERS, text)
      return
    }
    this.#exchange.chunk(Buffer.from(text))
    this.#exchange.endChunks()
  }
}

const HEADERS: readonly Header[] = [['content-type', 'application/json']]
