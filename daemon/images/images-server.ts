// SPDX-License-Identifier: Apache-2.0
// The images server: listens, and answers what is about no image or about tickets. A connection whose request names a
// ticket that may be served is handed on to its disk, and comes back when a later request is for something else.
// Rule: no client costs another one its place: when all are taken, who connected and has used no ticket longest makes room.

import type { Server, Socket } from 'node:net'
import { duplicate } from '../../native/descriptors.js'
import type { Service } from '../../protocol/http/routes.js'
import { HEAD_MS, IDLE_MS } from '../http/limits.js'
import { serveRequests } from '../http/serve.js'
import { type Handover, HttpStream } from '../http/stream.js'
import type { Encryption } from './encryption.js'
import { type Asks, FrontAnswers } from './front-answers.js'

/** Connections at once, those that were handed on among them. */
const MOST_CONNECTIONS = 1000

export interface ServerEnv extends Asks {
  /** @param handover  the receiver's from now on */
  handed(ticket: string, connection: number, handover: Handover): void
  log(level: 'info' | 'warn', fields: Readonly<Record<string, unknown>>, text: string): void
}

interface Client {
  readonly service: Service
  /** undefined while it is handed on. */
  stream: HttpStream | undefined
}

export class ImagesServer {
  readonly #env: ServerEnv
  /** By number, oldest first; those that come back are the newest. */
  readonly #clients = new Map<number, Client>()
  #next = 0
  #closed = false

  constructor(env: ServerEnv) {
    this.#env = env
  }

  /**
   * @param server      listening, with `pauseOnConnect`
   * @param encryption  nobody is served without it; undefined: there is none
   */
  serve(server: Server, service: Service, encryption?: Encryption): void {
    server.on('connection', (socket) => this.#connected(socket, service, encryption))
  }

  /** A connection is here again. @param fd  owned from now on */
  take(connection: number, fd: number, rest: Uint8Array): void {
    const client = this.#clients.get(connection)
    this.#clients.delete(connection)
    this.#begin(connection, client?.service ?? 'remote', fd, rest)
  }

  left(connection: number): void {
    this.#clients.delete(connection)
  }

  close(): void {
    this.#closed = true
    for (const { stream } of [...this.#clients.values()]) stream?.close()
  }

  /** Takes the connection over from Node, which has read nothing of it. */
  #connected(socket: Socket, service: Service, encryption: Encryption | undefined): void {
    socket.on('error', () => socket.destroy())
    const fd = (socket as unknown as { _handle?: { fd?: number } | null })._handle?.fd ?? -1
    const own = this.#makeRoom() ? duplicate(fd) : -1
    socket.destroy()
    const connection = this.#next++
    const lost = (why: string) => this.#env.log('info', { connection }, `images client lost: ${why}`)
    const plain = own < 0 || encryption === undefined ? own : encryption.wrap(own, lost)
    if (plain < 0) this.#env.log('warn', { service }, 'a client was cut off: no room is left')
    else this.#begin(connection, service, plain, new Uint8Array())
  }

  /** @returns whether there is room for one more */
  #makeRoom(): boolean {
    if (this.#clients.size < MOST_CONNECTIONS) return true
    for (const [connection, { stream }] of this.#clients) {
      if (stream === undefined) continue
      this.#clients.delete(connection)
      stream.close()
      return true
    }
    return false
  }

  #begin(connection: number, service: Service, fd: number, rest: Uint8Array): void {
    let stream: HttpStream
    try {
      stream = new HttpStream(fd, rest, { idleMs: IDLE_MS, headMs: HEAD_MS })
    } catch (error) {
      this.#env.log('warn', { connection, err: String(error) }, 'a client could not be served')
      return
    }
    const client = { service, stream }
    this.#clients.set(connection, client)
    if (this.#closed) stream.close()
    void this.#serve(connection, client)
  }

  async #serve(connection: number, client: Client & { stream: HttpStream }): Promise<void> {
    const { stream } = client
    const answers = new FrontAnswers(client.service, this.#env)
    for (;;) {
      const served = await serveRequests(stream, answers)
      if (served.kind === 'closed') {
        if (this.#clients.get(connection) === client) this.#clients.delete(connection)
        if (served.why !== undefined)
          this.#env.log('info', { connection }, `images client lost: ${served.why}`)
        return
      }
      if (await answers.admitted()) break
    }
    const handover = this.#clients.get(connection) === client ? stream.release() : undefined
    if (handover === undefined) {
      this.#clients.delete(connection)
      return
    }
    this.#clients.set(connection, { service: client.service, stream: undefined })
    this.#env.handed(answers.ticket, connection, handover)
  }
}
