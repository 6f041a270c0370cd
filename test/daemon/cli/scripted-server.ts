// SPDX-License-Identifier: Apache-2.0
// A QMP server that says what a test tells it to, for orderings a real daemon cannot be made to show.

import { createServer, type Server, type Socket } from 'node:net'
import { JsonStream } from '../../../protocol/json-stream.js'
import { toText } from '../../../protocol/json-text.js'
import { isJsonObject, type JsonObject } from '../../../protocol/json-value.js'

export const greeting = {
  QMP: { version: { qemu: { major: 0, minor: 1, micro: 0 }, package: '' }, capabilities: [] },
}

/** What the server says to a request: values to send, in this order. */
export type Script = (request: JsonObject, say: (value: unknown) => void) => void

export class ScriptedServer {
  readonly requests: JsonObject[] = []
  readonly #server: Server
  #sockets: Socket[] = []

  private constructor(script: Script, firstWords: string) {
    this.#server = createServer((socket) => {
      this.#sockets.push(socket)
      socket.on('error', () => socket.destroy())
      socket.write(firstWords)
      const parser = new JsonStream()
      const say = (value: unknown) => socket.write(`${toText(value)}\r\n`)
      socket.on('data', (bytes: Uint8Array) => {
        for (const item of parser.push(bytes)) {
          if (item.kind !== 'value' || !isJsonObject(item.value)) continue
          this.requests.push(item.value)
          if (item.value.execute === 'qmp_capabilities') say({ return: {}, id: item.value.id })
          else script(item.value, say)
        }
      })
    })
  }

  /** @param firstWords  what a client hears at once, instead of the greeting */
  static async listen(path: string, script: Script, firstWords = `${toText(greeting)}\r\n`) {
    const server = new ScriptedServer(script, firstWords)
    await new Promise<void>((resolve) => server.#server.listen(path, resolve))
    return server
  }

  /** Says something to every client. */
  say(text: string | Uint8Array): void {
    for (const socket of this.#sockets) socket.write(text)
  }

  /** Cuts every connection. */
  hangUp(): void {
    for (const socket of this.#sockets.splice(0)) socket.destroy()
  }

  async close(): Promise<void> {
    this.hangUp()
    await new Promise((resolve) => this.#server.close(resolve))
  }
}

export function event(name: string, data: object) {
  return { timestamp: { seconds: 1, microseconds: 2 }, event: name, data }
}
