// SPDX-License-Identifier: Apache-2.0
// A client of an NBD server on a Unix socket, for tests: any number of requests at once. Simple replies, so that what it
// says of a server is said by few lines.

import { connect, type Socket } from 'node:net'
import type { Agreed } from '../../../protocol/nbd/agreed.js'
import { parseReplyHeader } from '../../../protocol/nbd/chunk.js'
import { ClientNegotiation } from '../../../protocol/nbd/client-negotiation.js'
import { commands } from '../../../protocol/nbd/constants.js'
import { formatRequest } from '../../../protocol/nbd/request.js'
import type { GuestDisk } from '../stamped-disk.js'

interface Waiting {
  /** Bytes of data that follow a reply without an error. */
  readonly length: number
  readonly resolve: (data: Buffer) => void
  readonly reject: (error: Error) => void
}

export class GuestClient implements GuestDisk {
  readonly #socket: Socket
  readonly #waiting = new Map<bigint, Waiting>()
  #agreed: Agreed | undefined
  #received = Buffer.alloc(0)
  #cookie = 0n

  private constructor(socket: Socket) {
    this.#socket = socket
  }

  static async connect(path: string, exportName: string): Promise<GuestClient> {
    const client = new GuestClient(connect(path))
    await client.#negotiate(
      new ClientNegotiation({ exportName, replies: 'simple', contexts: [], tls: 'none' }),
    )
    return client
  }

  read(offset: number, length: number): Promise<Buffer> {
    return this.#request(commands.READ, offset, length)
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    await this.#request(commands.WRITE, offset, bytes.length, bytes)
  }

  async zero(offset: number, length: number): Promise<void> {
    await this.#request(commands.WRITE_ZEROES, offset, length)
  }

  async flush(): Promise<void> {
    await this.#request(commands.FLUSH, 0, 0)
  }

  /** Ends the session; nothing may be under way. */
  end(): void {
    const request = { command: commands.DISC, flags: 0, cookie: 0n, offset: 0, length: 0 }
    this.#socket.end(formatRequest(request, 'simple'))
  }

  #request(command: number, offset: number, length: number, payload?: Uint8Array): Promise<Buffer> {
    const cookie = this.#cookie++
    const answered = new Promise<Buffer>((resolve, reject) => {
      this.#waiting.set(cookie, { length: command === commands.READ ? length : 0, resolve, reject })
    })
    this.#socket.write(formatRequest({ command, flags: 0, cookie, offset, length }, 'simple'))
    if (payload !== undefined) this.#socket.write(payload)
    return answered
  }

  #negotiate(negotiation: ClientNegotiation): Promise<void> {
    return new Promise((resolve, reject) => {
      const failed = (error: Error) => {
        reject(error)
        this.#end(error)
      }
      this.#socket.on('error', failed)
      this.#socket.on('close', () => failed(new Error('the server closed the connection')))
      this.#socket.on('data', (bytes: Buffer) => {
        if (this.#agreed !== undefined) return this.#take(bytes)
        negotiation.feed(bytes)
        for (let step = negotiation.next(); step !== undefined; step = negotiation.next()) {
          if (step.kind === 'send') this.#socket.write(step.bytes)
          else if (step.kind === 'transmission') {
            this.#agreed = step.agreed
            resolve()
            return this.#take(Buffer.from(step.rest))
          } else return failed(new Error(`negotiation ended with '${step.kind}'`))
        }
      })
    })
  }

  #take(bytes: Buffer): void {
    const agreed = this.#agreed
    if (agreed === undefined) return
    this.#received = Buffer.concat([this.#received, bytes])
    for (;;) {
      const header = parseReplyHeader(this.#received, 0, agreed)
      if (header === undefined) return
      const waiting = this.#waiting.get(header.cookie)
      if (header.kind !== 'simple' || waiting === undefined) {
        this.#end(new Error('a reply to nothing'))
        return
      }
      const length = header.error === 0 ? waiting.length : 0
      const end = header.headerLength + length
      if (this.#received.length < end) return
      this.#waiting.delete(header.cookie)
      if (header.error === 0) waiting.resolve(this.#received.subarray(header.headerLength, end))
      else waiting.reject(new Error(`NBD error ${header.error}`))
      this.#received = this.#received.subarray(end)
    }
  }

  #end(error: Error): void {
    this.#socket.destroy()
    for (const { reject } of this.#waiting.values()) reject(error)
    this.#waiting.clear()
  }
}
