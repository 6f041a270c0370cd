// SPDX-License-Identifier: Apache-2.0
// TLS of the NBD server: credentials from their files, and connections that are encrypted outside and plain inside. Whoever
// serves a client has one end of a pair of local sockets and need not know: encryption is this thread's work alone.

import { readFile } from 'node:fs/promises'
import { Socket } from 'node:net'
import { join } from 'node:path'
import { createServer, type Server, type TLSSocket, type TlsOptions } from 'node:tls'
import { localPair } from '../../native/descriptors.js'
import { ENOENT, errnoNumber, errnoText } from '../common/errno.js'
import { CommandError } from '../errors.js'
import type { TlsSpec } from './messages.js'

/** Time for what was sent last to arrive, milliseconds. */
const LINGER_MS = 10_000
/** Key exchanges with a key that both ends know; GnuTLS, which clients use, offers the same. */
const PSK_CIPHERS =
  'ECDHE-PSK-AES256-CBC-SHA384:DHE-PSK-AES256-GCM-SHA384:DHE-PSK-AES128-GCM-SHA256:PSK-AES256-GCM-SHA384:PSK-AES128-GCM-SHA256'

export class TlsServer {
  readonly #server: Server
  /** Connections that do not agree on TLS yet. */
  readonly #begun = new Map<Socket, Beginning>()

  private constructor(options: TlsOptions) {
    // It never listens: connections are given to it.
    this.#server = createServer({ ...options, minVersion: 'TLSv1.2' })
    this.#server.on('secureConnection', (secure) => this.#beginning(secure)?.agreed(secure))
    this.#server.on('tlsClientError', (error, secure) => this.#beginning(secure)?.failed(error))
  }

  /** @throws CommandError for files that cannot be read, or hold no credentials */
  static async load(spec: TlsSpec): Promise<TlsServer> {
    const options = spec.kind === 'psk' ? await pskOptions(spec) : await x509Options(spec)
    try {
      return new TlsServer(options)
    } catch (error) {
      throw new CommandError(
        `TLS credentials in '${spec.dir}' cannot be used: ${(error as Error).message}`,
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

async function x509Options({ dir, verifyPeer }: TlsSpec): Promise<TlsOptions> {
  const [cert, key] = await Promise.all([
    credentials(dir, 'server-cert.pem'),
    credentials(dir, 'server-key.pem'),
  ])
  // Without a CA, clients are not asked for a certificate, and this end shows its own alone.
  const ca = verifyPeer ? { ca: await credentials(dir, 'ca-cert.pem') } : {}
  return { cert, key, ...ca, requestCert: verifyPeer, rejectUnauthorized: verifyPeer }
}

async function pskOptions({ dir }: TlsSpec): Promise<TlsOptions> {
  const keys = parseKeys(await credentials(dir, 'keys.psk'), dir)
  return {
    ciphers: PSK_CIPHERS,
    pskCallback: (_socket: TLSSocket, user: string) => keys.get(user) ?? null,
  }
}

/** Lines of USER:KEY. */
function parseKeys(text: string, dir: string): Map<string, Buffer> {
  const keys = new Map<string, Buffer>()
  for (const line of text.split('\n')) {
    if (line.trim() === '' || line.startsWith('#')) continue
    const match = /^([^:]+):((?:[0-9a-fA-F]{2})+)\s*$/.exec(line)
    if (match === null)
      throw new CommandError(
        `'${join(dir, 'keys.psk')}' has a line that is not USER:KEY in hexadecimal digits`,
      )
    keys.set(match[1] ?? '', Buffer.from(match[2] ?? '', 'hex'))
  }
  return keys
}

async function credentials(dir: string, name: string): Promise<string> {
  const path = join(dir, name)
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    const why = errnoText(errnoNumber((error as NodeJS.ErrnoException).code ?? '') ?? ENOENT)
    throw new CommandError(`Unable to access credentials ${path}: ${why}`, 'GenericError', { cause: error })
  }
}
