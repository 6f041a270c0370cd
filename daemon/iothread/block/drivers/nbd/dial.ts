// SPDX-License-Identifier: Apache-2.0
// Connects to an NBD server and takes it through the handshake. Used by Link. Node's sockets make the connection, since
// they look up names; a worker may wait for that. The descriptor is taken from them before they read anything.
// Rule: nothing stays open when it fails, and an abort ends it at any point.

import { connect } from 'node:net'
import { closeDescriptor, duplicate } from '../../../../../native/descriptors.js'
import { Wire, type WireUser } from '../../../../../native/wire.js'
import type { Agreed } from '../../../../../protocol/nbd/agreed.js'
import { ClientNegotiation } from '../../../../../protocol/nbd/client-negotiation.js'
import type { Closing } from '../../../../../protocol/nbd/steps.js'
import type { NbdServer } from '../../../../../protocol/nbd/uri.js'
import { errnoText } from '../../../../common/errno.js'
import { CommandError } from '../../../../errors.js'
import { type NbdTarget, serverName } from './address.js'
import type { Secured, TlsClient } from './tls-client.js'

const EAGAIN = -11
/** Bytes of one read. */
const READ = 4096
/** A host that is gone is noticed although nothing is sent, milliseconds. */
const KEEP_ALIVE_MS = 60_000
/** Bytes of the first magic number. */
const MAGIC = 8

/** A connection at the beginning of its transmission phase. */
export interface Dialled {
  /** The receiver's. */
  readonly fd: number
  readonly agreed: Agreed
  /** What came behind the handshake. */
  readonly rest: Uint8Array
}

/**
 * @param timeoutMs  for all of it
 * @throws CommandError with the reason; the signal's reason when it is aborted
 */
export async function dial(target: NbdTarget, timeoutMs: number, signal: AbortSignal): Promise<Dialled> {
  const limit = new AbortController()
  const text = `Failed to connect to '${serverName(target.server)}': the server did not answer within ${timeoutMs / 1000} s`
  const timer = setTimeout(() => limit.abort(new CommandError(text)), timeoutMs)
  const passOn = () => limit.abort(signal.reason)
  signal.addEventListener('abort', passOn)
  try {
    signal.throwIfAborted()
    const fd = await connected(target.server, limit.signal)
    return await new Promise<Dialled>((resolve, reject) => {
      try {
        new Handshake(fd, target, limit.signal, { resolve, reject })
      } catch (error) {
        // The socket cannot be watched: a limit of the machine.
        reject(connectError(target.server, error))
      }
    })
  } finally {
    clearTimeout(timer)
    signal.removeEventListener('abort', passOn)
  }
}

/** @returns a descriptor of the connected socket */
function connected(server: NbdServer, signal: AbortSignal): Promise<number> {
  return new Promise((resolve, reject) => {
    const where =
      server.kind === 'unix'
        ? { path: server.path }
        : {
            host: server.host,
            port: server.port,
            noDelay: true,
            keepAlive: true,
            keepAliveInitialDelay: KEEP_ALIVE_MS,
          }
    const socket = connect(where)
    const refuse = (error: Error) => {
      signal.removeEventListener('abort', aborted)
      socket.destroy()
      reject(error)
    }
    const aborted = () => refuse(signal.reason as Error)
    signal.addEventListener('abort', aborted)
    socket.on('error', (error) => refuse(connectError(server, error)))
    socket.once('connect', () => {
      signal.removeEventListener('abort', aborted)
      // Inside this event Node has read nothing yet.
      const fd = duplicate((socket as unknown as { _handle?: { fd?: number } | null })._handle?.fd ?? -1)
      socket.destroy()
      if (fd < 0) reject(new CommandError(`Failed to connect to '${serverName(server)}': ${errnoText(-fd)}`))
      else resolve(fd)
    })
  })
}

function connectError(server: NbdServer, error: unknown): CommandError {
  // A host with several addresses fails with one error for each.
  const cause = error instanceof AggregateError ? (error.errors[0] as unknown) : error
  const { errno, code, message } = cause as NodeJS.ErrnoException
  const name = serverName(server)
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN')
    return new CommandError(`address resolution failed for ${name}: Name or service not known`)
  const why = errno === undefined ? message : errnoText(-errno)
  return new CommandError(`Failed to connect to '${name}': ${why}`, 'GenericError', { cause })
}

interface Outcome {
  resolve(dialled: Dialled): void
  reject(error: Error): void
}

class Handshake implements WireUser {
  readonly #name: string
  readonly #outcome: Outcome
  readonly #signal: AbortSignal
  readonly #negotiation: ClientNegotiation
  readonly #tls: TlsClient | undefined
  #wire: Wire
  /** Set when TLS is on. */
  #secured: Secured | undefined
  #came = 0
  /** Something came after TLS was agreed on. */
  #answered = false
  #ended = false

  constructor(fd: number, target: NbdTarget, signal: AbortSignal, outcome: Outcome) {
    const { server, exportName, context, loneBitmap, tls } = target
    this.#name = serverName(server)
    this.#tls = tls
    this.#outcome = outcome
    this.#signal = signal
    this.#negotiation = new ClientNegotiation({
      exportName,
      replies: 'extended',
      contexts: [context],
      loneBitmap,
      tls: tls === undefined ? 'none' : 'required',
    })
    this.#wire = new Wire(fd, this)
    signal.addEventListener('abort', this.#aborted)
    if (signal.aborted) this.#aborted()
    else this.#step()
  }

  readable(): void {
    const bytes = new Uint8Array(READ)
    const got = this.#wire.receive(bytes, 0, READ)
    if (got === EAGAIN) return
    if (got <= 0) {
      void this.#over(got)
      return
    }
    this.#came += got
    this.#answered = this.#secured !== undefined
    this.#negotiation.feed(bytes.subarray(0, got))
    this.#step()
  }

  drained(): void {
    this.#step()
  }

  failed(result: number): void {
    void this.#over(result)
  }

  readonly #aborted = () => this.#fail(this.#signal.reason as Error)

  /** The connection ended. With TLS its other end knows why, if the server's reason arrived before the end did. */
  async #over(result: number): Promise<void> {
    if (!this.#wire.closed) this.#wire.want(false)
    const why = await this.#secured?.why()
    if (this.#secured === undefined || this.#answered)
      this.#fail(why === undefined ? new CommandError(this.#endText(result)) : this.#failure(`TLS: ${why}`))
    else {
      const end = why ?? (result === 0 ? 'the server closed the connection' : errnoText(-result))
      this.#fail(this.#failure(`TLS: ${end}; the server may not accept the client's credentials`))
    }
  }

  #endText(result: number): string {
    if (this.#came < MAGIC && result === 0)
      return 'Failed to read initial magic: Unexpected end-of-file before all data were read'
    const why = result === 0 ? this.#negotiation.peerClosed().message : errnoText(-result)
    return this.#failure(why).message
  }

  #failure(why: string): CommandError {
    return new CommandError(`Failed to connect to '${this.#name}': ${why}`)
  }

  #step(): void {
    while (!this.#ended) {
      // Nothing is read while something waits to be sent: a server that does not read costs one message.
      this.#wire.want(this.#wire.waiting === 0)
      if (this.#wire.waiting > 0) return
      const step = this.#negotiation.next()
      if (step === undefined) return
      switch (step.kind) {
        case 'send':
          this.#wire.put(step.bytes)
          this.#wire.flush()
          break
        case 'transmission':
          this.#handOn(step.agreed, step.rest)
          break
        case 'close':
          this.#fail(this.#refusal(step))
          break
        case 'start-tls':
          void this.#startTls()
          return
        default:
          step satisfies never
      }
    }
  }

  /** From here on the wire is the plain end of what is encrypted elsewhere. Never rejects. */
  async #startTls(): Promise<void> {
    if (this.#tls === undefined) throw new Error('TLS was not asked for')
    const fd = this.#wire.release()
    try {
      if (fd < 0) throw new CommandError(errnoText(-fd))
      const secured = await this.#tls.secure(fd, this.#signal)
      if (this.#ended) {
        closeDescriptor(secured.fd)
        return
      }
      this.#secured = secured
      this.#wire = new Wire(secured.fd, this)
    } catch (error) {
      this.#fail(
        this.#signal.aborted ? (this.#signal.reason as Error) : this.#failure((error as Error).message),
      )
      return
    }
    this.#negotiation.tlsStarted()
    this.#step()
  }

  #refusal({ why, reply }: Closing): CommandError {
    if (reply === 'ERR_UNKNOWN') return new CommandError('Requested export not available')
    if (reply === 'ERR_TLS_REQD') return this.#failure('the server requires TLS')
    return this.#failure(why?.message ?? 'the handshake ended')
  }

  #handOn(agreed: Agreed, rest: Uint8Array): void {
    if (!this.#leave()) return
    const fd = this.#wire.release()
    if (fd < 0) this.#outcome.reject(this.#failure(errnoText(-fd)))
    else this.#outcome.resolve({ fd, agreed, rest })
  }

  #fail(error: Error): void {
    if (!this.#leave()) return
    this.#wire.close()
    this.#outcome.reject(error)
  }

  /** @returns false when it has ended before */
  #leave(): boolean {
    if (this.#ended) return false
    this.#ended = true
    this.#signal.removeEventListener('abort', this.#aborted)
    return true
  }
}
