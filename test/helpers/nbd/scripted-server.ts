// SPDX-License-Identifier: Apache-2.0
// An NBD server in this process whose disk is a buffer, and which misbehaves where a test's script says so: it stalls,
// lies, or hangs up. Uses the product's codecs for what is right.

import { once } from 'node:events'
import { createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import type { Test } from 'tap'
import type { Agreed } from '../../../protocol/nbd/agreed.js'
import { commandFlags, commands, transmissionFlags } from '../../../protocol/nbd/constants.js'
import { dataHead, doneReply, simpleReply, statusChunk } from '../../../protocol/nbd/reply.js'
import {
  parseRequest,
  payloadLength,
  type Request,
  requestHeaderLength,
} from '../../../protocol/nbd/request.js'
import { type OfferedExport, ServerNegotiation } from '../../../protocol/nbd/server-negotiation.js'
import { shortFolder } from '../short-folder.js'

/** A request, and the connection it came on. */
export interface Call {
  readonly request: Request
  readonly agreed: Agreed
  readonly socket: Socket
  /** Connections so far, this one included. */
  readonly connection: number
  /** What an honest server would answer; does what is asked. */
  honest(): Uint8Array
}

/** @returns what is sent; undefined: nothing */
export type Script = (call: Call) => Uint8Array | undefined

const { HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, SEND_DF } = transmissionFlags

export class ScriptedServer {
  /** Of its socket, or `tcp`. */
  readonly path: string
  readonly #port: number
  readonly disk: Buffer
  /** Requests in the order they came. */
  readonly requests: Request[] = []
  script: Script = ({ honest }) => honest()
  /** Says nothing to who connects. */
  mute = false
  connections = 0
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  readonly #offered: OfferedExport
  #came: (() => void)[] = []

  private constructor(path: string, port: number, server: Server, offered: OfferedExport) {
    this.path = path
    this.#port = port
    this.disk = Buffer.alloc(offered.size)
    this.#server = server
    this.#offered = offered
    server.on('connection', (socket) => this.#serve(socket))
  }

  /** @param path  of its socket; `tcp`: any port. Default: a new one */
  static async start(t: Test, more: Partial<OfferedExport> = {}, path?: string): Promise<ScriptedServer> {
    const place = path ?? join(shortFolder(t), 'nbd.sock')
    const server = createServer({ allowHalfOpen: true })
    server.listen(place === 'tcp' ? { host: '127.0.0.1', port: 0 } : place)
    await once(server, 'listening')
    const address = server.address()
    const port = typeof address === 'object' && address !== null ? address.port : 0
    const scripted = new ScriptedServer(place, port, server, {
      name: 'disk',
      description: '',
      size: 1 << 20,
      flags: HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES | SEND_DF,
      blockSizes: { minimum: 1, preferred: 4096, maximumPayload: 32 << 20 },
      contexts: ['base:allocation'],
      ...more,
    })
    t.teardown(() => scripted.stop())
    return scripted
  }

  /** Options of a node on it. */
  node(
    more: Record<string, unknown> = {},
  ): Record<string, unknown> & { driver: string; 'node-name': string } {
    return {
      driver: 'nbd',
      'node-name': 'n',
      server:
        this.path === 'tcp'
          ? { type: 'inet', host: '127.0.0.1', port: String(this.#port) }
          : { type: 'unix', path: this.path },
      export: 'disk',
      discard: 'unmap',
      ...more,
    }
  }

  /** Ends all connections; listens on. */
  hangUp(): void {
    for (const socket of this.#sockets) socket.destroy()
  }

  /** No longer there. */
  async stop(): Promise<void> {
    this.hangUp()
    if (!this.#server.listening) return
    this.#server.close()
    await once(this.#server, 'close')
  }

  /** Resolves when so many requests have come. */
  async came(count: number): Promise<void> {
    while (this.requests.length < count) await new Promise<void>((resolve) => this.#came.push(resolve))
  }

  #serve(socket: Socket): void {
    const connection = ++this.connections
    this.#sockets.add(socket)
    socket.on('error', () => undefined)
    socket.on('close', () => this.#sockets.delete(socket))
    socket.on('end', () => socket.end())
    if (this.mute) return
    const negotiation = new ServerNegotiation({
      find: (name) => (name === this.#offered.name ? this.#offered : undefined),
      list: () => [this.#offered],
    })
    let agreed: Agreed | undefined
    let unread: Buffer = Buffer.alloc(0)
    const step = (): void => {
      for (let step = negotiation.next(); step !== undefined && agreed === undefined; ) {
        if (step.kind === 'send') socket.write(step.bytes)
        if (step.kind === 'close') socket.end()
        if (step.kind === 'transmission') {
          agreed = step.agreed
          unread = Buffer.from(step.rest)
          return
        }
        step = negotiation.next()
      }
    }
    step()
    socket.on('data', (bytes) => {
      if (agreed === undefined) {
        negotiation.feed(bytes)
        step()
        if (agreed === undefined) return
      } else unread = Buffer.concat([unread, bytes])
      unread = this.#requests(unread, agreed, socket, connection)
    })
  }

  /** @returns what is left */
  #requests(bytes: Buffer, agreed: Agreed, socket: Socket, connection: number): Buffer {
    for (;;) {
      const request = parseRequest(bytes, 0, agreed.replies)
      if (request === undefined) return bytes
      const head = requestHeaderLength(agreed.replies)
      const length = payloadLength(request, agreed.replies)
      if (bytes.length < head + length) return bytes
      const payload = bytes.subarray(head, head + length)
      bytes = bytes.subarray(head + length)
      if (request.command === commands.DISC) {
        socket.end()
        return bytes
      }
      this.requests.push(request)
      for (const call of this.#came.splice(0)) call()
      const honest = () => this.#honest(request, payload, agreed)
      const reply = this.script({ request, agreed, socket, connection, honest })
      if (reply !== undefined && !socket.destroyed) socket.write(reply)
    }
  }

  #honest(request: Request, payload: Buffer, agreed: Agreed): Uint8Array {
    const { command, offset, length } = request
    const { replies } = agreed
    switch (command) {
      case commands.READ: {
        const data = this.disk.subarray(offset, offset + length)
        if (replies === 'simple') return Buffer.concat([simpleReply(request), data])
        return Buffer.concat([dataHead(replies, request, offset, length, true), data])
      }
      case commands.WRITE:
        payload.copy(this.disk, offset)
        break
      case commands.TRIM:
      case commands.WRITE_ZEROES:
        this.disk.fill(0, offset, offset + length)
        break
      case commands.BLOCK_STATUS:
        if (replies === 'simple') throw new Error('not agreed on')
        return statusChunk(replies, request, 0, this.#extents(offset, length), true)
    }
    return doneReply(replies, request)
  }

  /** In blocks of 4096 bytes: zero or data. */
  #extents(offset: number, length: number): { length: number; status: number }[] {
    const extents: { length: number; status: number }[] = []
    for (let at = offset; at < offset + length; ) {
      const end = Math.min(offset + length, (Math.floor(at / 4096) + 1) * 4096)
      const status = this.disk.subarray(at, end).every((byte) => byte === 0) ? 3 : 0
      const last = extents.at(-1)
      if (last !== undefined && last.status === status) last.length += end - at
      else extents.push({ length: end - at, status })
      at = end
    }
    return extents
  }
}

/** Names of commands that came, with FUA and the like. */
export function names(requests: readonly Request[]): string[] {
  const of = (table: Readonly<Record<string, number>>, number: number) =>
    Object.entries(table).flatMap(([name, value]) => (value === number ? [name] : []))[0] ?? String(number)
  return requests.map(({ command, flags }) => {
    const set = Object.entries(commandFlags).flatMap(([name, bit]) =>
      (flags & bit) !== 0 && name !== 'PAYLOAD_LEN' ? [name] : [],
    )
    return [of(commands, command), ...set].join('+')
  })
}
