// SPDX-License-Identifier: Apache-2.0
// The life of a connection: request after request in the order they come, each with its reply, here or lent elsewhere, until the client or a reply
// ends it or a request belongs to somebody else. Used by the images server's thread and by the exports of disks.

import { parseHead, type RequestHead } from '../../protocol/http/head.js'
import { Refusal } from '../../protocol/http/refusal.js'
import { PeerError } from '../../protocol/peer-error.js'
import { Exchange } from './exchange.js'
import { LINGER_MS, MOST_LINGERING } from './limits.js'
import type { HttpStream } from './stream.js'

/** Bytes of replies that may be queued when another request is taken. */
const MOST_QUEUED = 64 * 1024
/** Requests of one client that may be answered before others have their turn, though none of them was waited for. */
const ROW = 16

export interface Answerer {
  /** @returns whether requests like this are answered here; else the connection is to be handed on with it */
  mine(head: RequestHead): boolean
  /** @throws Refusal, which becomes the reply; everything else is told by failed() */
  answer(exchange: Exchange): Promise<void>
  /**
   * Between two requests, when nothing has come and nothing is queued: whoever can serves the client elsewhere for a while.
   * @returns resolves when the stream is back; undefined: nobody does
   */
  elsewhere?(stream: HttpStream): Promise<void> | undefined
  /** An error that is no refusal. @returns what the client is told */
  failed(exchange: Exchange, error: unknown): Refusal
}

/** How a connection went on. */
export type Served =
  | { readonly kind: 'closed'; readonly why: string | undefined }
  /** The next request is somebody else's, or the connection was wanted back; the stream is as it was. */
  | { readonly kind: 'foreign' }

/** Never rejects for what a client does; closes the stream unless it ends as foreign. */
export async function serveRequests(stream: HttpStream, answerer: Answerer): Promise<Served> {
  try {
    const foreign = await answerAll(stream, answerer)
    // Replies are the client's, whoever has its next request.
    await stream.room(0)
    if (foreign) return { kind: 'foreign' }
    stream.close()
    return { kind: 'closed', why: undefined }
  } catch (error) {
    return { kind: 'closed', why: await refusedOrLost(stream, error) }
  }
}

/** @returns whether the connection goes on with somebody else */
async function answerAll(stream: HttpStream, answerer: Answerer): Promise<boolean> {
  for (let row = 1; ; row++) {
    // Who sends request after request and takes no reply waits; others are served meanwhile.
    await stream.room(MOST_QUEUED)
    if (row % ROW === 0) await new Promise((resolve) => setImmediate(resolve))
    if (!stream.ahead && stream.waiting === 0) await answerer.elsewhere?.(stream)
    const next = await stream.next()
    if (next.kind !== 'head') return next.kind === 'wanted-back'
    const head = parseHead(next.text)
    if (!answerer.mine(head)) return true
    stream.takeHead()
    const exchange = new Exchange(head, stream, next.text)
    await answered(exchange, answerer)
    if (await exchange.finish()) continue
    await linger(stream)
    return false
  }
}

async function answered(exchange: Exchange, answerer: Answerer): Promise<void> {
  try {
    await answerer.answer(exchange)
  } catch (error) {
    if (error instanceof PeerError) throw error
    const refusal = error instanceof Refusal ? error : answerer.failed(exchange, error)
    if (exchange.begun) throw new PeerError(`a reply was cut short: ${refusal.message}`, { cause: error })
    refuse(exchange, refusal)
  }
}

export function refuse(exchange: Exchange, { status, message, headers }: Refusal): void {
  if (status === 403) exchange.endAfter()
  exchange.reply(status, [...headers, ['content-type', 'text/plain; charset=UTF-8']], `${message}\n`)
}

/** For a client that is not served: it is told why, as far as its socket takes that at once, and cut off. */
export function turnAway(stream: HttpStream, refusal: Refusal): void {
  refuse(new Exchange(UNKNOWN, stream), refusal)
  stream.close()
}

/** A head that cannot be understood is answered too, and ends the connection. */
async function refusedOrLost(stream: HttpStream, error: unknown): Promise<string> {
  if (!(error instanceof Refusal) || stream.closed) {
    stream.close()
    if (error instanceof PeerError || error instanceof Refusal) return error.message
    throw error
  }
  const exchange = new Exchange(UNKNOWN, stream)
  refuse(exchange, error)
  await linger(stream)
  stream.close()
  return error.message
}

const UNKNOWN: RequestHead = {
  ...{ method: '', target: '', headers: new Map(), contentLength: undefined, chunked: false },
  ...{ expectsContinue: false, keepAlive: false, minor: 1 },
}

/** A socket that is closed with something unread takes the reply away from the client: what comes is read for a while. */
async function linger(stream: HttpStream): Promise<void> {
  const timer = setTimeout(() => stream.close(), LINGER_MS)
  try {
    await stream.room(0)
    stream.endSending()
    const scrap = new Uint8Array(64 * 1024)
    for (let taken = 0; taken < MOST_LINGERING; ) {
      const got = await stream.receive(scrap, 0, scrap.length)
      if (got === 0) return
      taken += got
    }
  } catch (error) {
    if (!(error instanceof PeerError)) throw error
  } finally {
    clearTimeout(timer)
  }
}
