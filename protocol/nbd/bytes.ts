// SPDX-License-Identifier: Apache-2.0
// Big-endian fields of NBD messages. Used by the codecs of this folder.
// Rule: a message is read when all of it is there, so fields that go beyond its end are the sender's mistake.

import { hexDump } from '../error-text.js'
import { PeerError } from '../peer-error.js'
import { limits } from './constants.js'

const HIGH = 2 ** 32

/** "thing: found 1, expected 2", the form of all errors of this folder that compare. */
export function unexpected(thing: string, found: string | number, expected: string | number): PeerError {
  return new PeerError(`${thing}: found ${found}, expected ${expected}`)
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** Bytes of the memory that short messages are cut from. */
const SHEET = 16384

let sheet = new ArrayBuffer(SHEET)
let used = 0

/** Zeroed bytes for a short message, of memory that many share: for each its own would cost more than filling it. */
export function cut(length: number): Uint8Array {
  if (length > SHEET / 16) return new Uint8Array(length)
  if (used + length > SHEET) {
    sheet = new ArrayBuffer(SHEET)
    used = 0
  }
  used += length
  return new Uint8Array(sheet, used - length, length)
}

/** Rounded above 2^53, and never less than that then. */
export function getUint64(view: DataView, at: number): number {
  return view.getUint32(at) * HIGH + view.getUint32(at + 4)
}

/** @param value  a safe integer, >= 0 */
export function setUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / HIGH))
  view.setUint32(at + 4, value % HIGH)
}

/** A message: its fields one after the other. Texts are UTF-8, without their length. */
export function packed(...fields: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(fields.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const field of fields) {
    bytes.set(field, at)
    at += field.length
  }
  return bytes
}

export function u16(...values: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(2 * values.length)
  for (const [index, value] of values.entries()) viewOf(bytes).setUint16(2 * index, value)
  return bytes
}

export function u32(...values: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(4 * values.length)
  for (const [index, value] of values.entries()) viewOf(bytes).setUint32(4 * index, value)
  return bytes
}

export function u64(value: number | bigint): Uint8Array {
  const bytes = new Uint8Array(8)
  viewOf(bytes).setBigUint64(0, BigInt(value))
  return bytes
}

export function utf8(text: string): Uint8Array {
  return new TextEncoder().encode(text)
}

/** A text for people as it may be sent: its first 4096 bytes, and no half a character. */
export function clipped(text: string): Uint8Array {
  const bytes = utf8(text)
  if (bytes.length <= limits.string) return bytes
  let end: number = limits.string
  while (((bytes[end] ?? 0) & 0xc0) === 0x80) end -= 1
  return bytes.subarray(0, end)
}

/** A text behind its length, 32 bits. */
export function counted(text: string): Uint8Array {
  const bytes = utf8(text)
  return packed(u32(bytes.length), bytes)
}

const strict = new TextDecoder('utf-8', { ignoreBOM: true, fatal: true })
const lenient = new TextDecoder('utf-8', { ignoreBOM: true })

/** A text for people, cut to the longest string; what is not UTF-8 is replaced. */
export function readable(bytes: Uint8Array): string {
  return lenient.decode(bytes.subarray(0, limits.string))
}

/** Reads the fields of one message, one after the other. */
export class Fields {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  /** What the message is, for texts of errors. */
  readonly #what: string
  #at = 0

  constructor(bytes: Uint8Array, what: string) {
    this.#bytes = bytes
    this.#view = viewOf(bytes)
    this.#what = what
  }

  get left(): number {
    return this.#bytes.length - this.#at
  }

  u16(): number {
    return this.#view.getUint16(this.#step(2))
  }

  u32(): number {
    return this.#view.getUint32(this.#step(4))
  }

  /** @throws PeerError above 2^53 */
  u64(thing: string): number {
    const at = this.#step(8)
    const value = getUint64(this.#view, at)
    if (Number.isSafeInteger(value)) return value
    throw unexpected(`${thing} of ${this.#what}`, this.#view.getBigUint64(at).toString(), 'less than 2^53')
  }

  /** A view of the next bytes, not a copy. */
  take(length: number): Uint8Array {
    const at = this.#step(length)
    return this.#bytes.subarray(at, at + length)
  }

  /** A string of the protocol: at most 4096 bytes of UTF-8 without NUL. */
  text(length: number, thing: string): string {
    const name = `${thing} of ${this.#what}`
    if (length > limits.string) throw unexpected(name, `${length} bytes`, `at most ${limits.string}`)
    const bytes = this.take(length)
    const text = textOf(bytes)
    if (text === undefined) throw unexpected(name, hexDump(bytes), 'text in UTF-8 without NUL')
    return text
  }

  /** Behind its length, 32 bits. */
  counted(thing: string): string {
    return this.text(this.u32(), thing)
  }

  /** @throws PeerError when bytes are left */
  end(): void {
    if (this.left > 0)
      throw unexpected(this.#what, `${this.#bytes.length} bytes`, `${this.#at} bytes of data`)
  }

  #step(length: number): number {
    if (length > this.left)
      throw unexpected(
        this.#what,
        `${this.#bytes.length} bytes`,
        `at least ${this.#at + length} bytes of data`,
      )
    const at = this.#at
    this.#at += length
    return at
  }
}

/** undefined: not UTF-8, or with NUL. */
function textOf(bytes: Uint8Array): string | undefined {
  if (bytes.includes(0)) return undefined
  try {
    return strict.decode(bytes)
  } catch {
    return undefined
  }
}
