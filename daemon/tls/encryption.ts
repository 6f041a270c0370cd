// SPDX-License-Identifier: Apache-2.0
// Connections that are encrypted outside and plain inside. Whoever serves a client has one end of a pair of local sockets and
// need not know: encryption is the work of the thread that listens alone. Used by servers, which bring the credentials.

import { Socket } from 'node:net'
import {
  createServer,
  type SecureContextOptions,
  type Server,
  type TLSSocket,
  type TlsOptions,
} from 'node:tls'
import { localPair } from '../../native/descriptors.js'

/** Time for what was sent last to arrive, milliseconds. */
const LINGER_MS = 10_000

export class Encryption {
  readonly #server: Server
  /** Connections that do not agree on TLS yet. */
  readonly #begun = new Map<Socket, Beginning>()

  /** @throws Error for credentials that are none */
  constructor(options: TlsOptions) {
    // It never listens: connections are given to it.
    this.#server = createServer({ ...options, minVersion: 'TLSv1.2' })
    this.#server.on('secureConnection', (secure) => this.#beginning(secure)?.agreed(secure))
    this.#server.on('tlsClientError', (error, secure) => this.#beginning(secure)?.failed(error))
  }

  /** Connections from now on see these. @throws Error for credentials that are none, and those from before stay */
  replace(options: SecureContextOptions): void {
    this.#server.setSecureContext({ ...options, minVersion: 'TLSv1.2' })
  }

  /**
   * Begins to encrypt a connection.
   * @param fd    owned from now on
   * @param rest  what came of TLS already
   * @param lost  told once when TLS cannot be agreed on
   * @returns the plain end, the caller's; or -errno
   */
  wrap(fd: number, rest: Uint8Array, lost: (why: string) => void): number {
    const raw = new Socket({ fd, readable: true, writable: true })
    const pair = localPair()
    if (typeof pair === 'number') {
      raw.destroy()
      return pair
    }
    const [inner, outer] = pair
    const plain = new Socket({ fd: outer, readable: true, writable: true, allowHalfOpen: true })
    const end = () => {
      raw.destroy()
      plain.destroy()
    }
    for (const socket of [raw, plain]) socket.once('error', end).once('close', end)
    raw.once('close', () => this.#begun.delete(raw))
    if (rest.length > 0) raw.unshift(rest)
    this.#begun.set(raw, {
      agreed: (secure) => {
        secure.once('error', end).once('close', end)
        // What was queued still goes out, to a client that takes it.
        plain.once('end', () => setTimeout(end, LINGER_MS).unref())
        secure.pipe(plain).pipe(secure)
      },
      failed: (error) => {
        lost(`TLS: ${error.message}`)
        end()
      },
    })
    // Before that nobody reads the plain end: it closes when the handshake is given up.
    plain.once('end', () => this.#begun.has(raw) && end()).resume()
    this.#server.emit('connection', raw)
    return inner
  }

  #beginning(secure: TLSSocket): Beginning | undefined {
    const raw = (secure as unknown as { _parent?: Socket })._parent
    const found = raw === undefined ? undefined : this.#begun.get(raw)
    if (raw !== undefined) this.#begun.delete(raw)
    return found
  }
}

interface Beginning {
  agreed(secure: TLSSocket): void
  failed(error: Error): void
}
