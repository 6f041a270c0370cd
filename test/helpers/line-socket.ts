// SPDX-License-Identifier: Apache-2.0
// A connection to a control socket that keeps every line it received. Used by the replay and the live tests of clients.

import type { LocalSocket } from '../../native/local-socket.js'
import { connectLocal, sendPassing } from './local-connection.js'
import { type Clock, deadline } from './waiting.js'

export class LineSocket {
  readonly lines: string[] = []
  #closed = false
  #rest = ''
  #wake: (() => void)[] = []
  readonly #socket: LocalSocket

  private constructor(socket: LocalSocket) {
    this.#socket = socket
    socket.setEncoding('utf8')
    socket.on('data', (text: string) => this.#take(text))
    socket.on('error', () => this.#end())
    socket.on('close', () => this.#end())
  }

  /** @returns the connection; rejects with the system's error when nobody listens. */
  static async connect(path: string): Promise<LineSocket> {
    return new LineSocket(await connectLocal(path))
  }

  get closed(): boolean {
    return this.#closed
  }

  /**
   * Never waits; what the peer does not read is kept.
   * @param passed  descriptors that go along; they stay the caller's
   */
  send(data: string | Buffer, passed: readonly number[] = []): void {
    if (this.#closed) return
    if (passed.length > 0) sendPassing(this.#socket, data, passed)
    else this.#socket.write(data)
  }

  /** Half-close: no more requests, answers still come. */
  end(): void {
    this.#socket.end()
  }

  destroy(): void {
    this.#socket.destroy()
  }

  /**
   * Waits until `done` holds; it is asked again after everything that arrives and when the peer closes.
   * @returns false when the time was over first, or the peer closed and `done` still does not hold.
   */
  async until(done: () => boolean, timeoutMs: number): Promise<boolean> {
    using clock: Clock = deadline(timeoutMs)
    while (!done()) {
      if (this.#closed || clock.over) return done()
      await Promise.race([new Promise<void>((resolve) => this.#wake.push(resolve)), clock.end])
    }
    return true
  }

  #take(text: string): void {
    const parts = (this.#rest + text).split('\n')
    this.#rest = parts.pop() ?? ''
    for (const line of parts) this.lines.push(line.endsWith('\r') ? line.slice(0, -1) : line)
    this.#rouse()
  }

  #end(): void {
    this.#closed = true
    this.#rouse()
  }

  #rouse(): void {
    for (const wake of this.#wake.splice(0)) wake()
  }
}
