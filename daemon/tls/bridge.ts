// SPDX-License-Identifier: Apache-2.0
// A connection that is encrypted outside and plain inside: whoever has the other end of the plain pair of sockets need not
// know of TLS. Used by both ends of it, the NBD server's thread and that of an NBD node's connections.

import { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'

/** Time for what was sent last to arrive, milliseconds. */
const LINGER_MS = 10_000

/** Key exchanges with a key that both ends know; GnuTLS, which others use, has the same. Before version 1.3. */
export const PSK_CIPHERS =
  'ECDHE-PSK-CHACHA20-POLY1305:ECDHE-PSK-AES256-CBC-SHA384:DHE-PSK-AES256-GCM-SHA384:DHE-PSK-AES128-GCM-SHA256:PSK-AES256-GCM-SHA384:PSK-AES128-GCM-SHA256'

/** The oldest version of TLS that is spoken. */
export const MIN_VERSION = 'TLSv1.2'

/** What went wrong in words: OpenSSL's own have where it went wrong in them, and a line break. */
export function tlsReason(error: Error): string {
  return 'reason' in error && typeof error.reason === 'string' ? error.reason : error.message.trim()
}

export class Bridge {
  /** The outer end. Nobody else reads it but TLS. */
  readonly raw: Socket
  readonly #plain: Socket
  #joined = false

  /**
   * @param fd     connected to the other side
   * @param plain  one end of a local pair; both are owned from now on
   */
  constructor(fd: number, plain: number) {
    this.raw = new Socket({ fd, readable: true, writable: true })
    this.#plain = new Socket({ fd: plain, readable: true, writable: true, allowHalfOpen: true })
    for (const socket of [this.raw, this.#plain])
      socket.once('error', () => this.end()).once('close', () => this.end())
    // Before that nobody reads the plain end: it closes when the handshake is given up.
    this.#plain.once('end', () => this.#joined || this.end()).resume()
  }

  /** TLS is agreed on: data may flow. @param lost  told once if it ends with an error */
  join(secure: TLSSocket, lost?: (why: string) => void): void {
    this.#joined = true
    secure.once('error', (error: Error) => {
      lost?.(tlsReason(error))
      this.end()
    })
    secure.once('close', () => this.end())
    // What was queued still goes out, to a peer that takes it.
    this.#plain.once('end', () => setTimeout(() => this.end(), LINGER_MS).unref())
    secure.pipe(this.#plain).pipe(secure)
  }

  end(): void {
    this.raw.destroy()
    this.#plain.destroy()
  }
}
