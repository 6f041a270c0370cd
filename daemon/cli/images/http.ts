// SPDX-License-Identifier: Apache-2.0
// HTTP requests of the command line: to an images server, over some connections that are kept, or to a ticket service on its
// Unix socket. What is refused becomes one line.

import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import * as http from 'node:http'
import * as https from 'node:https'
import { failed, noConnection, usage } from '../status.js'

/** The client is refused after so long without progress, milliseconds. Listing the extents of a slow disk takes its time. */
const TIMEOUT_MS = 300_000

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
      const { message } = error as Error
      throw noConnection(`cannot use '${this.#name}': ${message}`, { cause: error })
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

  /** The error of a reply that was sent for. */
  async refusal({ status, body }: HttpReply): Promise<Error> {
    let text = ''
    for await (const part of body.setEncoding('utf8')) if (text.length < 1024) text += part
    return refused(this.#name, status, text)
  }

  close(): void {
    this.#agent.destroy()
  }
}

function refused(name: string, status: number, text: string): Error {
  const line = text.split('\n')[0]?.slice(0, 300) ?? ''
  return failed(`'${name}' refused with ${status}${line === '' ? '' : `: ${line}`}`)
}
