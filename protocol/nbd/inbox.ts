// SPDX-License-Identifier: Apache-2.0
// Bytes of a handshake that have come and are not used yet. Used by both negotiations.
// Rule: costs are linear in what comes, however small the pieces; it grows with what is unread and no further.

export class Inbox {
  #bytes = new Uint8Array(512)
  #start = 0
  #end = 0

  get length(): number {
    return this.#end - this.#start
  }

  push(bytes: Uint8Array): void {
    if (this.#end + bytes.length > this.#bytes.length) this.#makeRoom(bytes.length)
    this.#bytes.set(bytes, this.#end)
    this.#end += bytes.length
  }

  /** All that is there; valid until the next push(). */
  peek(): Uint8Array {
    return this.#bytes.subarray(this.#start, this.#end)
  }

  /**
   * Takes the next bytes.
   * @returns a view that is valid until the next push(); undefined while fewer are there
   */
  take(length: number): Uint8Array | undefined {
    if (length > this.length) return undefined
    const at = this.#start
    this.#start += length
    return this.#bytes.subarray(at, this.#start)
  }

  /** Takes all that is left, as a copy. */
  rest(): Uint8Array {
    const rest = this.peek().slice()
    this.#start = this.#end
    return rest
  }

  #makeRoom(more: number): void {
    const unread = this.peek()
    const needed = unread.length + more
    // With half of it free after moving, moving is paid for by the bytes that came since.
    const bytes = 2 * needed <= this.#bytes.length ? this.#bytes : new Uint8Array(2 * needed)
    bytes.set(unread)
    this.#bytes = bytes
    this.#start = 0
    this.#end = unread.length
  }
}
