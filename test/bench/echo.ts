// SPDX-License-Identifier: Apache-2.0
// A server that answers at once and does nothing else: what the probe measures of it is the machine's own delay.
// Scheduled as the daemon that it is compared with.

import { fork } from 'node:child_process'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { fileURLToPath } from 'node:url'
import { scheduleFor } from '../../native/process.js'

export class Echo implements AsyncDisposable {
  readonly socket: string
  readonly #end: () => Promise<void>

  private constructor(socket: string, end: () => Promise<void>) {
    this.socket = socket
    this.#end = end
  }

  /** Listening in a process of its own. */
  static async start(socket: string): Promise<Echo> {
    const child = fork(fileURLToPath(import.meta.url), [socket])
    await once(child, 'message')
    return new Echo(socket, async () => {
      const ended = once(child, 'exit')
      child.kill()
      await ended
      rmSync(socket, { force: true })
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#end()
  }
}

function serve(path: string): void {
  scheduleFor('latency')
  const server = createServer((socket) => {
    socket.write('{"QMP": {}}\r\n')
    socket.on('data', (data: Buffer) => {
      for (let at = data.indexOf(10); at >= 0; at = data.indexOf(10, at + 1)) {
        socket.write('{"return": [], "id": 0}\r\n')
      }
    })
    socket.on('error', () => socket.destroy())
  })
  server.listen(path, () => process.send?.('listening'))
}

const [, script, path] = process.argv
if (script === fileURLToPath(import.meta.url) && path !== undefined) serve(path)
