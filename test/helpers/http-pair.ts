// SPDX-License-Identifier: Apache-2.0
// One HTTP connection without a server: the stream as a server has it, and the client's end of its socket.

import { once } from 'node:events'
import { Socket } from 'node:net'
import type { Test } from 'tap'
import type { Clock } from '../../daemon/common/clock.js'
import type { StreamLimits } from '../../daemon/http/limits.js'
import { HttpStream } from '../../daemon/http/stream.js'
import { localPair } from '../../native/descriptors.js'

export const LIMITS: StreamLimits = { idleMs: 60_000, headMs: 30_000 }

/** The other end of `fd`: a test writes and reads it, and closes it. */
export function socketPair(t: Test): { readonly fd: number; readonly client: Client } {
  const pair = localPair()
  if (typeof pair === 'number') throw new Error(`no sockets: ${pair}`)
  const client = new Client(pair[1])
  t.teardown(() => client.socket.destroy())
  return { fd: pair[0], client }
}

export function httpPair(t: Test, clock?: Clock): { readonly stream: HttpStream; readonly client: Client } {
  const { fd, client } = socketPair(t)
  const stream = new HttpStream(fd, new Uint8Array(), LIMITS, clock)
  t.teardown(() => stream.close())
  return { stream, client }
}

export class Client {
  readonly socket: Socket
  /** All that came, since it reads. */
  text = ''

  constructor(fd: number) {
    this.socket = new Socket({ fd, readable: true, writable: true, allowHalfOpen: true })
    this.socket.pause()
    this.socket.on('error', () => undefined)
  }

  /** Resolves when the socket has it. */
  send(text: string): Promise<void> {
    return new Promise((resolve) => this.socket.write(text, 'latin1', () => resolve()))
  }

  /** Reads from now on, until what came is enough. @throws Error when the connection ends before */
  async until(enough: (text: string) => boolean): Promise<string> {
    while (!enough(this.text)) {
      const chunk = this.socket.read() as Buffer | null
      if (chunk !== null) this.text += chunk.toString('latin1')
      else if (this.socket.readableEnded) throw new Error(`ended after ${this.text.length} bytes`)
      else await Promise.race([once(this.socket, 'readable'), once(this.socket, 'end')])
    }
    return this.text
  }
}
