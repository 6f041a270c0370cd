// SPDX-License-Identifier: Apache-2.0
// The extents of an image as a JSON list. It is sent while it is made: of a fragmented image it is many megabytes, and
// whoever asks wants to begin.

import { badRequest, Refusal } from '../../../../protocol/http/refusal.js'
import type { Header } from '../../../../protocol/http/reply.js'
import { PeerError } from '../../../../protocol/peer-error.js'
import type { Exchange } from '../../../http/exchange.js'
import type { Extent } from '../../block/driver.js'
import type { ServedImage } from './served-image.js'

/** Bytes of the list sent at once. */
const BATCH = 16 * 1024
/** More of these than an extent takes with what stands before and behind it. */
const LONGEST_ITEM = 256
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

/** What is listed of the beginning of an extent. A promise only where something has to be waited for. */
type Look = (extent: Extent) => Promise<ListedExtent> | ListedExtent

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
    const seen = look(await node.status(at, end - at))
    const next = seen instanceof Promise ? await seen : seen
    at += next.length
    if (last !== undefined && alike(last, next)) last.length += next.length
    else {
      if (last !== undefined) list.add(last)
      if (list.full) await list.send()
      last = next
    }
  }
  if (last !== undefined) list.add(last)
  list.end()
}

function alike(one: ListedExtent, other: ListedExtent): boolean {
  return one.zero === other.zero && one.hole === other.hole && one.dirty === other.dirty
}

function lookForZeroes({ offset, length, kind, absent, depth = 0 }: Extent): ListedExtent {
  return { start: offset, length, zero: kind === 'zero', hole: absent === true || depth > 0 }
}

/** @throws Refusal 404 where there is no bitmap */
function dirtyIn(image: ServedImage): Look {
  const look = image.lookForDirt()
  if (look === undefined) throw new Refusal(404, 'the image has no dirty extents')
  return async ({ offset, length, kind }) => {
    const { dirty, end } = await look(offset, length)
    const until = Math.min(end, offset + length)
    return { start: offset, length: until - offset, dirty, zero: kind === 'zero' }
  }
}

/**
 * A JSON list as a reply: whole where it is short, else in chunks as it comes. What is sent lies in few buffers that are used again
 * and again: a list is many megabytes, and all of it would wait in memory for a collection.
 */
class ListReply {
  readonly #exchange: Exchange
  /** Those that were sent. */
  readonly #free: Buffer[] = []
  #bytes: Buffer = Buffer.allocUnsafeSlow(BATCH)
  #filled = 0
  #first = true

  constructor(exchange: Exchange) {
    this.#exchange = exchange
  }

  /** Nothing more is added before it is sent. */
  get full(): boolean {
    return this.#filled + 2 * LONGEST_ITEM > BATCH
  }

  add(item: ListedExtent): void {
    this.#write(this.#first ? '[' : ', ')
    this.#first = false
    this.#write(JSON.stringify(item))
  }

  async send(): Promise<void> {
    if (!this.#exchange.begun) this.#exchange.beginChunks(200, HEADERS)
    const bytes = this.#bytes
    this.#exchange.chunk(bytes.subarray(0, this.#filled), () => this.#free.push(bytes))
    await this.#exchange.stream.room(MOST_QUEUED)
    this.#bytes = this.#free.pop() ?? Buffer.allocUnsafeSlow(BATCH)
    this.#filled = 0
  }

  end(): void {
    this.#write(this.#first ? '[]' : ']')
    const rest = this.#bytes.subarray(0, this.#filled)
    if (!this.#exchange.begun) {
      this.#exchange.reply(200, HEADERS, rest)
      return
    }
    this.#exchange.chunk(rest)
    this.#exchange.endChunks()
  }

  #write(text: string): void {
    this.#filled += this.#bytes.write(text, this.#filled, 'latin1')
  }
}

const HEADERS: readonly Header[] = [['content-type', 'application/json']]
