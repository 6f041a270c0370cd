// SPDX-License-Identifier: Apache-2.0
// The images server: listens, and answers what is about no image or about tickets. A connection whose request names a
// ticket that may be served is handed on to its disk, and comes back when a later request is for something else.
// Rule: every client is served, handed on, or told that there is no place for it.

import type { Server, Socket } from 'node:net'
import { duplicate } from '../../native/descriptors.js'
import { Refusal } from '../../protocol/http/refusal.js'
import type { Service } from '../../protocol/http/routes.js'
import { HEAD_MS, IDLE_MS } from '../http/limits.js'
import { serveRequests, turnAway } from '../http/serve.js'
import { type Handover, HttpStream } from '../http/stream.js'
import type { Encryption } from './encryption.js'
import { type Asks, FrontAnswers } from './front-answers.js'
import { Newcomers, PLACES } from './newcomers.js'

export interface ServerEnv extends Asks {
  /** @param handover  the receiver's from now on */
  handed(ticket: string, connection: number, handover: Handover): void
  log(level: 'info' | 'warn', fields: Readonly<Record<string, unknown>>, text: string): void
}

interface Client {
  readonly service: Service
  readonly stream: HttpStream
}

export class ImagesServer {
  readonly #env: ServerEnv
  readonly #newcomers: Newcomers<Client>
  /** Those that were handed on. */
  readonly #away = new Map<number, Service>()
  /** Services that have turned clients away since they last had a place; told once. */
  readonly #full = new Set<Service>()
  #next = 0
  #closed = false

  constructor(env: ServerEnv, places = PLACES) {
    this.#env = env
    this.#newcomers = new Newcomers(places)
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
    const service = this.#away.get(connection) ?? 'remote'
    this.#away.delete(connection)
    this.#begin(connection, service, fd, rest)
  }

  left(connection: number): void {
    this.#away.delete(connection)
  }

  close(): void {
    this.#closed = true
    for (const { stream } of this.#newcomers.all()) stream.close()
  }

  /** Takes the connection over from Node, which has read nothing of it. */
  #connected(socket: Socket, service: Service, encryption: Encryption | undefined): void {
    socket.on('error', () => socket.destroy())
    const fd = (socket as unknown as { _handle?: { fd?: number } | null })._handle?.fd ?? -1
    const own = duplicate(fd)
    socket.destroy()
    const connection = this.#next++
    const lost = (why: string) => this.#env.log('info', { connection }, `images client lost: ${why}`)
    const plain = own < 0 || encryption === undefined ? own : encryption.wrap(own, lost)
    if (plain < 0)
      this.#env.log('warn', { service, errno: -plain }, 'a client was cut off: no descriptors left')
    else this.#begin(connection, service, plain, new Uint8Array())
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
    if (this.#newcomers.add(connection, client)) this.#full.delete(service)
    else {
      this.#turnAway(client)
      return
    }
    if (this.#closed) stream.close()
    void this.#serve(connection, client)
  }

  #turnAway({ service, stream }: Client): void {
    turnAway(stream, new Refusal(503, 'the image server has no place for another client'))
    if (!this.#full.has(service))
      this.#env.log('warn', { service }, 'clients are turned away: no place is left')
    this.#full.add(service)
  }

  async #serve(connection: number, client: Client): Promise<void> {
    const { stream } = client
    const answers = new FrontAnswers(client.service, this.#env)
    for (;;) {
      const served = await serveRequests(stream, answers)
      if (served.kind === 'closed') {
        this.#newcomers.delete(connection, client)
        if (served.why !== undefined)
          this.#env.log('info', { connection }, `images client lost: ${served.why}`)
        return
      }
      if (await answers.admitted()) break
    }
    const handover = this.#newcomers.delete(connection, client) ? stream.release() : undefined
    if (handover === undefined) return
    this.#away.set(connection, client.service)
    this.#env.handed(answers.ticket, connection, handover)
  }
}
