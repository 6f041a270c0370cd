// SPDX-License-Identifier: Apache-2.0
// Reads big-endian fields one after the other from bytes that are all there. Used by the naive readers only: reading past
// the end is a RangeError of Buffer.

export class Cursor {
  constructor(
    readonly bytes: Buffer,
    public at = 0,
  ) {}

  u8(): number {
    return this.bytes.readUInt8(this.#over(1))
  }

  u16(): number {
    return this.bytes.readUInt16BE(this.#over(2))
  }

  u32(): number {
    return this.bytes.readUInt32BE(this.#over(4))
  }

  u64(): number {
    return Number(this.bytes.readBigUInt64BE(this.#over(8)))
  }

  take(length: number): Buffer {
    if (this.at + length > this.bytes.length) throw new RangeError(`${length} bytes wanted at ${this.at}`)
    const from = this.#over(length)
    return this.bytes.subarray(from, from + length)
  }

  /** A string behind one byte with its length. */
  counted(): string {
    return this.take(this.u8()).toString()
  }

  #over(length: number): number {
    this.at += length
    return this.at - length
  }
}
