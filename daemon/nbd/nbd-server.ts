// SPDX-License-Identifier: Apache-2.0
// The NBD server: listens, and takes clients through their handshake. Who has chosen an export is handed on; it counts as
// a client until it is told to have left. Clients above the limit wait, ungreeted, until there is room for them.

import type { Server, Socket } from 'node:net'
import { duplicate } from '../../native/descriptors.js'
import type { Agreed } from '../../protocol/nbd/agreed.js'
import type { Exports, OfferedExport } from '../../protocol/nbd/server-negotiation.js'
import { Handshake } from './handshake.js'
import type { TlsServer } from './tls.js'

/** Clients that wait for room; more are cut off. */
const MOST_WAITING = 1024

export interface ServerOptions {
  /** 0: no limit. */
  readonly handshakeMs: number
  /** 0: no limit. */
  readonly maxConnections: number
  readonly firstConnection: number
  readonly tls: TlsServer | undefined
}

export interface ServerEvents {
  /** @param fd  the connection, the receiver's from now on */
  chosen(connection: number, fd: number, agreed: Agreed, rest: Uint8Array): void
  /** A client came to nothing. */
  lost(connection: number, why: string): void
}

export class NbdServer {
  readonly #options: ServerOptions
  readonly #events: ServerEvents
  readonly #handshakes = new Map<number, Handshake>()
  /** Clients of exports. */
  readonly #served = new Set<number>()
  readonly #waiting: Socket[] = []
  readonly #exports = new Map<string, OfferedExport>()
  #next: number

  /** @param server  listening, with `pauseOnConnect` */
  constructor(server: Server, options: ServerOptions, events: ServerEvents) {
    this.#options = options
    this.#next = options.firstConnection
    this.#events = events
    server.on('connection', (socket) => this.#connected(socket))
  }

  offer(exports: readonly OfferedExport[]): void {
    this.#exports.clear()
    for (const each of exports) this.#exports.set(each.name, each)
  }

  left(connection: number): void {
    this.#served.delete(connection)
    this.#serveWaiting()
  }

  /** Ends what handshakes there are. */
  close(): void {
    for (const socket of this.#waiting.splice(0)) socket.destroy()
    for (const handshake of [...this.#handshakes.values()]) handshake.close()
  }

  get #full(): boolean {
    const { maxConnections } = this.#options
    return maxConnections > 0 && this.#handshakes.size + this.#served.size >= maxConnections
  }

  #connected(socket: Socket): void {
    socket.on('error', () => socket.destroy())
    if (!this.#full) this.#serve(socket)
    else if (this.#waiting.length < MOST_WAITING) this.#waiting.push(socket)
    else socket.destroy()
  }

  #serveWaiting(): void {
    while (!this.#full) {
      const socket = this.#waiting.shift()
      if (socket === undefined) return
      if (!socket.destroyed) this.#serve(socket)
    }
  }

  /** Takes the connection over from Node, which has read nothing of it. */
  #serve(socket: Socket): void {
    const fd = (socket as unknown as { _handle?: { fd?: number } | null })._handle?.fd ?? -1
    const own = duplicate(fd)
    socket.destroy()
    const connection = this.#next++
    const { tls, handshakeMs } = this.#options
    if (own < 0) {
      this.#events.lost(connection, 'no descriptor is left')
      return
    }
    const gone = () => {
      this.#handshakes.delete(connection)
    }
    const end = {
      chosen: (chosen: number, agreed: Agreed, rest: Uint8Array) => {
        gone()
        this.#served.add(connection)
        this.#events.chosen(connection, chosen, agreed, rest)
      },
      over: (why: string | undefined) => {
        gone()
        if (why !== undefined) this.#events.lost(connection, why)
        this.#serveWaiting()
      },
    }
    try {
      const handshake = new Handshake(own, this.#catalogue, tls, handshakeMs, end)
      if (!handshake.ended) this.#handshakes.set(connection, handshake)
    } catch (error) {
      this.#events.lost(connection, (error as Error).message)
    }
  }

  readonly #catalogue: Exports = {
    find: (name) => this.#exports.get(name),
    list: () => [...this.#exports.values()],
  }
}
