// SPDX-License-Identifier: Apache-2.0
// A client for tests of the server: sends what it is told to, also what is wrong, and reads replies with the codecs. Whatever
// a reply may not be is an error: data twice or never, cookies nobody has, bytes between replies.

import { once } from 'node:events'
import type { Socket } from 'node:net'
import type { Agreed } from '../../../protocol/nbd/agreed.js'
import {
  parseDataHead,
  parseError,
  parseHole,
  parseReplyHeader,
  parseStatus,
  type ReplyHeader,
} from '../../../protocol/nbd/chunk.js'
import { ClientNegotiation, type ClientWishes } from '../../../protocol/nbd/client-negotiation.js'
import { commandFlags, commands } from '../../../protocol/nbd/constants.js'
import { ReadCover } from '../../../protocol/nbd/read-cover.js'
import type { StatusExtent } from '../../../protocol/nbd/reply.js'
import { formatRequest } from '../../../protocol/nbd/request.js'

export interface Ask {
  readonly command: number
  readonly offset: number
  readonly length: number
  /** Bits of commandFlags. */
  readonly flags?: number
  readonly payload?: Uint8Array
}

export interface Answer {
  /** As sent, 0: done. */
  readonly error: number
  readonly text: string
  /** Where in the export the error was, if it was said. */
  readonly at: number | undefined
  /** Of a READ that was done. */
  readonly data: Buffer
  /** Chunks of the reply that were not the last word alone: data, holes, status. */
  readonly chunks: readonly string[]
  /** Extents by the id of their context. */
  readonly status: ReadonlyMap<number, readonly StatusExtent[]>
}

interface Waiting {
  readonly ask: Ask
  readonly data: Buffer
  readonly cover: ReadCover
  readonly chunks: string[]
  readonly status: Map<number, readonly StatusExtent[]>
  error: { error: number; text: string; offset: number | undefined } | undefined
  readonly resolve: (answer: Answer) => void
  readonly reject: (error: Error) => void
}

export class NbdClient {
  readonly socket: Socket
  readonly agreed: Agreed
  readonly #waiting = new Map<bigint, Waiting>()
  #inbox: Buffer
  /** What came and is not looked at before so many more bytes are there. */
  readonly #came: Buffer[] = []
  #missing = 0
  #cookie = 1n
  /** Why there will be no more replies. */
  #broken: Error | undefined

  constructor(socket: Socket, agreed: Agreed, rest: Uint8Array = new Uint8Array()) {
    this.socket = socket
    this.agreed = agreed
    this.#inbox = Buffer.from(rest)
    socket.on('data', (bytes: Buffer) => this.#feed(bytes))
    socket.on('end', () => this.#break(new Error('the server ended the connection')))
    socket.on('close', () => this.#break(new Error('the connection is closed')))
    socket.on('error', (error) => this.#break(error))
  }

  /** Requests without a reply yet. */
  get unanswered(): number {
    return this.#waiting.size
  }

  /** The bytes of a request, and its answer when they were sent. */
  prepare(ask: Ask): { bytes: Buffer; answer: Promise<Answer> } {
    const cookie = this.#cookie++
    const header = formatRequest({ flags: 0, ...ask, cookie }, this.agreed.replies)
    const answer = new Promise<Answer>((resolve, reject) => {
      if (this.#broken !== undefined) return reject(this.#broken)
      const read = ask.command === commands.READ
      this.#waiting.set(cookie, {
        ask,
        data: Buffer.alloc(read ? Math.min(ask.length, 64 << 20) : 0, 0xee),
        cover: new ReadCover(ask),
        chunks: [],
        status: new Map(),
        error: undefined,
        resolve,
        reject,
      })
    })
    answer.catch(() => undefined) // whoever awaits it hears of it
    return { bytes: Buffer.concat([header, ask.payload ?? new Uint8Array()]), answer }
  }

  request(ask: Ask): Promise<Answer> {
    const { bytes, answer } = this.prepare(ask)
    this.socket.write(bytes)
    return answer
  }

  read(offset: number, length: number, flags = 0): Promise<Answer> {
    return this.request({ command: commands.READ, offset, length, flags })
  }

  write(offset: number, payload: Uint8Array, flags = 0): Promise<Answer> {
    const long = this.agreed.replies === 'extended' ? commandFlags.PAYLOAD_LEN : 0
    const length = payload.length
    return this.request({ command: commands.WRITE, offset, length, flags: flags | long, payload })
  }

  disconnect(): void {
    const cookie = this.#cookie++
    this.socket.write(
      formatRequest({ command: commands.DISC, flags: 0, cookie, offset: 0, length: 0 }, this.agreed.replies),
    )
  }

  /** Resolves when the server has ended the connection. */
  async ended(): Promise<void> {
    if (this.#broken === undefined) await Promise.race([once(this.socket, 'end'), once(this.socket, 'close')])
  }

  #feed(bytes: Buffer): void {
    this.#came.push(bytes)
    this.#missing -= bytes.length
    if (this.#missing > 0) return
    this.#inbox = Buffer.concat([this.#inbox, ...this.#came.splice(0)])
    this.#missing = 0
    try {
      let at = 0
      for (let took = this.#reply(at); took > 0; took = this.#reply(at)) at += took
      this.#inbox = this.#inbox.subarray(at)
    } catch (error) {
      this.#break(error as Error)
      this.socket.destroy()
    }
  }

  /** @returns bytes taken; 0 while a whole message is not there */
  #reply(at: number): number {
    const header = parseReplyHeader(this.#inbox, at, this.agreed)
    if (header === undefined) return 0
    const waiting = this.#waiting.get(header.cookie)
    if (waiting === undefined) throw new Error(`a reply to nothing, cookie ${header.cookie}`)
    const from = at + header.headerLength
    const length = payloadOf(header, waiting.ask)
    this.#missing = from + length - this.#inbox.length
    if (this.#missing > 0) return 0
    const payload = this.#inbox.subarray(from, from + length)
    if (header.kind === 'simple') takeSimple(header.error, payload, waiting)
    else takeChunk(header, payload, waiting)
    if (header.kind === 'simple' || header.done) {
      this.#waiting.delete(header.cookie)
      settle(waiting)
    }
    return header.headerLength + length
  }

  #break(error: Error): void {
    this.#broken ??= error
    for (const { reject } of this.#waiting.values()) reject(this.#broken)
    this.#waiting.clear()
  }
}

function payloadOf(header: ReplyHeader, ask: Ask): number {
  if (header.kind === 'chunk') return header.payloadLength
  return header.error === 0 && ask.command === commands.READ ? ask.length : 0
}

function takeSimple(error: number, payload: Uint8Array, waiting: Waiting): void {
  if (error !== 0) waiting.error = { error, text: '', offset: undefined }
  else if (payload.length > 0) takeData(waiting.ask.offset, payload, waiting)
}

function takeData(offset: number, data: Uint8Array, { ask, cover, data: into }: Waiting): void {
  cover.add(offset, data.length)
  into.set(data, offset - ask.offset)
}

function takeChunk(
  { type, wireOffset }: Extract<ReplyHeader, { kind: 'chunk' }>,
  payload: Uint8Array,
  waiting: Waiting,
): void {
  if (wireOffset !== undefined && wireOffset !== BigInt(waiting.ask.offset))
    throw new Error(`a reply that says offset ${wireOffset} to a request at ${waiting.ask.offset}`)
  if (type !== 'NONE') waiting.chunks.push(type)
  switch (type) {
    case 'OFFSET_DATA':
      takeData(parseDataHead(payload), payload.subarray(8), waiting)
      break
    case 'OFFSET_HOLE': {
      const { offset, length } = parseHole(payload)
      takeData(offset, new Uint8Array(length), waiting)
      break
    }
    case 'BLOCK_STATUS':
    case 'BLOCK_STATUS_EXT': {
      const { contextId, extents } = parseStatus(type, payload)
      if (waiting.status.has(contextId)) throw new Error(`status of context ${contextId} twice`)
      waiting.status.set(contextId, extents)
      break
    }
    case 'ERROR':
    case 'ERROR_OFFSET':
      waiting.error ??= parseError(type, payload)
  }
}

function settle({ ask, data, cover, chunks, status, error, resolve, reject }: Waiting): void {
  if (error === undefined && ask.command === commands.READ && cover.missing > 0)
    reject(new Error(`a read that was done without ${cover.missing} of its bytes`))
  else resolve({ error: error?.error ?? 0, text: error?.text ?? '', at: error?.offset, data, chunks, status })
}

/** Takes a connection through its handshake. Rejects when the server does not want it. */
export async function negotiate(socket: Socket, wishes: Partial<ClientWishes> = {}): Promise<NbdClient> {
  const negotiation = new ClientNegotiation({
    exportName: '',
    replies: 'structured',
    contexts: [],
    tls: 'none',
    ...wishes,
  })
  return await new Promise<NbdClient>((resolve, reject) => {
    const refuse = (error: Error) => reject(error)
    const gone = () => reject(negotiation.peerClosed())
    const feed = (bytes: Buffer) => {
      negotiation.feed(bytes)
      for (let step = negotiation.next(); step !== undefined; step = negotiation.next()) {
        if (step.kind === 'send') socket.write(step.bytes)
        else if (step.kind === 'transmission') {
          socket.off('data', feed).off('error', refuse).off('end', gone).off('close', gone)
          resolve(new NbdClient(socket, step.agreed, step.rest))
          return
        } else {
          reject(step.kind === 'close' ? (step.why ?? new Error('refused')) : new Error(step.kind))
          return
        }
      }
    }
    socket.on('data', feed).on('error', refuse).on('end', gone).on('close', gone)
  })
}
