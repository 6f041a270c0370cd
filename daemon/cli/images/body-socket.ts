// SPDX-License-Identifier: Apache-2.0
// A connection to an HTTP server for replies with long bodies: their bytes come into memory that is used again. Used by
// downloads without TLS. (Node's own client makes new memory of each 64 KiB that come.)
//
// Two pieces of memory by turns: one is filled while the other is written to a file. When both are full the server waits.

import * as net from 'node:net'
import { findHeadEnd } from '../../../protocol/http/head.js'
import { parseReplyHead, type ReplyHead } from '../../../protocol/http/reply-head.js'

/** Bytes handed out at once at most. */
const PIECE = 2 ** 20

export interface BodyAddress {
  readonly host: string
  readonly port: number
  /** The server is given up after so long without a word, milliseconds. */
  readonly timeoutMs: number
}

export class BodySocket implements Disposable {
  readonly #address: BodyAddress
  readonly #memory = [Buffer.allocUnsafeSlow(PIECE), Buffer.allocUnsafeSlow(PIECE)] as const
  /** Handed out next, in order; each in the piece of memory of its index. */
  readonly #ready: { readonly index: 0 | 1; readonly bytes: Buffer }[] = []
  #socket: net.Socket | undefined
  /** Why there is no connection any more. */
  #lost: Error | undefined
  /** The piece that is being filled, and where its bytes are that nobody has yet. */
  #index: 0 | 1 = 0
  #from = 0
  #to = 0
  /** The piece that was handed out last. */
  #held: 0 | 1 | undefined
  #paused = false
  #head: ReplyHead | undefined
  /** Bytes of the body that are still to come; undefined: its head has not come. */
  #left: number | undefined
  #wake: (() => void) | undefined

  constructor(address: BodyAddress) {
    this.#address = address
  }

  /** The head of the reply. Its body is next()'s, and must be read to its end. @throws Error of the connection */
  async get(path: string, headers: Readonly<Record<string, string>>): Promise<ReplyHead> {
    const used = this.#socket !== undefined
    try {
      return await this.#ask(path, headers)
    } catch (error) {
      // Servers close connections that are idle, sometimes just now.
      if (!used || this.#to > 0) throw error
      return await this.#ask(path, headers)
    }
  }

  /** @returns bytes, which stay as they are until the next call; undefined after the last, or when the connection is lost */
  async next(): Promise<Buffer | undefined> {
    this.#held = undefined
    this.#goOn()
    while (this.#ready.length === 0 && this.#left !== 0 && this.#lost === undefined) await this.#something()
    const piece = this.#ready.shift()
    if (piece === undefined && (this.#left !== 0 || this.#head?.keepAlive !== true)) this[Symbol.dispose]()
    this.#held = piece?.index
    this.#goOn()
    return piece?.bytes
  }

  [Symbol.dispose](): void {
    const socket = this.#socket
    this.#socket = undefined
    socket?.destroy()
  }

  async #ask(path: string, headers: Readonly<Record<string, string>>): Promise<ReplyHead> {
    const { host: name, port } = this.#address
    const host = `${net.isIPv6(name) ? `[${name}]` : name}:${port}`
    const lines = Object.entries({ host, ...headers }).map(([each, value]) => `${each}: ${value}\r\n`)
    this.#head = undefined
    this.#left = undefined
    this.#socket ??= this.#connect()
    this.#socket.write(`GET ${path} HTTP/1.1\r\n${lines.join('')}\r\n`, 'latin1')
    while (this.#head === undefined) {
      if (this.#lost !== undefined) throw this.#lost
      await this.#something()
    }
    return this.#head
  }

  #connect(): net.Socket {
    const { host, port, timeoutMs } = this.#address
    this.#lost = undefined
    this.#paused = false
    this.#from = 0
    this.#to = 0
    const socket = net.connect({
      ...{ host, port },
      onread: {
        buffer: () => this.#memory[this.#index].subarray(this.#to),
        callback: (bytes) => this.#came(bytes),
      },
    })
    const lose = (error: Error) => {
      if (this.#socket !== socket) return
      this.#lost = error
      this[Symbol.dispose]()
      this.#wake?.()
    }
    socket.setNoDelay(true).setTimeout(timeoutMs)
    socket.on('error', lose)
    socket.on('end', () => lose(new Error('it closed the connection')))
    // Who waits for the file does not wait for the server.
    socket.on('timeout', () => this.#paused || lose(new Error('it says nothing')))
    return socket
  }

  /** @returns false: no more for now */
  #came(bytes: number): boolean {
    this.#to += bytes
    try {
      if (this.#left === undefined) this.#parseHead()
      if (this.#left !== undefined) this.#take(this.#left)
    } catch (error) {
      this.#socket?.destroy(error as Error)
    }
    this.#wake?.()
    return !this.#paused
  }

  #parseHead(): void {
    const memory = this.#memory[this.#index]
    const end = findHeadEnd(memory, 0, this.#to)
    if (end === undefined) {
      if (this.#to === PIECE) throw new Error('its answer does not begin as a reply does')
      return
    }
    const head = parseReplyHead(memory.toString('latin1', 0, end))
    if (head === undefined) throw new Error('its answer is no HTTP reply')
    if (head.length === undefined)
      throw new Error(
        head.status < 300 ? 'it does not say how much it sends' : `it refused with ${head.status}`,
      )
    this.#head = head
    this.#left = head.length
    this.#from = end
  }

  /** What came of the body becomes ready when its piece is full, or no more comes. */
  #take(left: number): void {
    const length = this.#to - this.#from
    if (length > left) throw new Error('it sends more than it said')
    if (length < left && this.#to < PIECE) return
    if (length > 0) {
      const bytes = this.#memory[this.#index].subarray(this.#from, this.#to)
      this.#ready.push({ index: this.#index, bytes })
      this.#index = this.#index === 0 ? 1 : 0
    }
    this.#left = left - length
    this.#from = 0
    this.#to = 0
    this.#paused = this.#isFull()
  }

  /** Whether what is to be filled next is not written yet. */
  #isFull(): boolean {
    return this.#held === this.#index || this.#ready.some(({ index }) => index === this.#index)
  }

  #goOn(): void {
    if (!this.#paused || this.#isFull()) return
    this.#paused = false
    // What ran out meanwhile does not begin again by itself.
    this.#socket?.setTimeout(this.#address.timeoutMs).resume()
  }

  #something(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve
    })
  }
}
