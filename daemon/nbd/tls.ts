// SPDX-License-Identifier: Apache-2.0
// TLS of the NBD server: credentials from their files, and connections that are encrypted outside and plain inside. Whoever
// serves a client has one end of a pair of local sockets and need not know: encryption is this thread's work alone.

import type { Socket } from 'node:net'
import { createServer, type Server, type TLSSocket, type TlsOptions } from 'node:tls'
import { closeDescriptor, localPair } from '../../native/descriptors.js'
import { createEngine } from '../../native/engine.js'
import type { IoEngine } from '../../native/types.js'
import { CommandError } from '../errors.js'
import { Bridge, MIN_VERSION, PSK_CIPHERS, tlsReason } from '../tls/bridge.js'
import { certificates, keys } from '../tls/credential-files.js'
import type { CredentialsPlace } from '../tls/messages.js'
import { type Authorizer, identityOf } from './authz.js'

/** Longest file of credentials, bytes. */
const LONGEST_FILE = 1 << 20

export class TlsServer {
  readonly #server: Server
  /** Connections that do not agree on TLS yet. */
  readonly #begun = new Map<Socket, Beginning>()

  readonly #authorizer: Authorizer | undefined

  private constructor(options: TlsOptions, authorizer: Authorizer | undefined) {
    this.#authorizer = authorizer
    // It never listens: connections are given to it.
    this.#server = createServer({ ...options, minVersion: MIN_VERSION })
    this.#server.on('secureConnection', (secure) => this.#beginning(secure)?.agreed(secure))
    this.#server.on('tlsClientError', (error, secure) => this.#beginning(secure)?.failed(error))
  }

  /**
   * @param authorizer  decides about those with a certificate; undefined: all are welcome
   * @throws CommandError for files that cannot be read, or hold no credentials
   */
  static async load(place: CredentialsPlace, authorizer: Authorizer | undefined): Promise<TlsServer> {
    const options = await optionsFrom(place)
    try {
      return new TlsServer(options, authorizer)
    } catch (error) {
      throw new CommandError(
        `TLS credentials in '${place.dir}' cannot be used: ${(error as Error).message}`,
        'GenericError',
        { cause: error },
      )
    }
  }

  /**
   * Begins to encrypt a connection.
   * @param fd    owned from now on
   * @param rest  what came of TLS already
   * @param lost  told once when TLS cannot be agreed on
   * @returns the plain end, the caller's; or -errno
   */
  wrap(fd: number, rest: Uint8Array, lost: (why: string) => void): number {
    const pair = localPair()
    if (typeof pair === 'number') {
      closeDescriptor(fd)
      return pair
    }
    const [inner, outer] = pair
    const bridge = new Bridge(fd, outer)
    const { raw } = bridge
    const refuse = (why: string) => {
      lost(why)
      bridge.end()
    }
    raw.once('close', () => this.#begun.delete(raw))
    if (rest.length > 0) raw.unshift(rest)
    this.#begun.set(raw, {
      agreed: (secure) => void this.#admit(secure, bridge, refuse),
      failed: (error) => refuse(`TLS: ${tlsReason(error)}`),
    })
    this.#server.emit('connection', raw)
    return inner
  }

  /** Data flow when nobody objects. Never rejects but for a bug. */
  async #admit(secure: TLSSocket, bridge: Bridge, refuse: (why: string) => void): Promise<void> {
    const authorizer = this.#authorizer
    if (authorizer !== undefined) {
      secure.once('error', () => bridge.end())
      // Undefined where there is none, whatever the type says.
      const { raw } = secure.getPeerCertificate() as { raw?: Uint8Array }
      const why =
        raw === undefined
          ? 'TLS x509 authz check without a certificate'
          : await authorizer.refusal(identityOf(raw))
      if (why !== undefined) {
        refuse(why)
        return
      }
    }
    bridge.join(secure)
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

/** Read by an engine that is there for that alone. @throws CommandError */
async function optionsFrom(place: CredentialsPlace): Promise<TlsOptions> {
  const engine = createEngine({ aio: 'threads', slotSize: LONGEST_FILE, maxSlots: 1 })
  try {
    return await (place.kind === 'psk' ? pskOptions(engine, place) : x509Options(engine, place))
  } finally {
    await engine.shutdown(0)
  }
}

async function x509Options(
  engine: IoEngine,
  { dir, verifyPeer }: Extract<CredentialsPlace, { kind: 'x509' }>,
): Promise<TlsOptions> {
  const { ca, ...own } = await certificates(engine, dir, 'server')
  // Without a CA, clients are not asked for a certificate, and this end shows its own alone.
  return { ...own, ...(verifyPeer && { ca }), requestCert: verifyPeer, rejectUnauthorized: verifyPeer }
}

async function pskOptions(
  engine: IoEngine,
  place: Extract<CredentialsPlace, { kind: 'psk' }>,
): Promise<TlsOptions> {
  const known = await keys(engine, place)
  return {
    ciphers: PSK_CIPHERS,
    pskCallback: (_socket: TLSSocket, user: string) => known.get(user) ?? null,
  }
}
