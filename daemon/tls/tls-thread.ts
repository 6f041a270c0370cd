// SPDX-License-Identifier: Apache-2.0
// Root object of the thread that encrypts an NBD node's connections: the client's end of TLS. Takes the requests of the
// disk's worker and answers each exactly once. The thread's entry makes one.
// Why a thread: encrypting costs time, and jobs of the disk, other disks among them, want theirs in the disk's worker.

import { isIP } from 'node:net'
import * as tls from 'node:tls'
import { toWire } from '../common/worker-messages.js'
import { CommandError } from '../errors.js'
import { Bridge, MIN_VERSION, PSK_CIPHERS, tlsReason } from './bridge.js'
import type { ClientCredentials, FromWorker, Requests, ToWorker } from './messages.js'

/** Reasons that are kept for who asks; the oldest goes first. */
const MOST_REASONS = 16

type Handlers = {
  [N in keyof Requests]: (args: Requests[N]['args']) => Promise<Requests[N]['reply']> | Requests[N]['reply']
}

export class TlsThread {
  readonly #credentials: ClientCredentials
  readonly #post: (message: FromWorker) => void
  readonly #bridges = new Set<Bridge>()
  /** By number of the connection, oldest first. */
  readonly #reasons = new Map<number, string>()
  #idle: () => void = () => undefined
  #context: tls.SecureContext | undefined

  constructor(credentials: ClientCredentials, post: (message: FromWorker) => void) {
    this.#credentials = credentials
    this.#post = post
  }

  /** Answers one request; never rejects. */
  async receive(message: ToWorker): Promise<void> {
    try {
      const handler = this.#handlers[message.name] as (args: unknown) => unknown
      this.#post({ reply: message.request, value: await handler(message.args) })
    } catch (error) {
      this.#post({ reply: message.request, error: toWire(error) })
    }
  }

  readonly #handlers: Handlers = {
    secure: (args) => this.#secure(args),
    ended: ({ connection }) => this.#reasons.get(connection) ?? null,
    shutdown: ({ deadlineMs }) => this.#shutdown(deadlineMs),
  }

  /** @throws CommandError when TLS cannot be agreed on; both ends are closed then */
  #secure({ connection, fd, plain, hostname }: Requests['secure']['args']): Promise<null> {
    const bridge = new Bridge(fd, plain)
    this.#bridges.add(bridge)
    bridge.raw.once('close', () => {
      this.#bridges.delete(bridge)
      if (this.#bridges.size === 0) this.#idle()
    })
    return new Promise((resolve, reject) => {
      const fail = (error: Error) => {
        bridge.end()
        reject(error instanceof CommandError ? error : new CommandError(reasonOf(error, hostname ?? '')))
      }
      bridge.raw.once('close', () => fail(new CommandError('TLS handshake: the connection was closed')))
      try {
        const secure = tls.connect({
          socket: bridge.raw,
          secureContext: this.#secureContext(),
          ...this.#optionsFor(hostname),
        })
        secure.once('error', fail)
        secure.once('secureConnect', () => {
          secure.removeListener('error', fail)
          bridge.join(secure, (why) => this.#keep(connection, why))
          resolve(null)
        })
      } catch (error) {
        fail(error as Error)
      }
    })
  }

  /** @throws CommandError for credentials that are none */
  #secureContext(): tls.SecureContext {
    const credentials = this.#credentials
    try {
      this.#context ??= tls.createSecureContext(
        credentials.kind === 'psk'
          ? { minVersion: MIN_VERSION, ciphers: PSK_CIPHERS }
          : { minVersion: MIN_VERSION, ...pick(credentials) },
      )
      return this.#context
    } catch (error) {
      const why = (error as Error).message
      throw new CommandError(
        `TLS credentials in '${credentials.dir}' cannot be used: ${why}`,
        'GenericError',
        { cause: error },
      )
    }
  }

  #optionsFor(hostname: string | undefined): tls.ConnectionOptions {
    const credentials = this.#credentials
    if (credentials.kind === 'psk') {
      const { username: identity, key: psk } = credentials
      // Who knows the key is the server: there is no name to compare.
      return { pskCallback: () => ({ identity, psk }), checkServerIdentity: () => undefined }
    }
    const named = hostname !== undefined && isIP(hostname) === 0 ? { servername: hostname } : {}
    return {
      ...named,
      rejectUnauthorized: credentials.verifyPeer,
      checkServerIdentity: (_name, certificate) => tls.checkServerIdentity(hostname ?? '', certificate),
    }
  }

  #keep(connection: number, why: string): void {
    const [oldest] = this.#reasons.keys()
    if (oldest !== undefined && this.#reasons.size >= MOST_REASONS) this.#reasons.delete(oldest)
    this.#reasons.set(connection, why)
  }

  async #shutdown(deadlineMs: number): Promise<null> {
    if (this.#bridges.size > 0)
      await new Promise<void>((resolve) => {
        this.#idle = resolve
        setTimeout(resolve, deadlineMs)
      })
    return null
  }
}

function pick({
  ca,
  crl,
  cert,
  key,
}: Extract<ClientCredentials, { kind: 'x509' }>): tls.SecureContextOptions {
  return {
    ca,
    ...(crl !== undefined && { crl }),
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
  }
}

/** OpenSSL's reasons in the words of the reference daemon. */
const reasons: Readonly<Record<string, string>> = {
  UNABLE_TO_GET_ISSUER_CERT: "The certificate hasn't got a known issuer",
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "The certificate hasn't got a known issuer",
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: "The certificate hasn't got a known issuer",
  SELF_SIGNED_CERT_IN_CHAIN: "The certificate hasn't got a known issuer",
  DEPTH_ZERO_SELF_SIGNED_CERT: "The certificate hasn't got a known issuer",
  CERT_SIGNATURE_FAILURE: 'The certificate is not trusted',
  CERT_HAS_EXPIRED: 'The certificate has expired',
  CERT_NOT_YET_VALID: 'The certificate is not yet activated',
  CERT_REVOKED: 'The certificate has been revoked',
}

function reasonOf(error: Error, hostname: string): string {
  const { code = '' } = error as NodeJS.ErrnoException
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') return `Certificate does not match the hostname ${hostname}`
  return reasons[code] ?? `TLS handshake failed: ${tlsReason(error)}`
}
