// SPDX-License-Identifier: Apache-2.0
// A daemon that serves images over HTTP, for tests: its sockets in a folder of its own, tickets over its control socket.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { PROGRAM } from '../daemon-process.js'
import type { Scratch } from '../scratch.js'
import { type HttpReply, request } from './http-client.js'

export class ImagesDaemon {
  readonly scratch: Scratch
  readonly #child: ChildProcess
  readonly #waiting: { readonly pattern: RegExp; resolve(): void }[] = []
  /** http://127.0.0.1:PORT */
  readonly url: string

  private constructor(scratch: Scratch, child: ChildProcess, url: string) {
    this.scratch = scratch
    this.#child = child
    this.url = url
    child.stderr!.on('data', (bytes: Buffer) => this.#log(bytes.toString()))
    child.stderr!.resume()
  }

  /** Resolves when it logs a line like this, from now on. */
  logged(pattern: RegExp): Promise<void> {
    return new Promise((resolve) => this.#waiting.push({ pattern, resolve }))
  }

  #log(text: string): void {
    for (const each of this.#waiting.splice(0))
      if (each.pattern.test(text)) each.resolve()
      else this.#waiting.push(each)
  }

  /**
   * @param control  behind the path of the control socket
   * @param env      besides that of the test
   */
  static async start(
    scratch: Scratch,
    more: readonly string[] = [],
    control = '',
    env: NodeJS.ProcessEnv = {},
  ): Promise<ImagesDaemon> {
    const tickets = ['--images-control', `${scratch.file('control')}${control}`]
    const sockets = ['--images-local', scratch.file('local'), ...tickets]
    const all = ['--log-level', 'info', '--socket', scratch.file('qmp'), ...sockets]
    const args = [PROGRAM, ...all, '--images', 'http://127.0.0.1:0', ...more]
    const child = spawn(process.execPath, args, {
      ...{ stdio: ['ignore', 'inherit', 'pipe'], env: { ...process.env, ...env } },
    })
    const lines = createInterface({ input: child.stderr! })
    let port: number | undefined
    for await (const line of lines) {
      const entry = JSON.parse(line) as { msg: string; service?: string; port?: number }
      if (entry.service === 'remote') port = entry.port
      if (entry.msg === 'ready') break
    }
    return new ImagesDaemon(scratch, child, `http://127.0.0.1:${port}`)
  }

  get control(): string {
    return this.scratch.file('control')
  }
  get local(): string {
    return this.scratch.file('local')
  }
  get pid(): number {
    return this.#child.pid!
  }

  /** A request to the control service. */
  tickets(method: string, path: string, body?: object | string): Promise<HttpReply> {
    const text = body === undefined || typeof body === 'string' ? body : JSON.stringify(body)
    return request(this.control, method, `/tickets/${path}`, {}, text)
  }

  /** A request to the local service. */
  images(
    method: string,
    path: string,
    headers: Readonly<Record<string, string>> = {},
    body?: string | Uint8Array,
  ): Promise<HttpReply> {
    return request(this.local, method, `/images/${path}`, headers, body)
  }

  /** Adds a ticket on a file of the folder. */
  async ticket(id: string, file: string, size: number, more: object = {}): Promise<void> {
    const url = `file://${this.scratch.file(file)}`
    const { status, text } = await this.tickets('PUT', id, {
      ...{ uuid: id, size, ops: ['write'], timeout: 300, url, sparse: true },
      ...more,
    })
    if (status !== 200) throw new Error(text)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const exited = once(this.#child, 'exit')
    this.#child.kill()
    await exited
  }
}
