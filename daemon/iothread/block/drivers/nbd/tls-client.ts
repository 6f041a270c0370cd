// SPDX-License-Identifier: Apache-2.0
// TLS of an NBD node's connections, as the disk's worker sees it: credentials that were read when the node was opened, and
// the thread that encrypts, which is there while there are connections. Used by dial.ts; the node's link owns it.

import { closeDescriptor, localPair } from '../../../../../native/descriptors.js'
import type { IoEngine } from '../../../../../native/types.js'
import { errnoText } from '../../../../common/errno.js'
import { CommandError } from '../../../../errors.js'
import { clientCredentials } from '../../../../tls/credential-files.js'
import { startTlsWorker, type TlsHandle } from '../../../../tls/handle.js'
import type { ClientCredentials, CredentialsPlace } from '../../../../tls/messages.js'

/** For what was sent last to arrive when the node is closed, milliseconds. */
const FAREWELL_MS = 1000

/** A connection of which TLS is agreed on. */
export interface Secured {
  /** Plain; the receiver's. */
  readonly fd: number
  /** Why it ended, for one that did; undefined: the server closed it. */
  why(): Promise<string | undefined>
}

export class TlsClient {
  readonly #credentials: ClientCredentials
  readonly #hostname: string | undefined
  #thread: TlsHandle | undefined
  #connections = 0
  #closed = false

  /**
   * @param hostname  who the server's certificate has to name
   * @throws CommandError for credentials that cannot be read, or a server that could not be recognised
   */
  static async open(
    engine: IoEngine,
    place: CredentialsPlace,
    hostname: string | undefined,
  ): Promise<TlsClient> {
    if (place.kind === 'x509' && place.verifyPeer && hostname === undefined)
      throw new CommandError("No hostname for certificate validation: set 'tls-hostname'")
    return new TlsClient(await clientCredentials(engine, place), hostname)
  }

  private constructor(credentials: ClientCredentials, hostname: string | undefined) {
    this.#credentials = credentials
    this.#hostname = hostname
  }

  /**
   * @param fd  connected to the server, which waits for TLS; owned from now on
   * @throws CommandError when TLS is not agreed on, the signal's reason when it is aborted
   */
  async secure(fd: number, signal: AbortSignal): Promise<Secured> {
    const pair = this.#closed ? 'closed' : localPair()
    if (typeof pair !== 'object') {
      closeDescriptor(fd)
      throw new CommandError(pair === 'closed' ? 'the node is being closed' : errnoText(-pair))
    }
    const [inner, plain] = pair
    const connection = this.#connections++
    const thread = this.#start()
    // The thread sees the end of the pair, and closes its own.
    const hurry = () => closeDescriptor(inner)
    signal.addEventListener('abort', hurry, { once: true })
    try {
      await thread.request('secure', { connection, fd, plain, hostname: this.#hostname })
      signal.throwIfAborted()
    } catch (error) {
      if (!signal.aborted) closeDescriptor(inner)
      throw signal.aborted ? signal.reason : error
    } finally {
      signal.removeEventListener('abort', hurry)
    }
    const why = async () => (await thread.request('ended', { connection }).catch(() => null)) ?? undefined
    return { fd: inner, why }
  }

  /** Connections should be closed before. */
  async close(): Promise<void> {
    this.#closed = true
    const thread = this.#thread
    this.#thread = undefined
    await thread?.request('shutdown', { deadlineMs: FAREWELL_MS }).catch(() => undefined)
    await thread?.terminate()
  }

  #start(): TlsHandle {
    if (this.#thread !== undefined) return this.#thread
    const thread = startTlsWorker('tls', this.#credentials)
    thread.onExit(() => {
      if (this.#thread === thread) this.#thread = undefined
    })
    this.#thread = thread
    return thread
  }
}
