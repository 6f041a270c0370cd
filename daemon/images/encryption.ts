// SPDX-License-Identifier: Apache-2.0
// TLS of the images server: whoever serves a client has the plain end and need not know, encryption is the work of the thread
// that listens alone. Used by ImagesServer; Credentials brings what the server shows.

import type { Socket } from 'node:net'
import {
  createServer,
  type SecureContextOptions,
  type Server,
  type TLSSocket,
  type TlsOptions,
} from 'node:tls'
import { closeDescriptor, localPair } from '../../native/descriptors.js'
import { Bridge, MIN_VERSION, tlsReason } from '../tls/bridge.js'

interface Beginning {
  agreed(secure: TLSSocket): void
  failed(error: Error): void
}

export class Encryption {
  readonly #server: Server
  /** Connections that do not agree on TLS yet. */
  readonly #begun = new Map<Socket, Beginning>()

  /** @throws Error for credentials that are none */
  constructor(options: TlsOptions) {
    // It never listens: connections are given to it.
    this.#server = createServer({ ...options, minVersion: MIN_VERSION })
    this.#server.on('secureConnection', (secure) => this.#beginning(secure)?.agreed(secure))
    this.#server.on('tlsClientError', (error, secure) => this.#beginning(secure)?.failed(error))
  }

  /** Connections from now on see these. @throws Error for credentials that are none, and those from before stay */
  replace(options: SecureContextOptions): void {
    this.#server.setSecureContext({ ...options, minVersion: MIN_VERSION })
  }

  /**
   * Begins to encrypt a connection.
   * @param fd    owned from now on
   * @param lost  told once when TLS cannot be agreed on
   * @returns the plain end, the caller's; or -errno
   */
  wrap(fd: number, lost: (why: string) => void): number {
    const pair = localPair()
    if (typeof pair === 'number') {
      closeDescriptor(fd)
      return pair
    }
    const [inner, outer] = pair
    const bridge = new Bridge(fd, outer)
    const { raw } = bridge
    raw.once('close', () => this.#begun.delete(raw))
    this.#begun.set(raw, {
      agreed: (secure) => bridge.join(secure),
      failed: (error) => {
        lost(`TLS: ${tlsReason(error)}`)
        bridge.end()
      },
    })
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
