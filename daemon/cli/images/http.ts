// SPDX-License-Identifier: Apache-2.0
// HTTP requests of the command line: to an images server, over some connections that are kept, or to a ticket service on its
// Unix socket. What is refused becomes one line.

import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import * as http from 'node:http'
import * as https from 'node:https'
import { errnoNumber, errnoText } from '../../common/errno.js'
import { failed, noConnection, usage } from '../status.js'
import { BodySocket } from './body-socket.js'

/** The client is refused after so long without progress, milliseconds. Listing the extents of a slow disk takes its time. */
const TIMEOUT_MS = 300_000
/** Bytes of a long body that are handed out at once, where Node gives them in less. */
const AT_ONCE = 2 ** 20

export interface HttpRequest {
  readonly method: string
  /** Behind the server's address. */
  readonly path: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string | Uint8Array
  /** The server may work on it for as long as it takes. */
  readonly patient?: boolean
}

export interface HttpReply {
  readonly status: number
  readonly body: http.IncomingMessage
}

/** A reply with a long body. */
export interface LongReply {
  readonly status: number
  /** Bytes of the body, as the server says. */
  readonly length: number
  /** In order, as long as the connection lasts; what one round gives is the next one's memory. */
  readonly body: AsyncIterable<readonly Uint8Array[]>
}

export class HttpServer {
  readonly #name: string
  readonly #options: http.RequestOptions
  readonly #secure: boolean
  readonly #agent: http.Agent

  private constructor(name: string, options: http.RequestOptions, agent: http.Agent, secure: boolean) {
    this.#name = name
    this.#options = options
    this.#agent = agent
    this.#secure = secure
  }

  /**
   * @param connections  at once
   * @param caFile       certificates of who may have signed the server's, PEM
   */
  static async at(url: URL, connections: number, caFile?: string): Promise<HttpServer> {
    const keep = { keepAlive: true, maxSockets: connections }
    const { protocol, hostname, port, host } = url
    if (protocol !== 'https:' && protocol !== 'http:')
      throw usage(`expected an http or https URL, found '${url}'`)
    const options = {
      hostname: hostname.replace(/^\[|\]$/g, ''),
      port: port || (protocol === 'https:' ? 443 : 80),
    }
    if (protocol === 'http:') return new HttpServer(host, options, new http.Agent(keep), false)
    const ca = caFile === undefined ? undefined : await readFile(caFile)
    return new HttpServer(host, options, new https.Agent({ ...keep, ...(ca && { ca }) }), true)
  }

  static onSocket(socketPath: string): HttpServer {
    return new HttpServer(socketPath, { socketPath }, new http.Agent({ keepAlive: false }), false)
  }

  /** The head of a reply; its body is the caller's to read. @throws CliError */
  async send({ method, path, headers = {}, body, patient = false }: HttpRequest): Promise<HttpReply> {
    const timeout = patient ? 0 : TIMEOUT_MS
    const options = { ...this.#options, method, path, headers, agent: this.#agent, timeout }
    const request = this.#secure ? https.request(options) : http.request(options)
    request.on('timeout', () => request.destroy(new Error('it says nothing')))
    try {
      const answered = once(request, 'response')
      request.end(body)
      const [reply] = (await answered) as [http.IncomingMessage]
      return { status: reply.statusCode ?? 0, body: reply }
    } catch (error) {
      throw this.#unusable(error)
    }
  }

  /** As send(), with the whole body. @throws CliError also for every status that is no success */
  async text(request: HttpRequest): Promise<string> {
    const { status, body } = await this.send(request)
    let text = ''
    for await (const part of body.setEncoding('utf8')) text += part
    if (status >= 200 && status < 300) return text
    throw refused(this.#name, status, text)
  }

  /** A connection for long bodies; undefined: Node's, which TLS needs. The caller's to close. */
  bodySocket(): BodySocket | undefined {
    const { hostname, port } = this.#options
    if (this.#secure) return undefined
    return new BodySocket({ host: hostname ?? '', port: Number(port), timeoutMs: TIMEOUT_MS })
  }

  /** @throws CliError */
  async get(
    path: string,
    headers: Readonly<Record<string, string>>,
    socket: BodySocket | undefined,
  ): Promise<LongReply> {
    if (socket === undefined) {
      const { status, body } = await this.send({ method: 'GET', path, headers })
      return { status, length: Number(body.headers['content-length']), body: gathered(body) }
    }
    try {
      const { status, length = 0 } = await socket.get(path, headers)
      return { status, length, body: bodyFrom(socket) }
    } catch (error) {
      throw this.#unusable(error)
    }
  }

  /** The error of a reply that was asked for. */
  async refusal({ status, body }: LongReply): Promise<Error> {
    let text = ''
    for await (const parts of body) if (text.length < 1024) text += Buffer.concat(parts).toString()
    return refused(this.#name, status, text)
  }

  close(): void {
    this.#agent.destroy()
  }

  #unusable(error: unknown): Error {
    const { code = '', message } = error as NodeJS.ErrnoException
    const errno = errnoNumber(code)
    const reason = errno === undefined ? message : errnoText(errno)
    return noConnection(`cannot use '${this.#name}': ${reason}`, { cause: error })
  }
}

async function* bodyFrom(socket: BodySocket): AsyncGenerator<readonly Uint8Array[]> {
  for (let bytes = await socket.next(); bytes !== undefined; bytes = await socket.next()) yield [bytes]
}

/** Node's pieces of 64 KiB, many together: each write has its price. */
async function* gathered(body: AsyncIterable<Buffer>): AsyncGenerator<readonly Uint8Array[]> {
  let held: Buffer[] = []
  let length = 0
  try {
    for await (const bytes of body) {
      held.push(bytes)
      length += bytes.length
      if (length < AT_ONCE) continue
      yield held
      held = []
      length = 0
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ECONNRESET') throw error
  }
  yield held
}

function refused(name: string, status: number, text: string): Error {
  const line = text.split('\n')[0]?.slice(0, 300) ?? ''
  return failed(`'${name}' refused with ${status}${line === '' ? '' : `: ${line}`}`)
}
