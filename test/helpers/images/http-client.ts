// SPDX-License-Identifier: Apache-2.0
// HTTP requests over a Unix socket, and raw connections for what no HTTP library would send.

import { once } from 'node:events'
import * as http from 'node:http'
import { connect, type Socket } from 'node:net'

export interface HttpReply {
  readonly status: number
  readonly headers: http.IncomingHttpHeaders
  readonly bytes: Buffer
  readonly text: string
}

/** One request on a connection of its own, or one of the agent's. */
export async function request(
  socketPath: string,
  method: string,
  path: string,
  headers: Readonly<Record<string, string>> = {},
  body?: string | Uint8Array,
  agent?: http.Agent,
): Promise<HttpReply> {
  const sent = http.request({ socketPath, method, path, headers, agent: agent ?? false })
  const came = once(sent, 'response')
  sent.end(body)
  const [reply] = (await came) as [http.IncomingMessage]
  const parts: Buffer[] = []
  for await (const part of reply) parts.push(part as Buffer)
  const bytes = Buffer.concat(parts)
  return { status: reply.statusCode ?? 0, headers: reply.headers, bytes, text: bytes.toString() }
}

/** A connection whose bytes a test writes and reads itself. */
export class RawConnection {
  readonly socket: Socket
  #text = ''
  #ended = false
  #wake: (() => void) | undefined

  constructor(where: string | { port: number; host: string }) {
    this.socket = typeof where === 'string' ? connect({ path: where }) : connect(where)
    this.socket.on('data', (bytes) => this.#came(bytes.toString('latin1')))
    this.socket.on('error', () => this.#end())
    this.socket.on('close', () => this.#end())
  }

  send(text: string | Uint8Array): void {
    this.socket.write(text)
  }

  /** As send(); resolves when the kernel has it. */
  sent(text: string | Uint8Array): Promise<void> {
    return new Promise((resolve) => this.socket.write(text, () => resolve()))
  }

  /** All that came, when it matches. @throws Error when the connection ends before */
  async until(enough: RegExp | ((text: string) => boolean)): Promise<string> {
    const matches = typeof enough === 'function' ? enough : (text: string) => enough.test(text)
    while (!matches(this.#text)) {
      if (this.#ended) throw new Error(`ended after ${JSON.stringify(this.#text)}`)
      await this.#change()
    }
    return this.#text
  }

  /** All that came until the other side closed. */
  async closed(): Promise<string> {
    while (!this.#ended) await this.#change()
    return this.#text
  }

  [Symbol.dispose](): void {
    this.socket.destroy()
  }

  #came(text: string): void {
    this.#text += text
    this.#wake?.()
  }

  #end(): void {
    this.#ended = true
    this.#wake?.()
  }

  #change(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve
    })
  }
}
