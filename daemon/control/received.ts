// SPDX-License-Identifier: Apache-2.0
// Descriptors that came over one connection and that no command took yet. Used by its session.
// Rules, the reference daemon's: descriptors come with a message, that is with some bytes of the stream. A command finds those
// of the last message that does not begin behind the command's last byte, and takes the first of them; those of older messages
// are closed then, so that no command gets what was sent with another. Unlike there, the others of the
// same message wait for the commands that follow.
// At most MOST wait. Further ones are closed as they come, and the command they came for finds none.

const MOST = 16

interface Message {
  /** Bytes of the stream before those it came with. */
  readonly position: number
  /** In the order they were sent. */
  readonly descriptors: number[]
}

export class ReceivedDescriptors {
  readonly #close: (fd: number) => void
  /** Oldest first. */
  readonly #messages: Message[] = []
  #count = 0

  /** @param close  must not wait */
  constructor(close: (fd: number) => void) {
    this.#close = close
  }

  /** No command would find one. */
  get empty(): boolean {
    return this.#count === 0
  }

  /** What comes now is not kept, unless all commands before it have begun. */
  get full(): boolean {
    return this.#count >= MOST
  }

  /**
   * @param position  bytes of the stream before those they came with
   * @param settled   all commands before it have begun, so nobody will ask for older ones
   */
  add(descriptors: readonly number[], position: number, settled: boolean): void {
    if (settled) this.#drop(this.#messages.length)
    const kept = descriptors.slice(0, MOST - this.#count)
    for (const fd of descriptors.slice(kept.length)) this.#close(fd)
    this.#messages.push({ position, descriptors: kept })
    this.#count += kept.length
  }

  /**
   * The descriptor for a command, which owns it from then on.
   * @param end  position after the command's last byte, or of a later one before the next message
   */
  take(end: number): number | undefined {
    const behind = this.#messages.findIndex(({ position }) => position >= end)
    const reached = behind < 0 ? this.#messages.length : behind
    if (reached === 0) return undefined
    this.#drop(reached - 1)
    const fd = this.#messages[0]?.descriptors.shift()
    if (fd !== undefined) this.#count--
    return fd
  }

  closeAll(): void {
    this.#drop(this.#messages.length)
  }

  #drop(messages: number): void {
    for (const { descriptors } of this.#messages.splice(0, messages)) {
      for (const fd of descriptors) this.#close(fd)
      this.#count -= descriptors.length
    }
  }
}
