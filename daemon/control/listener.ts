// SPDX-License-Identifier: Apache-2.0
// Listener: one listening socket of the control plane. The composition root binds it; connections that come before the
// daemon is ready wait here unserved, and those that come while it ends are closed.
// Local connections are taken over from Node as they come: descriptors may be sent with their first byte.

import type { Server, Socket } from 'node:net'
import type { Logger } from 'pino'
import { LocalSocket } from '../../native/local-socket.js'

/** A client's connection: of this machine, or of the network. */
export type ClientSocket = LocalSocket | Socket

export class Listener {
  readonly label: string
  /** As `query-chardev` shows it: 'unix:/run/x.sock,server=on'. */
  readonly filename: string
  #waiting: ClientSocket[] = []
  #serve: ((socket: ClientSocket) => void) | undefined
  #stopped = false
  #onFirst: (() => void) | undefined

  /** @param server  listening, with `allowHalfOpen` and `pauseOnConnect` */
  constructor(server: Server, label: string, filename: string, log: Logger) {
    this.label = label
    this.filename = filename
    server.on('connection', (socket) => {
      try {
        this.#accept(LocalSocket.takeOver(socket, { allowHalfOpen: true }) ?? socket)
      } catch (error) {
        log.error({ label, err: error }, 'client refused')
      }
    })
    server.on('error', (error) => log.error({ label, err: error }, 'control socket failed'))
  }

  /** Resolves when somebody has connected. */
  firstClient(): Promise<void> {
    if (this.#waiting.length > 0) return Promise.resolve()
    return new Promise((resolve) => {
      this.#onFirst = resolve
    })
  }

  /** From now on connections are served, those that wait first. */
  serve(serve: (socket: ClientSocket) => void): void {
    this.#serve = serve
    for (const socket of this.#waiting.splice(0)) this.#accept(socket)
  }

  stop(): void {
    this.#stopped = true
    for (const socket of this.#waiting.splice(0)) socket.destroy()
  }

  #accept(socket: ClientSocket): void {
    if (this.#stopped) socket.destroy()
    else if (this.#serve === undefined) {
      this.#waiting.push(socket)
      socket.once('error', () => socket.destroy())
      this.#onFirst?.()
    } else {
      this.#serve(socket)
      socket.resume()
    }
  }
}
