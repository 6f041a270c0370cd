// SPDX-License-Identifier: Apache-2.0
// Root object of the NBD server's worker: takes the main thread's requests and answers each exactly once. The worker's entry
// makes one. File-system calls for the socket happen here: a dead one holds up only this server.

import { toWire } from '../common/worker-messages.js'
import { CommandError } from '../errors.js'
import { type Bound, listenTcp, listenUnix } from '../sockets.js'
import { StartError } from '../start-error.js'
import { Authorizer } from './authz.js'
import type { FromWorker, ListenAddress, Report, Requests, ServerSpec, ToWorker } from './messages.js'
import { NbdServer } from './nbd-server.js'
import { TlsServer } from './tls.js'

type Handlers = {
  [N in keyof Requests]: (args: Requests[N]['args']) => Promise<Requests[N]['reply']> | Requests[N]['reply']
}

export class NbdThread {
  readonly #post: (message: FromWorker) => void
  #bound: Bound | undefined
  #server: NbdServer | undefined
  #authorizer: Authorizer | undefined

  constructor(post: (message: FromWorker) => void) {
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
    listen: (spec) => this.#listen(spec),
    offer: ({ exports }) => {
      this.#server?.offer(exports)
      return null
    },
    authorize: (spec) => {
      this.#authorizer?.change(spec)
      return null
    },
    left: ({ connection }) => {
      this.#server?.left(connection)
      return null
    },
    shutdown: () => {
      this.#server?.close()
      this.#bound?.remove()
      return { left: 0 }
    },
  }

  async #listen(spec: ServerSpec): Promise<{ port: number | undefined }> {
    // Before anything is waited for: rules may change meanwhile.
    this.#authorizer = spec.authz && new Authorizer(spec.authz)
    const tls = spec.tls && (await TlsServer.load(spec.tls, this.#authorizer))
    const bound = await listenAt(spec.address)
    this.#bound = bound
    const { handshakeMs, maxConnections, firstConnection } = spec
    this.#server = new NbdServer(
      bound.server,
      { handshakeMs, maxConnections, firstConnection, tls },
      {
        chosen: (connection, fd, agreed, rest) =>
          this.#report({ kind: 'chosen', connection, fd, agreed, rest }),
        lost: (connection, why) =>
          this.#report({
            kind: 'log',
            level: 'info',
            fields: { connection },
            text: `NBD client lost in its handshake: ${why}`,
          }),
      },
    )
    const given = bound.server.address()
    return { port: typeof given === 'object' && given !== null ? given.port : undefined }
  }

  #report(report: Report): void {
    this.#post({ report })
  }
}

/** @throws CommandError */
async function listenAt(address: ListenAddress): Promise<Bound> {
  try {
    if (address.kind === 'tcp') return await listenTcp(address.host, address.port)
    return await listenUnix({ path: address.path, mode: 0o600, group: undefined })
  } catch (error) {
    if (error instanceof StartError) throw new CommandError(error.message, 'GenericError', { cause: error })
    throw error
  }
}
