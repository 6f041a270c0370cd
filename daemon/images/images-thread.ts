// SPDX-License-Identifier: Apache-2.0
// Root object of the images server's worker: takes the main thread's requests and answers each exactly once. The worker's
// entry makes one. File-system calls for the sockets happen here: a dead one holds up only this server.

import { toWire } from '../common/worker-messages.js'
import { CommandError } from '../errors.js'
import { type Bound, listenTcp, listenUnix } from '../sockets.js'
import { StartError } from '../start-error.js'
import { Credentials } from './credentials.js'
import { ImagesServer } from './images-server.js'
import type { FromWorker, ImagesAddress, ListenSpec, Requests, ToWorker } from './messages.js'
import { Questions } from './questions.js'

type Handlers = {
  [N in keyof Requests]: (args: Requests[N]['args']) => Promise<Requests[N]['reply']> | Requests[N]['reply']
}

export class ImagesThread {
  readonly #post: (message: FromWorker) => void
  readonly #questions: Questions
  readonly #server: ImagesServer
  readonly #bound: Bound[] = []
  readonly #credentials: Credentials[] = []

  constructor(post: (message: FromWorker) => void) {
    this.#post = post
    this.#questions = new Questions((number, question) =>
      post({ report: { kind: 'question', number, question } }),
    )
    this.#server = new ImagesServer({
      ask: (question) => this.#questions.ask(question),
      handed: (ticket, connection, { fd, rest }) =>
        post({ report: { kind: 'handed', ticket, connection, fd, rest } }),
      log: (level, fields, text) => post({ report: { kind: 'log', level, fields, text } }),
    })
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
    reload: async () => {
      await Promise.all(this.#credentials.map((each) => each.reload()))
      return null
    },
    answer: ({ question, answer }) => {
      this.#questions.answer(question, answer)
      return null
    },
    take: ({ connection, fd, rest }) => {
      this.#server.take(connection, fd, rest)
      return null
    },
    left: ({ connection }) => {
      this.#server.left(connection)
      return null
    },
    shutdown: () => {
      this.#server.close()
      for (const bound of this.#bound) bound.remove()
      return { left: 0 }
    },
  }

  async #listen({ service, address }: ListenSpec): Promise<{ port: number | undefined }> {
    const files = address.kind === 'tcp' ? address.tls : undefined
    const credentials = files === undefined ? undefined : await Credentials.load(files)
    const bound = await listenAt(address)
    this.#bound.push(bound)
    if (credentials !== undefined) this.#credentials.push(credentials)
    this.#server.serve(bound.server, service, credentials?.encryption)
    const given = bound.server.address()
    return { port: typeof given === 'object' && given !== null ? given.port : undefined }
  }
}

/** @throws CommandError */
async function listenAt(address: ImagesAddress): Promise<Bound> {
  try {
    if (address.kind === 'tcp') return await listenTcp(address.host, address.port)
    return await listenUnix({ path: address.path, mode: address.mode, group: undefined })
  } catch (error) {
    if (error instanceof StartError) throw new CommandError(error.message, 'GenericError', { cause: error })
    throw error
  }
}
