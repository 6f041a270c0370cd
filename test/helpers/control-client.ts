// SPDX-License-Identifier: Apache-2.0
// A client of the control socket for tests: sends exact bytes, hands out one received line at a time.

import { connect } from 'node:net'
import type { Duplex } from 'node:stream'
import { connectLocal, sendPassing } from './local-connection.js'

export type Message = Record<string, unknown>

/** A client whose messages can carry descriptors, which stay the test's. */
export type PassingClient = ControlClient & { sendWith(text: string, passed: readonly number[]): void }

export class ControlClient {
  readonly socket: Duplex
  #text = ''
  #lines: string[] = []
  #waiting: ((line: string | undefined) => void)[] = []
  #ended = false

  private constructor(socket: Duplex) {
    this.socket = socket
    socket.setEncoding('latin1')
    socket.on('data', (text: string) => this.#received(text))
    socket.on('close', () => this.#end())
    socket.on('end', () => this.#end())
    socket.on('error', () => this.#end())
  }

  /** Connects; the greeting is the first line. */
  static open(where: string | { host: string; port: number }): Promise<ControlClient> {
    return new Promise((resolve, reject) => {
      const address = typeof where === 'string' ? { path: where } : where
      const socket = connect({ ...address, allowHalfOpen: true })
      socket.once('error', reject)
      socket.once('connect', () => {
        socket.off('error', reject)
        resolve(new ControlClient(socket))
      })
    })
  }

  /** Connects so that descriptors can be sent. */
  static async passing(path: string): Promise<PassingClient> {
    const socket = await connectLocal(path, { allowHalfOpen: true })
    return Object.assign(new ControlClient(socket), {
      sendWith: (text: string, passed: readonly number[]) => sendPassing(socket, text, passed),
    })
  }

  /** Connects, reads the greeting and negotiates. */
  static async ready(path: string, enable: readonly string[] = []): Promise<ControlClient> {
    const client = await ControlClient.open(path)
    await client.next()
    await client.call('qmp_capabilities', { enable })
    return client
  }

  /** @param text  one byte for each character */
  send(text: string): void {
    this.socket.write(text, 'latin1')
  }

  /** Next line without its end; undefined when the daemon has closed. */
  line(): Promise<string | undefined> {
    const line = this.#lines.shift()
    if (line !== undefined || this.#ended) return Promise.resolve(line)
    return new Promise((resolve) => this.#waiting.push(resolve))
  }

  async next(): Promise<Message> {
    const line = await this.line()
    if (line === undefined) throw new Error('the daemon closed the connection')
    return JSON.parse(line) as Message
  }

  /** Sends a QMP request and returns the next message. */
  call(execute: string, args?: object): Promise<Message> {
    this.send(JSON.stringify({ execute, ...(args === undefined ? {} : { arguments: args }) }))
    return this.next()
  }

  /** Everything until the daemon closes. */
  async rest(): Promise<string[]> {
    const lines: string[] = []
    for (;;) {
      const line = await this.line()
      if (line === undefined) return lines
      lines.push(line)
    }
  }

  close(): void {
    this.socket.destroy()
  }

  #received(text: string): void {
    const parts = (this.#text + text).split('\r\n')
    this.#text = parts.pop() ?? ''
    for (const line of parts) {
      const waiting = this.#waiting.shift()
      if (waiting === undefined) this.#lines.push(line)
      else waiting(line)
    }
  }

  #end(): void {
    this.#ended = true
    for (const waiting of this.#waiting.splice(0)) waiting(undefined)
  }
}
