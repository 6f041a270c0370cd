// SPDX-License-Identifier: Apache-2.0
// A destination for logs that never waits for its reader. Made by the composition roots; pino writes to it.
// The text is queued and written by a native task; when the queue is full it is dropped and counted.

import { addon, type NativeLog } from './binding.js'

const DEFAULT_ROOM = 1 << 20

export class LogWriter {
  readonly #native: NativeLog

  /**
   * @param fd    a descriptor of this process, usually 2; its flags are left alone
   * @param room  bytes queued at most
   */
  constructor(fd: number, room = DEFAULT_ROOM) {
    this.#native = new addon.Log(fd, room)
  }

  /** Returns at once; false when there was no room and the text is lost. */
  write(text: string): boolean {
    return this.#native.write(text)
  }

  /** Texts lost so far. */
  dropped(): number {
    return this.#native.dropped()
  }

  /** Waits until everything is written, `ms` at most: for the last words before exit. Whether everything is. */
  flushSync(ms: number): boolean {
    return this.#native.flush(ms)
  }
}
